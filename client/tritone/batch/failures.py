"""Which errors are results of a file, which are tried again, and which stop a job."""

from __future__ import annotations

import threading
import time
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

MAX_FILE_FAILURES: Final = 3  # calls of one file that failed although the server answers other requests
MAX_LOST: Final = 4  # connections that one file may cost: its request may crash the server
# Reasons of a FileAccessError that are about one file; all others are about the store.
_FILE_REASONS: Final = frozenset({"missing", "access_denied", "unreadable", "is_folder", "invalid_url", "other"})

Kind = Literal["row", "again", "stop", "counted"]
# In order: some of the classes are subclasses of others. "counted" is tried again up to MAX_FILE_FAILURES times.
_KIND_OF_CLASSES: Final[
    tuple[tuple[tuple[type[ClientError], ...], Literal["row", "again", "stop", "counted"]], ...]
] = (
    ((InvalidAudioError, InvalidScoreError, RequestRejectedError), "row"),
    ((AccessDeniedError,), "stop"),
    ((ServerBusyError, ModelNotFoundError, VersionChangedError), "again"),
    ((RequestTimeoutError, ServerError), "counted"),
    ((InvalidInputError,), "row"),
)


@dataclass
class FileFailures:
    """The failures of one file so far."""

    n: int = 0
    n_lost: int = 0

    def judge(self, error: ClientError) -> Kind:
        """Return what to do after an error: `row` (of the file), `again` (call again) or `stop` (the job)."""
        self.n_lost += error.n_lost
        if isinstance(error, FileAccessError):
            return "again" if error.retryable else "row" if error.reason in _FILE_REASONS else "stop"
        if isinstance(error, ConnectionFailedError):
            return "row" if self.n_lost >= MAX_LOST else "again"
        kind: Kind = next((kind for classes, kind in _KIND_OF_CLASSES if isinstance(error, classes)), "stop")
        if kind == "counted":
            self.n += 1
            return "row" if self.n >= MAX_FILE_FAILURES else "again"
        return kind


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


@dataclass
class Outage:
    """Measures how long nothing has succeeded; thread-safe.

    Attributes:
        retry_s: longest time before the job stops.
        stopped_by: why the job stops; None while it goes on.
    """

    retry_s: float
    stopped_by: BatchError | None = None
    _since_s: dict[str, float] = field(default_factory=dict)
    _last: dict[str, ClientError] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def succeeded(self, *, read_only: bool = False) -> None:
        """Note that a file was read, or that a whole call succeeded."""
        if not self._since_s:
            return
        with self._lock:
            for what in ("storage",) if read_only else ("storage", "server"):
                self._since_s.pop(what, None)
                self._last.pop(what, None)

    def failed(self, error: ClientError) -> None:
        """Note a failure that is tried again; sets `stopped_by` if there were no others for too long."""
        what = "storage" if isinstance(error, FileAccessError) else "server"
        now_s = time.monotonic()
        with self._lock:
            since_s = self._since_s.setdefault(what, now_s)
            self._last[what] = error
        if now_s - since_s >= self.retry_s:
            self.stop(error, what, f"nothing succeeded for {now_s - since_s:.0f} s")

    def stop(self, error: ClientError, what: str, why: str) -> None:
        """Stop the job because of an error."""
        with self._lock:
            if self.stopped_by is None:
                self.stopped_by = BatchError(
                    f"the job stopped: {why}: {error}; finished parts are kept, and --resume goes on",
                    reason=what,
                )
                self.stopped_by.__cause__ = error

    def waiting_for(self) -> str | None:
        """Return the error that keeps the job from going on at the moment; None if it goes on."""
        with self._lock:
            return next((str(error) for error in self._last.values()), None)
