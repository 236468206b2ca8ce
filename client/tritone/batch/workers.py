"""The worker threads of a batch job: they take files from a queue, call the server, and return the rows.

A worker takes as many short recordings at once as fill a request, and calls them as a group. Each file of a group is
decoded by itself, so that one that cannot be used does not affect the others. If the call of a group fails and one of
its files may be the cause, each of them is called by itself, so that only this file gets the error. Files whose
connection was lost are called one at a time in the whole job: if one of them makes the server crash, the others are not
lost with it.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, TypeAlias

from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter
from tritone.batch.failures import FileFailures, Outage, error_text, error_type, retry_pause_s
from tritone.batch.file_calls import FileCaller
from tritone.batch.operations import Row
from tritone.client import MusicClient
from tritone.constants import WINDOW_S
from tritone.exceptions import ClientError, FileAccessError, InvalidAudioError, InvalidInputError
from tritone.model_cache import N_WINDOWS_MAX

_N_DECODING: Final = 2  # groups that are read while requests of others run
_JOIN_S: Final = 2.0  # for threads, of which a running call is not interrupted
_WATCH_S: Final = 0.25
_WATCH_TIMEOUT_S: Final = 5.0
_NEW_SHARE: Final = 1 / 16  # of a recording in the moving average of the lengths

Task: TypeAlias = tuple[str, str]  # the path of a file as text, and the path or URL to open


@dataclass(frozen=True)
class Done:
    """The row of a file, empty if the run ended before; or why there is none (`failure`: an error of this program)."""

    row: Row
    failure: BaseException | None = None


class GroupSize:
    """The number of files whose windows fill one request, from the mean length of the latest recordings."""

    def __init__(self) -> None:
        self._n_windows: float | None = None  # moving average

    def add(self, duration_s: float) -> None:
        """Count a recording."""
        n_windows = max(1, math.ceil(duration_s / WINDOW_S))
        before = n_windows if self._n_windows is None else self._n_windows
        self._n_windows = before + _NEW_SHARE * (n_windows - before)

    def n_files(self, n_rows: int) -> int:
        """Return how many files to call together.

        Args:
            n_rows: windows of a request.
        """
        return 1 if self._n_windows is None else max(1, int(min(n_rows, N_WINDOWS_MAX) / self._n_windows))


class Workers:
    """The threads of a job.

    Attributes:
        done: the outcome of each file.
        no_more_calls: set when no more calls may begin.
    """

    def __init__(
        self,
        music: MusicClient,
        caller: FileCaller,
        *,
        limiter: AdaptiveConcurrencyLimiter,
        outage: Outage,
        concurrency: int,
        detects_others: bool,
    ) -> None:
        """Prepare the threads.

        Args:
            music: the client; its requests go through the limiter.
            caller: makes the calls.
            limiter: knows how many rows a request should have.
            outage: of the server and the store.
            concurrency: requests that may run at once.
            detects_others: whether one more thread tells the limiter how many rows the model has processed, of all
                clients.
        """
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.no_more_calls = threading.Event()
        self._music = music
        self._caller = caller
        self._limiter = limiter
        self._outage = outage
        self._size = GroupSize()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._alone = threading.Lock()  # held by the call of a file that may make the server crash
        self._n_workers = concurrency + _N_DECODING
        self._threads = [
            threading.Thread(target=self._work, name=f"tritone-batch-{n}", daemon=True) for n in range(self._n_workers)
        ]
        if detects_others:
            self._threads.append(threading.Thread(target=self._watch, name="tritone-batch-watch", daemon=True))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Add a file to the queue."""
        self._tasks.put(task)

    def n_wanted(self) -> int:
        """Return the number of files in work or in the queue with which no thread waits for files."""
        return 2 * self._n_workers * self._n_group()

    def discard(self) -> int:
        """Empty the queue, and return the number of files that were in it."""
        n = 0
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                return n
            n += 1

    def end(self) -> None:
        """End the threads and wait for them; calls that run longer than `_JOIN_S` are left behind."""
        self.no_more_calls.set()
        self._limiter.close()
        self.discard()
        for _ in self._threads:
            self._tasks.put(None)
        join_until_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, join_until_s - time.monotonic()))

    # --- in the threads ------------------------------------------------------------------------------

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            group = self._group(task)
            try:
                for row in self._rows_of(group):
                    self.done.put(Done(row))
            except BaseException as error:  # raised again by the calling thread
                self.done.put(Done({}, error))

    def _n_group(self) -> int:
        return (
            1 if self._caller.operation.call_group is None else self._size.n_files(self._limiter.max_rows_per_request())
        )

    def _group(self, first: Task) -> list[Task]:
        """Return a file with others from the queue that are called together with it."""
        group = [first]
        n_files = self._n_group()
        while len(group) < n_files:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is None:
                self._tasks.put(None)  # of another thread
                break
            group.append(task)
        return group

    def _rows_of(self, group: Sequence[Task]) -> list[Row]:
        """Return the row of each file; an empty one if the run ended before."""
        if len(group) == 1:
            return [self._row_of(*group[0])]
        failures = self._failures()
        n_failed = 0
        while not self.no_more_calls.is_set():
            try:
                outcomes = self._caller.call_group(self._music, group, on_read=self._read)
            except ClientError as error:
                action = failures.classify(error)
                if action == "stop" and not self.no_more_calls.is_set():
                    self._outage.stop(error, _stop_reason(error), "no file can succeed")
                    break
                if action != "retry" or failures.n_lost:
                    return [self._row_of(*task, may_crash=failures.n_lost > 0) for task in group]
                self._outage.failed(error)
                n_failed += 1
                self.no_more_calls.wait(retry_pause_s(n_failed))
            else:
                if any(not isinstance(outcome, ClientError) for outcome in outcomes):
                    self._outage.succeeded()
                return [self._row_in_group(*task, outcome) for task, outcome in zip(group, outcomes, strict=True)]
        return [{} for _ in group]

    def _row_in_group(self, path: str, url: str, outcome: Row | ClientError) -> Row:
        if isinstance(outcome, InvalidAudioError):
            return _error_row(path, outcome)
        if isinstance(outcome, ClientError):  # it could not be opened; the store may be unavailable
            return self._row_of(path, url)
        return self._finished_row(path, outcome)

    def _row_of(self, path: str, url: str, *, may_crash: bool = False) -> Row:
        """Return the row of a file that is called by itself; empty if the run ended before.

        Args:
            may_crash: whether a connection with this file was lost.
        """
        failures = self._failures()
        n_failed = 0
        while not self.no_more_calls.is_set():
            try:
                with self._alone if may_crash else nullcontext():
                    values = self._caller.call(self._music, path, url, on_read=self._read)
            except ClientError as error:
                action = "retry_file" if self.no_more_calls.is_set() else failures.classify(error)
                may_crash = may_crash or failures.n_lost > 0
                if action == "record" and not self._caller.may_be_due_to_file(self._music, error):
                    action = "retry"
                if action == "record":
                    return _error_row(path, error)
                if action == "stop":
                    self._outage.stop(error, _stop_reason(error), "no file can succeed")
                    return {}
                if action == "retry":
                    self._outage.failed(error)
                n_failed += 1
            else:
                self._outage.succeeded()
                return self._finished_row(path, values)
            self.no_more_calls.wait(retry_pause_s(n_failed))
        return {}

    def _finished_row(self, path: str, values: Row) -> Row:
        column = self._caller.operation.seconds_column
        if column is not None:
            self._size.add(values[column])
        return {"path": path, **values}

    def _failures(self) -> FileFailures:
        return FileFailures(fixed=("model", *self._caller.arguments))

    def _read(self) -> None:
        self._outage.succeeded(read_only=True)

    def _watch(self) -> None:
        """Tell the limiter how many rows the model has processed, until the run ends."""
        while not self.no_more_calls.wait(_WATCH_S):
            try:
                model = self._music.model_info(self._caller.model, timeout_s=_WATCH_TIMEOUT_S)
            except ClientError:  # the calls of the files report a server that cannot be reached
                continue
            self._limiter.observe_model_rows(model.n_inferences)


def _error_row(path: str, error: ClientError) -> Row:
    return {"path": path, "error": error_text(error), "error_type": error_type(error)}


def _stop_reason(error: ClientError) -> str:
    if isinstance(error, FileAccessError):
        return "storage"
    is_argument = isinstance(error, InvalidInputError) or error.reason == "unsuitable_model"
    return "arguments" if is_argument else "server"
