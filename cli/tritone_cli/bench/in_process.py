"""What the model itself can do: ONNX Runtime in this process, all cores, no server.

The same questions as the server is asked, in the best of a few ways to use the cores.
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
DRIFT: Final = 0.1  # beyond this the machine was not the same before and after


@dataclass(frozen=True)
class Way:
    """One way to use the cores.

    Attributes:
        n_workers: sessions, each with a thread of its own.
        n_threads: of each session.
        n_batch: inferences a run.
    """

    n_workers: int
    n_threads: int
    n_batch: int

    def __str__(self) -> str:
        return f"{self.n_workers} sessions of {self.n_threads} threads, batches of {self.n_batch}"


@dataclass(frozen=True)
class Ceiling:
    """Inferences a second in process, before and after the server was measured.

    Attributes:
        way: the best one, found before.
        after_per_s: None until it is measured.
    """

    way: Way
    before_per_s: float
    after_per_s: float | None = None

    @property
    def per_s(self) -> float:
        """The mean of both, by which the server's throughput is divided."""
        return self.before_per_s if self.after_per_s is None else (self.before_per_s + self.after_per_s) / 2

    @property
    def is_stable(self) -> bool:
        """Whether the machine was the same before and after."""
        if self.after_per_s is None:
            return True
        low, high = sorted((self.before_per_s, self.after_per_s))
        return high <= low * (1 + DRIFT)


def ways(max_batch: int, n_cores: int | None = None) -> tuple[Way, ...]:
    """The ways that are tried: a session per core, or one over all of them; single and in batches."""
    n_cores = n_cores or len(os.sched_getaffinity(0))
    splits = dict.fromkeys(((n_cores, 1), (1, n_cores)))
    return tuple(Way(n, threads, batch) for n, threads in splits for batch in BATCHES if batch <= max_batch)


def best_way(model: Path, batch: Mapping[str, npt.NDArray[Any]], *, max_batch: int, seconds: float) -> Ceiling:
    """Try all ways and keep the best; takes `seconds` in all."""
    tried = ways(max_batch)
    figures = {way: throughput(model, batch, way, seconds=seconds / len(tried)) for way in tried}
    best = max(figures, key=lambda way: figures[way])
    # Once more, as long as it will be measured afterwards: the best of several is lucky.
    return Ceiling(best, throughput(model, batch, best, seconds=seconds))


def throughput(model: Path, batch: Mapping[str, npt.NDArray[Any]], way: Way, *, seconds: float) -> float:
    """Inferences a second."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = way.n_threads, 1
    options.log_severity_level = 3
    feeds = _feeds(batch, way.n_batch)
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(way.n_workers)
    ]
    for session in sessions:
        session.run(None, feeds[0])
    counts = [0] * way.n_workers
    deadline_s = time.perf_counter() + seconds

    def work(place: int) -> None:
        while time.perf_counter() < deadline_s:
            sessions[place].run(None, feeds[counts[place] % len(feeds)])
            counts[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(way.n_workers)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * way.n_batch / (time.perf_counter() - began_s)


def _feeds(batch: Mapping[str, npt.NDArray[Any]], n_batch: int) -> list[dict[str, npt.NDArray[Any]]]:
    n_rows = len(next(iter(batch.values())))
    starts = range(0, n_rows - n_batch + 1, n_batch)
    return [{name: np.ascontiguousarray(array[at : at + n_batch]) for name, array in batch.items()} for at in starts]
