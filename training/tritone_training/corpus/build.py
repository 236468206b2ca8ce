"""Build the folder of the corpus: in a temporary folder, under a lock, and renamed when it is complete.

The pieces are read in worker processes (`python -m tritone_training.corpus.reading`); a worker that hangs or crashes is
replaced, and its piece is reported as unusable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from filelock import FileLock, Timeout

from tritone import MissingExtraError
from tritone_training.corpus.sources import KNOWN_COLLECTIONS, Candidate, list_candidates
from tritone_training.exceptions import DataError
from tritone_training.progress import progress_bar

FORMAT: Final = 1
INDEX: Final = "index.json"
LOCK_TIMEOUT_S: Final = 900.0
_LOCK_POLL_S: Final = 0.2
Job = dict[str, Any]
JobResult = dict[str, Any]

JOB_TIMEOUT_S: Final = 60.0  # the slowest piece of the corpus takes about a second
_COMMAND: Final = (sys.executable, "-m", "tritone_training.corpus.reading")


def find_music21_corpus() -> Path:
    """Return the corpus folder of the installed music21 without importing it, which takes half a second.

    Raises:
        MissingExtraError: music21 is not installed, or has no corpus.
    """
    spec = find_spec("music21")
    folder = Path(spec.origin).parent / "corpus" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise MissingExtraError(
            "the corpus is made from the pieces that music21 ships: expected music21, got no such package; "
            "install it with: pip install 'tritone[train]'"
        )
    return folder


@contextmanager
def locked(folder: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of a corpus folder; the operating system releases it if the process ends.

    Raises:
        DataError: another process held it for all of `timeout_s`.
    """
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=timeout_s, poll_interval=_LOCK_POLL_S)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(
            f"another process has been building {folder} for {timeout_s:g} s; wait for it, or end it and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def build(
    folder: Path,
    *,
    collections: tuple[str, ...],
    n_per_collection: int | None,
    music21_corpus: Path,
    progress: bool,
) -> None:
    """Build a corpus in `folder`; the caller holds the lock.

    Args:
        n_per_collection: number of pieces of each collection; None for all usable ones.

    Raises:
        DataError: a collection has too few usable pieces, or the folder cannot be written.
    """
    for leftover in folder.parent.glob(f".{folder.name}-*"):  # from a build that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            index = _build_in(made, collections, n_per_collection, music21_corpus, progress)
            (made / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")
            _replace(folder, made)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise DataError(f"the corpus cannot be written to {folder}: {error}") from error


def _replace(folder: Path, made: Path) -> None:
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) / "old"
        folder.rename(old)
        made.rename(folder)
        shutil.rmtree(old.parent, ignore_errors=True)
    else:
        made.rename(folder)


def _build_in(
    made: Path, collections: tuple[str, ...], n_per_collection: int | None, music21_corpus: Path, progress: bool
) -> dict[str, Any]:
    seen: dict[str, str] = {}  # across collections, so that no tune has two labels
    picks = [_Pick(name, n_per_collection, music21_corpus, made, seen) for name in collections]
    n_wanted = sum(pick.n_wanted for pick in picks)
    with progress_bar("reading pieces", shown=progress) as on_progress, WorkerPool() as pool:
        # Each round reads as many pieces as are still missing, so that the choice does not depend on the speed of
        # the workers.
        while jobs := [job for pick in picks for job in pick.next_jobs()]:
            results: dict[str, dict[str, Any]] = {}
            for job, result in pool.run(jobs):
                if "failed" in result:
                    raise OSError(result["failed"])
                results[job["id"]] = result
                n_usable = sum("reason" not in each for each in results.values())
                on_progress(sum(len(pick.tracks) for pick in picks) + n_usable, n_wanted)
            for pick in picks:
                pick.take(results)
    tracks = [track for pick in picks for track in pick.tracks]
    return {
        "format": FORMAT,
        "fingerprint": fingerprint(tracks),
        "made_with": {name: version(name) for name in ("music21", "symusic")},
        "report": [pick.report() for pick in picks],
        "tracks": tracks,
    }


def fingerprint(tracks: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of the metadata of all tracks, including the digests of their MIDI files."""
    return hashlib.sha256(json.dumps(tracks, sort_keys=True).encode()).hexdigest()


class _Pick:
    """Selects the pieces of one collection: its candidates in order, until enough of them are usable."""

    def __init__(self, name: str, n_wanted: int | None, music21_corpus: Path, made: Path, seen: dict[str, str]) -> None:
        self.name = name
        self.title = KNOWN_COLLECTIONS[name].title
        self.tracks: list[dict[str, Any]] = []
        self._made = made
        listed = list_candidates(KNOWN_COLLECTIONS[name], music21_corpus)
        self._candidates = list({candidate.id: candidate for candidate in reversed(listed)}.values())[::-1]
        self.n_wanted = len(self._candidates) if n_wanted is None else n_wanted
        self._n_required = 1 if n_wanted is None else n_wanted
        self._n_tried = 0
        self._wave: list[Candidate] = []
        self._n_repeated_ids = len(listed) - len(self._candidates)
        self._dropped: list[dict[str, str]] = []
        self._seen = seen
        self._n_grace_notes = 0

    def next_jobs(self) -> list[dict[str, Any]]:
        n_missing = self.n_wanted - len(self.tracks)
        self._wave = self._candidates[self._n_tried : self._n_tried + n_missing]
        if not self._wave and len(self.tracks) < self._n_required:
            raise DataError(
                f"{self.title}: {len(self.tracks)} of {len(self._candidates)} pieces can be used, "
                f"{self._n_required} are wanted; {self._first_reasons()}"
            )
        self._n_tried += len(self._wave)
        return [
            {
                "id": candidate.id,
                "collection": self.name,
                "path": str(candidate.path),
                "number": candidate.number,
                "midi": str(self._made / _midi_name(candidate.id)),
            }
            for candidate in self._wave
        ]

    def take(self, results: dict[str, dict[str, Any]]) -> None:
        for candidate in self._wave:
            result = results[candidate.id]
            if "reason" not in result:
                result = self._accept(candidate, result)
            if "reason" in result:
                (self._made / _midi_name(candidate.id)).unlink(missing_ok=True)
                self._dropped.append({"id": candidate.id, "reason": result["reason"], "detail": result["detail"]})

    def _accept(self, candidate: Candidate, facts: dict[str, Any]) -> dict[str, Any]:
        first = self._seen.setdefault(facts.pop("shape"), candidate.id)
        if first != candidate.id:
            return {"reason": "duplicate", "detail": f"has the same notes as {first}"}
        self._n_grace_notes += facts.pop("n_grace_notes")
        collection = KNOWN_COLLECTIONS[self.name]
        midi = _midi_name(candidate.id)
        self.tracks.append(
            {
                "id": candidate.id,
                "collection": self.name,
                "years": collection.years,
                "period": collection.period,
                **facts,
                "midi": midi,
                "sha256": hashlib.sha256((self._made / midi).read_bytes()).hexdigest(),
            }
        )
        return facts

    def _first_reasons(self) -> str:
        if not self._dropped:
            return "install music21 again if its corpus is incomplete"
        return "; ".join(f"{dropped['id']}: {dropped['detail']}" for dropped in self._dropped[:3])

    def report(self) -> dict[str, Any]:
        return {
            "collection": self.name,
            "n_candidates": len(self._candidates),
            "n_repeated_ids": self._n_repeated_ids,
            "n_read": self._n_tried,
            "n_kept": len(self.tracks),
            "n_grace_notes_left_out": self._n_grace_notes,
            "dropped": self._dropped,
        }


def _midi_name(track_id: str) -> str:
    return f"midi/{track_id}.mid"


class WorkerPool:
    """A context manager with one worker process for each core."""

    def __init__(
        self,
        *,
        n_workers: int | None = None,
        timeout_s: float = JOB_TIMEOUT_S,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._n_workers = n_workers or min(8, len(os.sched_getaffinity(0)))
        self._timeout_s = timeout_s
        self._command = command
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._closed = False
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._n_workers, thread_name_prefix="corpus")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for worker in self._all:  # a thread that waits for a response gets the end of the pipe
                worker.stop()
        self._threads.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobResult]]:
        """Yield jobs with their results, in the order of completion."""
        futures: dict[Future[JobResult], Job] = {self._threads.submit(self._read, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _read(self, job: Job) -> JobResult:
        with self._borrowed() as worker:
            return worker.read(job, self._timeout_s)

    @contextmanager
    def _borrowed(self) -> Iterator[_Worker]:
        with self._lock:
            if self._closed:
                raise DataError("the worker processes of the corpus were stopped before they had read every piece")
            if self._idle:
                worker = self._idle.pop()
            else:
                worker = _Worker(self._command)
                self._all.append(worker)
        try:
            yield worker
        finally:
            with self._lock:
                if worker.alive:
                    self._idle.append(worker)
                else:
                    worker.stop()
                    self._all.remove(worker)


class _Worker:
    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("Popen returned no pipes")
        self._pipes = (self._process.stdin, self._process.stdout)
        self.alive = True

    def read(self, job: Job, timeout_s: float) -> JobResult:
        stdin, stdout = self._pipes
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):  # a pipe without a reader, or closed by `stop`
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            result: JobResult = json.loads(line)
            return result
        self.alive = False
        if late.is_set():
            return {"reason": "timed_out", "detail": f"was not read within {timeout_s:g} s"}
        return {"reason": "worker_died", "detail": "the process that read it ended without a result"}

    def stop(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            with suppress(OSError):  # buffered data can no longer be written
                pipe.close()
