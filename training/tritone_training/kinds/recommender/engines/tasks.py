"""One task of an engine as it runs on a worker: one thread, its error as a value, and what it used."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class TaskResult(Generic[R]):
    """The result of a task and what it used.

    Attributes:
        value: what the task returned; None if it failed.
        error: what it raised.
        cpu_s: CPU time.
        worker: host and process.
        peak_bytes: largest resident memory of that process so far, pages shared with others included.
    """

    value: R
    error: Exception | None
    cpu_s: float
    worker: str
    peak_bytes: int


def run_task(task: Callable[..., R], part: Any, *shared: Any) -> TaskResult[R | None]:
    """Run a task on a part and shared values.

    The result is computed by one thread, since sums by several are rounded differently from one computer to the next.
    An error of the task is returned, because engines repeat what fails, and the same part would fail again.
    """
    began_s = time.process_time()
    value, error = None, None
    try:
        with one_thread():
            value = task(part, *shared)
    except Exception as raised:  # returned, and raised by the engine in the driver
        error = _portable(raised)
    return TaskResult(value, error, time.process_time() - began_s, f"{os.uname().nodename}:{os.getpid()}", peak_bytes())


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the libraries of linear algebra, and PyTorch if it is loaded, to one thread."""
    torch: Any = sys.modules.get("torch")
    n_before = torch.get_num_threads() if torch is not None else 1
    with threadpool_limits(limits=1):
        if n_before != 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if n_before != 1:
                torch.set_num_threads(n_before)


def peak_bytes(process: int | None = None) -> int:
    """Return the largest resident memory of a process so far, by default of this one; 0 if /proc does not tell."""
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    # Not ru_maxrss: a forked process inherits the value of its parent.
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def pickled_bytes(value: object) -> int:
    """Return the size of a value as engines transport it, without copying its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    head = len(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    return head + sum(buffer.raw().nbytes for buffer in buffers)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # built from its arguments, as when it is unpickled
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
