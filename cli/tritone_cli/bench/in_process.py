"""Measure the throughput of a model in this process: ONNX Runtime on all cores, without a server.

It runs the same requests as the server, with the best of several session layouts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

BATCHES: Final = (1, 8)
MAX_DRIFT: Final = 0.1  # maximum difference between the measurements before and after on a quiet machine


@dataclass(frozen=True)
class SessionLayout:
    """Distribution of the cores among sessions.

    Attributes:
        n_workers: number of sessions, each called from its own thread.
        n_threads: number of threads of each session.
        n_batch: number of inferences per run.
    """

    n_workers: int
    n_threads: int
    n_batch: int

    def __str__(self) -> str:
        return f"{self.n_workers} sessions of {self.n_threads} threads, batches of {self.n_batch}"


@dataclass(frozen=True)
class InProcessThroughput:
    """Inferences per second in process, before and after the server was measured.

    Attributes:
        layout: the best layout.
        after_per_s: second measurement; None if it was not made yet.
    """

    layout: SessionLayout
    before_per_s: float
    after_per_s: float | None = None

    @property
    def per_s(self) -> float:
        """The mean of both measurements."""
        return self.before_per_s if self.after_per_s is None else (self.before_per_s + self.after_per_s) / 2

    @property
    def is_stable(self) -> bool:
        """Whether both measurements agree."""
        if self.after_per_s is None:
            return True
        low, high = sorted((self.before_per_s, self.after_per_s))
        return high <= low * (1 + MAX_DRIFT)


def session_layouts(max_batch: int, n_cores: int | None = None) -> tuple[SessionLayout, ...]:
    """Return the layouts to try: a session per core or one session on all cores, single inferences and batches."""
    n_cores = n_cores or len(os.sched_getaffinity(0))
    splits = dict.fromkeys(((n_cores, 1), (1, n_cores)))
    return tuple(SessionLayout(n, threads, batch) for n, threads in splits for batch in BATCHES if batch <= max_batch)


def best_layout(
    model: Path, batch: Mapping[str, npt.NDArray[Any]], *, max_batch: int, seconds: float
) -> InProcessThroughput:
    """Try all layouts and return the best; takes `seconds` in all."""
    tried = session_layouts(max_batch)
    measured = {layout: throughput(model, batch, layout, seconds=seconds / len(tried)) for layout in tried}
    best = max(measured, key=lambda layout: measured[layout])
    # The best of several measurements is biased upwards, so it is measured again, as long as after the server.
    return InProcessThroughput(best, throughput(model, batch, best, seconds=seconds))


def throughput(model: Path, batch: Mapping[str, npt.NDArray[Any]], layout: SessionLayout, *, seconds: float) -> float:
    """Return the inferences per second."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = layout.n_threads, 1
    options.log_severity_level = 3
    feeds = _feeds(batch, layout.n_batch)
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(layout.n_workers)
    ]
    for session in sessions:
        session.run(None, feeds[0])
    counts = [0] * layout.n_workers
    deadline_s = time.perf_counter() + seconds

    def work(index: int) -> None:
        while time.perf_counter() < deadline_s:
            sessions[index].run(None, feeds[counts[index] % len(feeds)])
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(layout.n_workers)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * layout.n_batch / (time.perf_counter() - began_s)


def _feeds(batch: Mapping[str, npt.NDArray[Any]], n_batch: int) -> list[dict[str, npt.NDArray[Any]]]:
    n_rows = len(next(iter(batch.values())))
    starts = range(0, n_rows - n_batch + 1, n_batch)
    return [{name: np.ascontiguousarray(array[at : at + n_batch]) for name, array in batch.items()} for at in starts]
