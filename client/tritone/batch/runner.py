"""Run a batch job: worker threads call the server, and the calling thread collects their rows and writes parts."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter, LimitedTransport
from tritone.batch.failures import FileFailures, Outage, retry_pause_s
from tritone.batch.file_calls import FileCaller
from tritone.batch.file_list import FileList
from tritone.batch.jobs import JobRecord, prepare_job
from tritone.batch.operations import OPERATIONS, Row
from tritone.batch.options import BatchOptions
from tritone.batch.parts import MAX_PART_BYTES, PartNames, PartWriter
from tritone.batch.summary import BatchProgress, BatchSummary, RateMeter
from tritone.batch.workers import Workers
from tritone.client import MusicClient
from tritone.exceptions import ClientError, FileAccessError, ModelNotFoundError
from tritone.remote_files import is_remote
from tritone.temporary_folders import temporary_folder

_FIRST_RETRY_S: Final = 30.0  # shorter limit before the first response: the address may be wrong
_FIRST_PART_S: Final = 5.0
_DRAIN_S: Final = 20.0  # longest wait for running calls after a stop
_POLL_S: Final = 0.2
_PROGRESS_S: Final = 0.5

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
    with temporary_folder("tritone-batch-") as folder, record.locked(), contextlib.closing(FileList()) as files:
        number, errors = prepare_job(options, record, files, folder)
        writer = PartWriter(names, OPERATIONS[options.operation].all_columns, folder, number)
        run = _Run(music, options, files=files, writer=writer, errors=errors, stop=stop, on_progress=on_progress)
        return run.run()


def _can_detect_others(music: MusicClient, options: BatchOptions) -> bool:
    """Return whether the server's count of rows can show that other clients use the model."""
    return (
        options.yield_to_others
        and options.priority == "batch"
        and music.n_servers == 1
        and options.shard[1] == 1  # rows of other shards are not distinguished from those of other clients
        # One row for each window; other operations have rows for candidates.
        and OPERATIONS[options.operation].reads == "recordings"
    )


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
        self._start = Outage(min(_FIRST_RETRY_S, options.outage_timeout_s))  # of the server before the first call
        self._outage = Outage(options.outage_timeout_s)
        self._output = Outage(options.outage_timeout_s)  # of the parts
        self._workers = Workers(
            self._music,
            FileCaller(
                operation=self._operation,
                model=options.model_name,
                timeout_s=options.timeout_s,
                arguments=options.arguments,
                max_duration_s=options.max_duration_s,
            ),
            limiter=self._limiter,
            outage=self._outage,
            concurrency=options.concurrency,
            detects_others=_can_detect_others(music, options),
        )
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
        for n_failed in itertools.count(1):
            try:
                if self._music.model_ready(self._options.model_name):
                    self._start.succeeded()
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
                self._start.failed(error)
            if self._start.stopped_by is not None:
                raise self._start.stopped_by
            self._report(now=True)
            if self._stop.wait(retry_pause_s(n_failed)):
                return

    def _process(self) -> None:
        self._workers.start()
        try:
            self._collect_all()
        except BaseException:
            self._workers.end()
            self._keep_rows()  # with those of the calls that were running
            raise
        self._workers.end()

    def _keep_rows(self) -> None:
        """Write the rows that are complete after a failure; one attempt, and none if the output has failed."""
        if self._output.stopped_by is not None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                row = self._workers.done.get_nowait().row
                if row:
                    self._add(row)
        with contextlib.suppress(ClientError):
            self._writer.write()

    def _collect_all(self) -> None:
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
                self._workers.no_more_calls.set()
                n_open -= self._workers.discard()
            n_wanted = self._workers.n_wanted()
            while more and drain_until_s is None and n_open < n_wanted:
                task = next(pending, None)
                more = task is not None
                if task is not None:
                    n_open += 1
                    self._workers.put(task)
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
        self._report(now=True)

    def _collect(self) -> int:
        """Add finished rows to the part, and return their number."""
        n = 0
        try:
            done = self._workers.done.get(timeout=_POLL_S)
            while True:
                n += 1
                if done.failure is not None:
                    raise done.failure
                if done.row:
                    self._add(done.row)
                if self._writer.n_rows >= self._options.rows_per_part:
                    return n
                done = self._workers.done.get_nowait()
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

    def _report(self, *, now: bool = False) -> None:
        if self._on_progress is None:
            return
        now_s = time.monotonic()
        if not now and now_s - self._reported_s < _PROGRESS_S:
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
                concurrency_limit=self._limiter.limit,
                waiting_for=next(
                    filter(None, (each.waiting_for() for each in (self._start, self._outage, self._output))), None
                ),
            )
        )
