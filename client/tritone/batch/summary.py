"""Progress and results of a batch job."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_WINDOW_S: Final = 60.0  # of the rate


@dataclass(frozen=True)
class BatchProgress:
    """The state of a running job.

    Attributes:
        n_files: files of the job.
        n_done: files with a row, earlier runs included, and those whose row is not written yet.
        n_errors: those of them that failed.
        files_per_s: of the last minute.
        left_s: estimated time left; None at the start.
        hours_done: hours of audio processed in this run.
        concurrency_limit: maximum number of concurrent requests now, which follows the server; 1 while the job yields.
        waiting_for: the error of the server or store that the job waits for; None if both respond.
    """

    n_files: int
    n_done: int
    n_errors: int
    files_per_s: float
    left_s: float | None
    hours_done: float
    concurrency_limit: int
    waiting_for: str | None = None


@dataclass(frozen=True)
class BatchSummary:
    """The outcome of a run.

    Attributes:
        n_files: files of the job.
        n_done: files with a row in a part, earlier runs included.
        n_new: files of this run.
        errors: number of failed files by `error_type`, earlier runs included.
        n_parts: parts that this run wrote.
        elapsed_s: duration of this run.
        files_per_s: of this run.
        hours_done: hours of audio of this run.
        complete: whether every file has a row; False if the run was interrupted.
    """

    n_files: int
    n_done: int
    n_new: int
    errors: Mapping[str, int]
    n_parts: int
    elapsed_s: float
    files_per_s: float
    hours_done: float
    complete: bool

    @property
    def all_failed(self) -> bool:
        """Return whether the job is complete and every file has an error, as with a wrong model."""
        return self.complete and 0 < self.n_files == sum(self.errors.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.__dict__, "errors": dict(self.errors)}


@dataclass
class RateMeter:
    """Files per second over the last minute."""

    started_s: float = field(default_factory=time.monotonic)
    n: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self) -> None:
        """Count a file."""
        self.n += 1
        now_s = time.monotonic()
        if not self._marks or now_s - self._marks[-1][0] >= 0.5:
            self._marks.append((now_s, self.n))
        while len(self._marks) > 2 and now_s - self._marks[0][0] > _WINDOW_S:
            self._marks.popleft()

    def per_s(self) -> float:
        """Return the rate; 0 before the first file."""
        start_s, n_before = self._marks[0] if len(self._marks) > 2 else (self.started_s, 0)
        elapsed_s = time.monotonic() - start_s
        return (self.n - n_before) / elapsed_s if elapsed_s > 0 else 0.0
