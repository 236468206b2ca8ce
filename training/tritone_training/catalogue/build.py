"""Build the folder of the catalogue: in a temporary folder, under a lock, and renamed when it is complete."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tritone import MissingExtraError
from tritone_training.catalogue.pool import WorkerPool
from tritone_training.catalogue.sources import KNOWN_COLLECTIONS, Candidate, list_candidates
from tritone_training.exceptions import DataError
from tritone_training.progress import progress_bar

FORMAT: Final = 1
INDEX: Final = "index.json"
LOCK_TIMEOUT_S: Final = 900.0
_LOCK_POLL_S: Final = 0.2


def find_corpus() -> Path:
    """Return the corpus folder of the installed music21 without importing it, which takes half a second.

    Raises:
        MissingExtraError: music21 is not installed, or has no corpus.
    """
    spec = find_spec("music21")
    folder = Path(spec.origin).parent / "corpus" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise MissingExtraError(
            "the catalogue is made from the corpus of music21, which is not installed; "
            "install it with: pip install 'tritone[train]'"
        )
    return folder


@contextmanager
def locked(folder: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of a catalogue folder; the operating system releases it if the process ends.

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
    n_per_collection: int,
    corpus: Path,
    progress: bool,
) -> None:
    """Build a catalogue in `folder`; the caller holds the lock.

    Raises:
        DataError: a collection has too few usable pieces, or the folder cannot be written.
    """
    for leftover in folder.parent.glob(f".{folder.name}-*"):  # from a build that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            index = _build_in(made, collections, n_per_collection, corpus, progress)
            (made / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")
            _replace(folder, made)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise DataError(f"the catalogue cannot be written to {folder}: {error}") from error


def _replace(folder: Path, made: Path) -> None:
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)) / "old"
        folder.rename(old)
        made.rename(folder)
        shutil.rmtree(old.parent, ignore_errors=True)
    else:
        made.rename(folder)


def _build_in(
    made: Path, collections: tuple[str, ...], n_per_collection: int, corpus: Path, progress: bool
) -> dict[str, Any]:
    seen: dict[str, str] = {}  # across collections, so that no tune has two labels
    picks = [_Pick(name, n_per_collection, corpus, made, seen) for name in collections]
    n_wanted = n_per_collection * len(picks)
    with progress_bar("reading pieces", shown=progress) as on_progress, WorkerPool() as pool:
        # Each round reads as many pieces as are still missing, so that the choice does not depend on the speed of
        # the workers.
        while jobs := [job for pick in picks for job in pick.next_jobs()]:
            answers: dict[str, dict[str, Any]] = {}
            for job, answer in pool.run(jobs):
                if "failed" in answer:
                    raise OSError(answer["failed"])
                answers[job["id"]] = answer
                n_usable = sum("reason" not in each for each in answers.values())
                on_progress(sum(len(pick.tracks) for pick in picks) + n_usable, n_wanted)
            for pick in picks:
                pick.take(answers)
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

    def __init__(self, name: str, n_wanted: int, corpus: Path, made: Path, seen: dict[str, str]) -> None:
        self.name = name
        self.title = KNOWN_COLLECTIONS[name].title
        self.tracks: list[dict[str, Any]] = []
        self._made = made
        self._n_wanted = n_wanted
        listed = list_candidates(KNOWN_COLLECTIONS[name], corpus)
        self._candidates = list({candidate.id: candidate for candidate in reversed(listed)}.values())[::-1]
        self._n_tried = 0
        self._wave: list[Candidate] = []
        self._n_repeated_ids = len(listed) - len(self._candidates)
        self._dropped: list[dict[str, str]] = []
        self._seen = seen
        self._n_grace_notes = 0

    def next_jobs(self) -> list[dict[str, Any]]:
        n_missing = self._n_wanted - len(self.tracks)
        self._wave = self._candidates[self._n_tried : self._n_tried + n_missing]
        if n_missing and not self._wave:
            raise DataError(
                f"{self.title}: {len(self.tracks)} of {len(self._candidates)} pieces can be used, "
                f"{self._n_wanted} are wanted; {self._first_reasons()}"
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

    def take(self, answers: dict[str, dict[str, Any]]) -> None:
        for candidate in self._wave:
            answer = answers[candidate.id]
            if "reason" not in answer:
                answer = self._accept(candidate, answer)
            if "reason" in answer:
                (self._made / _midi_name(candidate.id)).unlink(missing_ok=True)
                self._dropped.append({"id": candidate.id, "reason": answer["reason"], "detail": answer["detail"]})

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
