"""Run a batch job: threads read files and call the server, the calling thread collects rows and writes parts."""

from __future__ import annotations

import os
import queue
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone.batch.failures import FileFailures, Outage, error_type
from tritone.batch.jobs import JobRecord
from tritone.batch.operations import OPERATIONS, FileCall, Opened, Row
from tritone.batch.options import BatchOptions
from tritone.batch.pace import Pace, PacedTransport
from tritone.batch.parts import MAX_PART_BYTES, PartNames, PartWriter, iter_done
from tritone.batch.sources import iter_paths
from tritone.batch.summary import BatchProgress, BatchSummary, RateMeter
from tritone.batch.work import WorkList
from tritone.client import MusicClient
from tritone.exceptions import BatchError, ClientError, FileAccessError, InvalidAudioError, ModelNotFoundError
from tritone.remote_files import is_remote, local_path, open_file

_N_DECODING: Final = 2  # files that are read while requests of others run
_FIRST_RETRY_S: Final = 30.0  # patience with a server that has not answered yet: its address may be wrong
_FIRST_PART_S: Final = 5.0
_DRAIN_S: Final = 20.0  # longest wait for running calls after a stop
_POLL_S: Final = 0.2
_PROGRESS_S: Final = 0.5
_WATCH_S: Final = 0.25
_WATCH_TIMEOUT_S: Final = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0  # between calls of a file
_MAX_ERROR: Final = 2_000  # characters

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
        stop: ends the run: files in work are finished for at most 20 s, and the rows are written as a part.
        on_progress: called about twice a second.

    Raises:
        InvalidInputError: an option or the manifest is invalid.
        BatchError: the job cannot start, or stopped; rows so far are in parts, and a run with `resume` goes on.
        FileAccessError: the source or the output cannot be read or written at the start.
        ModelNotFoundError, AccessDeniedError: the server has no such model, or refuses the key.
        MissingExtraError: a package of the extra `batch` is not installed.
    """
    names = PartNames(options.out, options.shard)
    record = JobRecord.of(options, names)
    stop = threading.Event() if stop is None else stop
    with tempfile.TemporaryDirectory(prefix="tritone-batch-") as temporary, record.locked():
        folder = Path(temporary)
        work = WorkList()
        try:
            numbers, errors = _prepare(options, record, work, folder)
            writer = PartWriter(names, OPERATIONS[options.operation].all_columns, folder, names.first_free(numbers))
            run = _Run(music, options, work=work, writer=writer, errors=errors, stop=stop, on_progress=on_progress)
            return run.run()
        finally:
            work.close()


def _prepare(options: BatchOptions, record: JobRecord, work: WorkList, folder: Path) -> tuple[list[int], Counter[str]]:
    """Fill the list of files, and mark those that finished parts contain.

    Returns:
        (numbers of the finished parts, number of failed files in them by error type).
    """
    names = record.names
    files = names.files()
    numbers = names.numbers(files)
    is_recorded = record.exists(files)
    if (numbers or is_recorded) and not options.resume:
        raise BatchError(
            f"{names.folder}: has parts or the record of an earlier job: expected none; continue it with --resume, or "
            f"give another --out",
            reason="not_resumed",
        )
    if numbers and not is_recorded:
        raise BatchError(
            f"{names.url(numbers[0])}: expected the record {record.url} beside the parts, got none; give another --out",
            reason="other_job",
        )
    names.remove_unfinished(files)
    if is_recorded:
        record.load(work)
    else:
        own = _own_files(names)
        work.add((path for path in iter_paths(options.source) if not own(path)), options.shard)
        record.write(work)
    errors: Counter[str] = Counter()

    def done_paths() -> Iterator[str]:
        for path, kind in iter_done(names, numbers, folder):
            if kind:
                errors[kind] += 1
            yield path

    n_other, example = work.mark_done(done_paths())
    if n_other:
        raise BatchError(
            f"{names.folder}: {n_other} rows of the parts are repeated or not files of the job, such as {example}: "
            f"expected each file of {record.list_url} at most once; give another --out",
            reason="damaged",
        )
    return numbers, errors


def _own_files(names: PartNames) -> Callable[[str], bool]:
    """Return whether a path is the record of a job with this output, which may be in the folder of the recordings."""
    if is_remote(names.folder):
        start = names.beside(names.base)
        return lambda path: path.startswith(start) and path.endswith((".job.json", ".files.jsonl.gz", ".parquet"))
    folder = local_path(names.folder).absolute()

    def own(path: str) -> bool:
        if is_remote(path) or not path.endswith((".job.json", ".files.jsonl.gz", ".parquet")):
            return False
        found = local_path(path).absolute()
        return found.parent == folder and found.name.startswith(names.base)

    return own


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
        work: WorkList,
        writer: PartWriter,
        errors: Counter[str],
        stop: threading.Event,
        on_progress: OnProgress | None,
    ) -> None:
        self._options = options
        self._operation = OPERATIONS[options.operation]
        self._pace = Pace(options.concurrency)
        self._music = music.with_priority(options.priority).with_transport(
            lambda transport: PacedTransport(transport, self._pace)
        )
        self._work = work
        self._writer = writer
        self._errors = errors
        self._stop = stop
        self._on_progress = on_progress
        self._n_before = work.n_done()
        self._outage = Outage(options.retry_s)
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
        if self._n_before < self._work.n_files:
            self._check_model()
            try:
                self._process()
            finally:
                self._ended.set()
                self._pace.close()
        elapsed_s = time.monotonic() - began_s
        summary = BatchSummary(
            n_files=self._work.n_files,
            n_done=self._n_before + self._n_written,
            n_new=self._n_written,
            errors=dict(sorted(self._errors.items())),
            n_parts=self._writer.n_parts,
            elapsed_s=elapsed_s,
            files_per_s=self._n_written / elapsed_s if elapsed_s > 0 else 0.0,
            hours_done=self._audio_s / 3_600,
            complete=self._n_before + self._n_written == self._work.n_files,
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
                if failures.judge(error) != "again":
                    raise
                outage.failed(error)
            if outage.stopped_by is not None:
                raise outage.stopped_by
            self._report()
            if self._stop.wait(_wait_s(n_failed)):
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
            threading.Thread(target=self._watch_others, name="tritone-batch-watch", daemon=True).start()
        pending = self._work.pending()
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
        for _ in workers:
            self._tasks.put(None)

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
        """Write the part; while its bucket cannot be reached, wait and try again.

        Raises:
            BatchError: it cannot be written.
        """
        n_rows = self._writer.n_rows
        outage = Outage(self._options.retry_s)
        n_failed = 0
        while True:
            try:
                self._writer.write()
                break
            except FileAccessError as error:
                n_failed += 1
                if error.retryable:
                    outage.failed(error)
                elif error.reason == "exists" and is_remote(error.url):
                    outage.stop(error, "running", "another process writes the same parts")
                else:
                    outage.stop(error, "storage", "the output cannot be written")
                if outage.stopped_by is not None:
                    self._ended.set()
                    raise outage.stopped_by from error
                time.sleep(_wait_s(n_failed))
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
                n_files=self._work.n_files,
                n_done=n_done,
                n_errors=sum(self._errors.values()),
                files_per_s=per_s,
                left_s=(self._work.n_files - n_done) / per_s if per_s > 0 else None,
                hours_done=self._audio_s / 3_600,
                in_flight=self._pace.limit,
                waiting_for=self._outage.waiting_for(),
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
        """Tell the pace how many rows the model has processed, until the run ends."""
        while not self._ended.wait(_WATCH_S):
            try:
                models = self._music.models(timeout_s=_WATCH_TIMEOUT_S)
            except ClientError:  # the calls of the files report a server that cannot be reached
                continue
            for model in models:
                if model.name == self._options.model_name:
                    self._pace.count(model.n_inferences)

    def _row_of(self, path: str, url: str) -> Row:
        """Return the row of a file; empty if the run ended before it was done."""
        failures = FileFailures()
        n_failed = 0
        while not self._ended.is_set():
            try:
                values = self._call(path, url)
            except ClientError as error:
                kind = "again" if self._ended.is_set() else failures.judge(error)
                if kind == "row":
                    return {"path": path, "error": _text(error), "error_type": error_type(error)}
                if kind == "stop":
                    what = "storage" if isinstance(error, FileAccessError) else "server"
                    self._outage.stop(error, what, "it cannot go on")
                    return {}
                self._outage.failed(error)
                n_failed += 1
            else:
                self._outage.succeeded()
                return {"path": path, **values}
            self._ended.wait(_wait_s(n_failed))
        return {}

    def _call(self, path: str, url: str) -> Row:
        options = self._options
        opened: Opened = open_file(url) if is_remote(url) else str(local_path(url))
        try:
            if not isinstance(opened, str):
                self._outage.succeeded(read_only=True)
            if self._operation.reads == "recordings" and options.max_duration_s is not None:
                _check_duration(path, opened, options.max_duration_s)
            call = FileCall(path, opened, options.model_name, options.arguments, options.timeout_s)
            return self._operation.call(self._music, call)
        except InvalidAudioError as error:
            raise _without_copy_name(error, path) from error
        finally:
            if not isinstance(opened, str):
                opened.close()


def _text(error: ClientError) -> str:
    """Return a message as text that Parquet and JSON can hold."""
    return str(error)[:_MAX_ERROR].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _check_duration(path: str, opened: Opened, most_s: float) -> None:
    """Check the length in the header of a recording; decoding reports what is wrong with other recordings.

    Raises:
        InvalidAudioError: it is too long.
    """
    import soundfile

    try:
        info: Any = soundfile.info(opened)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError):
        return
    finally:
        if not isinstance(opened, str):
            opened.seek(os.SEEK_SET)
    duration_s = info.frames / info.samplerate if info.samplerate else 0.0
    if most_s < duration_s < _LONGEST_CLAIM_S:
        raise InvalidAudioError(
            f"{path}: is too long: expected at most {most_s:.0f} s, got {duration_s:.0f} s; split it, or raise "
            f"--max-duration",
            path=path,
            reason="too_long",
        )


_LONGEST_CLAIM_S: Final = 1e9  # libsndfile reports such lengths where the header has none


def _without_copy_name(error: InvalidAudioError, path: str) -> InvalidAudioError:
    """Return the error with the URL of an object instead of the name of its local copy."""
    if str(error).startswith(path):
        return error
    return InvalidAudioError(f"{path}: {str(error).partition(': ')[2]}", path=path, reason=error.reason)


def _wait_s(n_failed: int) -> float:
    longest_s: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(n_failed - 1, 10))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
