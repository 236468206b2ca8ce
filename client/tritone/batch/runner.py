"""Run a batch job: threads read files and call the server, the calling thread collects rows and writes parts."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter, LimitedTransport
from tritone.batch.failures import FileFailures, Outage, error_text, error_type, retry_pause_s
from tritone.batch.file_calls import FileCaller
from tritone.batch.file_list import FileList
from tritone.batch.jobs import JobRecord, prepare_job
from tritone.batch.operations import OPERATIONS, Row
from tritone.batch.options import BatchOptions
from tritone.batch.parts import MAX_PART_BYTES, PartNames, PartWriter
from tritone.batch.summary import BatchProgress, BatchSummary, RateMeter
from tritone.client import MusicClient
from tritone.exceptions import ClientError, FileAccessError, InvalidInputError, ModelNotFoundError, RequestTimeoutError
from tritone.remote_files import is_remote

_N_DECODING: Final = 2  # files that are read while requests of others run
_FIRST_RETRY_S: Final = 30.0  # shorter limit before the first response: the address may be wrong
_JOIN_S: Final = 2.0  # for threads, of which a running call is not interrupted
_FIRST_PART_S: Final = 5.0
_DRAIN_S: Final = 20.0  # longest wait for running calls after a stop
_POLL_S: Final = 0.2
_PROGRESS_S: Final = 0.5
_WATCH_S: Final = 0.25
_WATCH_TIMEOUT_S: Final = 5.0

OnProgress = Callable[[BatchProgress], None]


def run_batch(
    music: MusicClient,
    options: BatchOptions,
    *,
    stop: threading.Event | None = None,
    on_progress: OnProgress | None = None,
) -> BatchSummary:
    """Run a job until every file has a row, or until `stop` is set.

    Args:
        music: a client for one or several servers; left open.
        options: the job.
        stop: ends the run: running calls are completed (at most 20 s), and the rows are written as a part.
        on_progress: called about twice a second.

    Raises:
        InvalidInputError: an option or the manifest is invalid.
        BatchError: the job cannot start, or stopped; rows so far are in parts, and a run with `resume` continues it.
        FileAccessError: the source or the output cannot be read or written at the start.
        ModelNotFoundError, AccessDeniedError: the server has no such model, or refuses the key.
        MissingExtraError: a package of the extra `batch` is not installed.
    """
    names = PartNames(options.out, options.shard)
    record = JobRecord.of(options, names)
    stop = threading.Event() if stop is None else stop
    with tempfile.TemporaryDirectory(prefix="tritone-batch-") as temporary, record.locked():
        folder = Path(temporary)
        with contextlib.closing(FileList()) as files:
            number, errors = prepare_job(options, record, files, folder)
            writer = PartWriter(names, OPERATIONS[options.operation].all_columns, folder, number)
            run = _Run(music, options, files=files, writer=writer, errors=errors, stop=stop, on_progress=on_progress)
            return run.run()


@dataclass(frozen=True)
class _Done:
    """The row of a file, or why there is none (`failure`: an error of this program)."""

    row: Row
    failure: BaseException | None = None


class _Run:
    """One run of a job."""

    def __init__(
        self,
        music: MusicClient,
        options: BatchOptions,
        *,
        files: FileList,
        writer: PartWriter,
        errors: Counter[str],
        stop: threading.Event,
        on_progress: OnProgress | None,
    ) -> None:
        self._options = options
        self._operation = OPERATIONS[options.operation]
        self._caller = FileCaller(
            operation=self._operation,
            model=options.model_name,
            timeout_s=options.timeout_s,
            arguments=options.arguments,
            max_duration_s=options.max_duration_s,
        )
        self._limiter = AdaptiveConcurrencyLimiter(options.concurrency)
        self._music = music.with_priority(options.priority).with_transport(
            lambda transport: LimitedTransport(transport, self._limiter)
        )
        self._files = files
        self._writer = writer
        self._errors = errors
        self._stop = stop
        self._on_progress = on_progress
        self._n_before = files.n_done()
        self._outage = Outage(options.retry_s)
        self._output = Outage(options.retry_s)  # of the parts
        self._ended = threading.Event()  # no more calls begin
        self._tasks: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._results: queue.Queue[_Done] = queue.Queue()
        self._n_written = 0
        self._reported_s = 0.0
        self._audio_s = 0.0
        self._rate = RateMeter()

    def run(self) -> BatchSummary:
        """Process all pending files."""
        began_s = time.monotonic()
        if self._n_before < self._files.n_files:
            self._check_model()
            self._process()
        elapsed_s = time.monotonic() - began_s
        summary = BatchSummary(
            n_files=self._files.n_files,
            n_done=self._n_before + self._n_written,
            n_new=self._n_written,
            errors=dict(sorted(self._errors.items())),
            n_parts=self._writer.n_parts,
            elapsed_s=elapsed_s,
            files_per_s=self._n_written / elapsed_s if elapsed_s > 0 else 0.0,
            hours_done=self._audio_s / 3_600,
            complete=self._n_before + self._n_written == self._files.n_files,
        )
        if self._outage.stopped_by is not None and not summary.complete:
            raise self._outage.stopped_by
        return summary

    def _check_model(self) -> None:
        """Look the model up, before any file is read; waits for a server that cannot be reached."""
        failures = FileFailures()
        outage = Outage(min(_FIRST_RETRY_S, self._options.retry_s))
        for n_failed in range(1, 1_000_000):
            try:
                if self._music.model_ready(self._options.model_name):
                    return
                raise ModelNotFoundError(
                    f"model {self._options.model_name!r} is not ready on the server; load it, or give another --model",
                    model=self._options.model_name,
                )
            except ModelNotFoundError:
                raise
            except ClientError as error:
                if failures.classify(error) not in ("retry", "retry_file"):
                    raise
                outage.failed(error)
            if outage.stopped_by is not None:
                raise outage.stopped_by
            self._report()
            if self._stop.wait(retry_pause_s(n_failed)):
                return
        raise AssertionError("unreachable: an outage ends the loop")

    def _process(self) -> None:
        n_workers = self._options.concurrency + _N_DECODING
        workers = [
            threading.Thread(target=self._serve, name=f"tritone-batch-{n}", daemon=True) for n in range(n_workers)
        ]
        for worker in workers:
            worker.start()
        is_counted = self._operation.reads == "recordings"  # one row for each window; others have rows for candidates
        if is_counted and self._options.priority == "batch" and self._music.n_servers == 1:
            watcher = threading.Thread(target=self._watch_others, name="tritone-batch-watch", daemon=True)
            watcher.start()
            workers.append(watcher)  # it is joined with the others
        try:
            self._collect_all(n_workers)
        except BaseException:
            self._end(workers)
            self._keep_rows()  # with those of the calls that were running
            raise
        finally:
            self._end(workers)

    def _end(self, workers: Sequence[threading.Thread]) -> None:
        """End the threads and wait for them; calls that run longer than `_JOIN_S` are left behind."""
        self._ended.set()
        self._limiter.close()
        self._discard_tasks()
        for _ in workers:
            self._tasks.put(None)
        join_until_s = time.monotonic() + _JOIN_S
        for worker in workers:
            worker.join(max(0.0, join_until_s - time.monotonic()))

    def _keep_rows(self) -> None:
        """Write the rows that are complete after a failure; one attempt, and none if the output has failed."""
        if self._output.stopped_by is not None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                row = self._results.get_nowait().row
                if row:
                    self._add(row)
        with contextlib.suppress(ClientError):
            self._writer.write()

    def _collect_all(self, n_workers: int) -> None:
        """Distribute the files to the worker threads, and write their rows, until all are done or the job stops."""
        pending = self._files.pending()
        n_open = 0
        part_s = min(_FIRST_PART_S, self._options.part_s)
        wrote_s = time.monotonic()
        drain_until_s: float | None = None
        more = True
        while True:
            if drain_until_s is None and (self._stop.is_set() or self._outage.stopped_by is not None):
                drain_until_s = time.monotonic() + _DRAIN_S
                self._ended.set()
                n_open -= self._discard_tasks()
            while more and drain_until_s is None and n_open < 2 * n_workers:
                task = next(pending, None)
                more = task is not None
                if task is not None:
                    n_open += 1
                    self._tasks.put(task)
            if not n_open or (drain_until_s is not None and time.monotonic() > drain_until_s):
                break
            n_open -= self._collect()
            is_full = self._writer.n_rows >= self._options.rows_per_part or self._writer.n_bytes >= MAX_PART_BYTES
            if is_full or (self._writer.n_rows and time.monotonic() - wrote_s >= part_s):
                self._write()
                wrote_s = time.monotonic()
                part_s = min(2 * part_s, self._options.part_s)
            self._report()
        self._write()
        self._report(last=True)

    def _discard_tasks(self) -> int:
        n = 0
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                return n
            n += 1

    def _collect(self) -> int:
        """Add finished rows to the part, and return their number."""
        n = 0
        try:
            done = self._results.get(timeout=_POLL_S)
            while True:
                n += 1
                if done.failure is not None:
                    raise done.failure
                if done.row:
                    self._add(done.row)
                if self._writer.n_rows >= self._options.rows_per_part:
                    return n
                done = self._results.get_nowait()
        except queue.Empty:
            return n

    def _add(self, row: Row) -> None:
        self._writer.add(row)
        self._rate.add()
        if row.get("error_type"):
            self._errors[row["error_type"]] += 1
        if self._operation.seconds_column is not None:
            self._audio_s += row.get(self._operation.seconds_column) or 0.0

    def _write(self) -> None:
        """Write the part; while the output is not available, wait and try again, for a short time after a stop.

        Raises:
            BatchError: it cannot be written.
        """
        n_rows = self._writer.n_rows
        n_failed = 0
        stopped_s: float | None = None
        while True:
            try:
                self._writer.write()
                break
            except FileAccessError as error:
                n_failed += 1
                if self._stop.is_set() and stopped_s is None:
                    stopped_s = time.monotonic()
                if error.retryable and (stopped_s is None or time.monotonic() - stopped_s < _DRAIN_S):
                    self._output.failed(error)
                elif error.reason == "exists" and is_remote(error.url):
                    self._output.stop(error, "running", "another process writes the same parts")
                else:
                    self._output.stop(error, "storage", "the output cannot be written")
                if self._output.stopped_by is not None:
                    raise self._output.stopped_by from error
                self._report()
                if stopped_s is None:
                    self._stop.wait(retry_pause_s(n_failed))
                else:
                    time.sleep(_POLL_S)
        self._output.succeeded()
        self._n_written += n_rows

    def _report(self, *, last: bool = False) -> None:
        if self._on_progress is None:
            return
        now_s = time.monotonic()
        if not last and now_s - self._reported_s < _PROGRESS_S:
            return
        self._reported_s = now_s
        n_done = self._n_before + self._rate.n
        per_s = self._rate.per_s()
        self._on_progress(
            BatchProgress(
                n_files=self._files.n_files,
                n_done=n_done,
                n_errors=sum(self._errors.values()),
                files_per_s=per_s,
                left_s=(self._files.n_files - n_done) / per_s if per_s > 0 else None,
                hours_done=self._audio_s / 3_600,
                in_flight=self._limiter.limit,
                waiting_for=self._outage.waiting_for() or self._output.waiting_for(),
            )
        )

    # --- in the worker threads ---------------------------------------------------------------------

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                done = _Done(self._row_of(*task))
            except BaseException as error:  # raised again by the calling thread
                done = _Done({}, error)
            self._results.put(done)

    def _watch_others(self) -> None:
        """Tell the limiter how many rows the model has processed, until the run ends."""
        while not self._ended.wait(_WATCH_S):
            try:
                models = self._music.models(timeout_s=_WATCH_TIMEOUT_S)
            except ClientError:  # the calls of the files report a server that cannot be reached
                continue
            for model in models:
                if model.name == self._options.model_name:
                    self._limiter.count(model.n_inferences)

    def _row_of(self, path: str, url: str) -> Row:
        """Return the row of a file; empty if the run ended before it was done."""
        failures = FileFailures(fixed=("model", *self._options.arguments))
        n_failed = 0
        while not self._ended.is_set():
            try:
                values = self._caller.call(
                    self._music, path, url, on_read=lambda: self._outage.succeeded(read_only=True)
                )
            except ClientError as error:
                action = "retry_file" if self._ended.is_set() else failures.classify(error)
                if action == "record" and isinstance(error, RequestTimeoutError):
                    action = "record" if self._caller.server_responds(self._music) else "retry"
                if action == "record":
                    return {"path": path, "error": error_text(error), "error_type": error_type(error)}
                if action == "stop":
                    self._outage.stop(error, _stop_reason(error), "no file can succeed")
                    return {}
                if action == "retry":
                    self._outage.failed(error)
                n_failed += 1
            else:
                self._outage.succeeded()
                return {"path": path, **values}
            self._ended.wait(retry_pause_s(n_failed))
        return {}


def _stop_reason(error: ClientError) -> str:
    if isinstance(error, FileAccessError):
        return "storage"
    is_argument = isinstance(error, InvalidInputError) or error.reason == "unsuitable_model"
    return "arguments" if is_argument else "server"
