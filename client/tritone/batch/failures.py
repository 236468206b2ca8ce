"""Error handling of jobs: which errors become rows, which calls are repeated, and which errors stop a job."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, Literal

from tritone.exceptions import (
    AccessDeniedError,
    BatchError,
    ClientError,
    ConnectionFailedError,
    FileAccessError,
    InvalidAudioError,
    InvalidInputError,
    InvalidScoreError,
    ModelNotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    VersionChangedError,
)

MAX_FILE_FAILURES: Final = 3  # calls of one file that time out, or end with an error of the server or the store
MAX_LOST: Final = 4  # lost connections per file before it is recorded as failed (its request may crash the server)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0  # between calls of a file
_MAX_MESSAGE: Final = 2_000  # characters of the column `error`
# Reasons of a FileAccessError that are about one file; of the others, those that are retryable may be.
_FILE_REASONS: Final = frozenset({"missing", "access_denied", "unreadable", "is_folder", "invalid_url", "other"})

Action = Literal["record", "retry", "retry_file", "stop"]
# In order: some of the classes are subclasses of others.
_ACTION_OF_CLASSES: Final[tuple[tuple[tuple[type[ClientError], ...], Action], ...]] = (
    ((InvalidAudioError, InvalidScoreError, RequestRejectedError), "record"),
    ((AccessDeniedError,), "stop"),
    ((ServerBusyError, ModelNotFoundError, VersionChangedError), "retry"),
    ((RequestTimeoutError, ServerError), "retry_file"),
    ((InvalidInputError,), "record"),
)


@dataclass
class FileFailures:
    """The failures of one file so far.

    Attributes:
        fixed: names of the arguments that are equal for all files. An error about one of them is not about the file.
    """

    fixed: Container[str] = ()
    n: int = 0
    n_lost: int = 0
    n_storage: int = 0

    def classify(self, error: ClientError) -> Action:
        """Return the action after an error.

        Returns:
            `record` (write an error row, unless `FileCaller.may_be_due_to_file` is false), `retry` (the server or the
            store is not available: call again until it is), `retry_file` (call again, up to `MAX_FILE_FAILURES` calls:
            the file may be the cause), or `stop` (no file can succeed).
        """
        self.n_lost += error.n_lost
        if isinstance(error, FileAccessError):
            self.n_storage += error.retryable
            if error.retryable:
                return "record" if self.n_storage >= MAX_FILE_FAILURES else "retry"
            return "record" if error.reason in _FILE_REASONS else "stop"
        if isinstance(error, ConnectionFailedError):
            return "record" if self.n_lost >= MAX_LOST else "retry"
        if self._is_about_all_files(error):
            return "stop"
        by_class = (action for classes, action in _ACTION_OF_CLASSES if isinstance(error, classes))
        action: Action = next(by_class, "stop")
        if action == "retry_file":
            self.n += 1
            return "record" if self.n >= MAX_FILE_FAILURES else "retry_file"
        return action

    def _is_about_all_files(self, error: ClientError) -> bool:
        """Return whether the model does something else, or an argument is invalid that is the same for all files.

        `too_long` is an exception: how long new bars are depends on the meter of the score.
        """
        if isinstance(error, InvalidInputError) and not isinstance(error, InvalidAudioError | InvalidScoreError):
            return error.argument is not None and error.argument in self.fixed and error.reason != "too_long"
        return isinstance(error, ServerError) and error.reason == "unsuitable_model"


def error_type(error: ClientError) -> str:
    """Return a stable word for the column `error_type`.

    It is the `reason` of errors about files (`missing`, `unreadable`, `empty`, `too_short`, `silent`, `too_long` and
    others), `rejected`, `timeout`, `connection_lost` or `server_error`.
    """
    if isinstance(error, FileAccessError | InvalidAudioError | InvalidScoreError):
        return error.reason
    if isinstance(error, RequestRejectedError | InvalidInputError):
        return "rejected"
    if isinstance(error, RequestTimeoutError):
        return "timeout"
    return "connection_lost" if isinstance(error, ConnectionFailedError) else "server_error"


def error_text(error: ClientError) -> str:
    """Return the message of an error as text that Parquet and JSON can hold."""
    return str(error)[:_MAX_MESSAGE].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def retry_pause_s(n_failed: int) -> float:
    """Return the seconds to wait after a number of failures in a row: 0.5 s and more, up to 15 s, with jitter."""
    longest_s: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(n_failed - 1, 10))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


_CALL: Final = {"server": "call", "storage": "access to storage"}


@dataclass
class Outage:
    """Measures how long the server or the store has been unavailable; thread-safe.

    Attributes:
        outage_timeout_s: longest time before the job stops.
        stopped_by: why the job stops; None while it runs.
    """

    outage_timeout_s: float
    stopped_by: BatchError | None = None
    _since_s: dict[str, float] = field(default_factory=dict)
    _last: dict[str, ClientError] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def succeeded(self, *, read_only: bool = False) -> None:
        """Record that a file was read, or that a whole call succeeded."""
        if not self._since_s:
            return
        with self._lock:
            for what in ("storage",) if read_only else ("storage", "server"):
                self._since_s.pop(what, None)
                self._last.pop(what, None)

    def failed(self, error: ClientError) -> None:
        """Record a failure whose call is repeated; sets `stopped_by` after `outage_timeout_s` without a success."""
        what = "storage" if isinstance(error, FileAccessError) else "server"
        now_s = time.monotonic()
        with self._lock:
            since_s = self._since_s.setdefault(what, now_s)
            self._last[what] = error
        if now_s - since_s >= self.outage_timeout_s:
            self.stop(error, what, f"no successful {_CALL[what]} for {now_s - since_s:.0f} s")

    def stop(self, error: ClientError, what: str, why: str) -> None:
        """Stop the job because of an error."""
        with self._lock:
            if self.stopped_by is None:
                then = "correct the command" if what == "arguments" else "run again with --resume"
                self.stopped_by = BatchError(
                    f"batch job stopped: {why} (last error: {error}). Completed parts are kept; {then}",
                    reason=what,
                )
                self.stopped_by.__cause__ = error

    def waiting_for(self) -> str | None:
        """Return the last error of the server or the store that is unavailable now; None if both are available."""
        with self._lock:
            return next((str(error) for error in self._last.values()), None)
