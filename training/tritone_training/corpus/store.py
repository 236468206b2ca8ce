"""Load the corpus: its tracks, and a report on pieces that were left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path

from tritone import InvalidScoreError
from tritone.music.scores import read_midi
from tritone.music.symusic_scores import require_symusic
from tritone_training.corpus.build import FORMAT, INDEX, build, find_music21_corpus, fingerprint, locked
from tritone_training.corpus.sources import (
    COLLECTIONS,
    KNOWN_COLLECTIONS,
    PIECES_PER_COLLECTION,
    Collection,
)
from tritone_training.exceptions import DataError

CACHE_VARIABLE: Final = "TRITONE_CACHE"
_FOLDER: Final = "catalogue"  # as in earlier versions, whose folders stay in use


@dataclass(frozen=True)
class CorpusTrack:
    """One piece of the corpus.

    Attributes:
        id: `collection/name`; the same on every machine and in every build.
        group: shared by the movements of a work and the settings of a tune; a split must keep them together.
        years: when the music was written or printed.
        key: as stated by the source (`G mixolydian`); None if it has only a key signature.
        metre: of the first bar (`6/8`).
        pickup_quarters: length of an incomplete first bar, 0 where the piece starts on a barline.
        tempo_bpm: quarter notes a minute in the MIDI file.
        tempo_stated: whether the source states the tempo; otherwise it is derived from the metre.
        midi_path: one track for each voice, program 0, 480 ticks a quarter.
    """

    id: str
    title: str
    composer: str
    collection: str
    group: str
    years: str
    period: str
    key: str | None
    metre: str | None
    pickup_quarters: float
    n_notes: int
    n_voices: int
    duration_quarters: float
    tempo_bpm: float
    tempo_stated: bool
    sha256: str = field(repr=False)
    midi_path: Path = field(repr=False)

    @property
    def duration_s(self) -> float:
        """Return the duration at `tempo_bpm`, in seconds."""
        return self.duration_quarters * 60.0 / self.tempo_bpm

    def score(self) -> Any:
        """Read the MIDI file.

        Returns:
            A `symusic.Score` in ticks.

        Raises:
            DataError: the file was removed after the corpus was loaded.
        """
        try:
            return read_midi(self.midi_path)
        except InvalidScoreError as error:
            raise DataError(
                f"{self.midi_path} cannot be read ({error}); `tritone corpus --rebuild` builds it again"
            ) from error


@dataclass(frozen=True)
class Dropped:
    """A piece that was read and left out; `reason` is one word, `detail` a description for the user."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CollectionReport:
    """Counts of the pieces of one collection.

    Attributes:
        n_candidates: pieces in the corpus; those beyond `n_read` were not needed.
        n_repeated_ids: tunes that music21 cannot reach, because their book has their number twice.
        dropped: the `n_read - n_kept` that were read and left out.
    """

    collection: str
    n_candidates: int
    n_repeated_ids: int
    n_read: int
    n_kept: int
    n_grace_notes_left_out: int
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Corpus:
    """Pieces of early and traditional music, the embedded data of demos and tests.

    Attributes:
        fingerprint: SHA-256 over all tracks and their notes, for model cards.
        report: pieces that were left out and the reasons, by collection.
        made_with: versions of the packages that made it.
    """

    path: Path
    tracks: tuple[CorpusTrack, ...]
    fingerprint: str
    report: tuple[CollectionReport, ...]
    made_with: dict[str, str]

    @property
    def collections(self) -> tuple[Collection, ...]:
        """Return the collections, in the order of the labels."""
        return tuple(KNOWN_COLLECTIONS[entry.collection] for entry in self.report)

    def __len__(self) -> int:
        return len(self.tracks)

    def __iter__(self) -> Iterator[CorpusTrack]:
        return iter(self.tracks)

    def __getitem__(self, track_id: str) -> CorpusTrack:
        """Return the track with an id.

        Raises:
            DataError: there is no such track.
        """
        for track in self.tracks:
            if track.id == track_id:
                return track
        wanted = track_id.casefold()
        near = [track.id for track in self.tracks if wanted in f"{track.id} {track.title}".casefold()]
        hint = f"did you mean {', '.join(near[:3])}?" if near else f"ids look like {self.tracks[0].id}"
        raise DataError(f"the corpus has no track {track_id!r}; {hint}")


def cache_folder() -> Path:
    """Return the folder of the corpus and of fetched weights: `$TRITONE_CACHE`, else the user's cache folder.

    Raises:
        DataError: neither can be determined, because this user has no home folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(named).expanduser() if named else user_cache_path("tritone")
    except RuntimeError as error:
        raise DataError(
            "no folder for the corpus and for pretrained weights: expected a home folder of this user or "
            f"XDG_CACHE_HOME, got neither; set {CACHE_VARIABLE} to a folder that this user can write"
        ) from error


def load_corpus(
    *,
    progress: bool = True,
    rebuild: bool = False,
    n_per_collection: int | None = PIECES_PER_COLLECTION,
    collections: tuple[str, ...] = COLLECTIONS,
    music21_corpus: Path | None = None,
) -> Corpus:
    """Load the corpus; build it first if it is missing or damaged (a minute or two on two cores).

    Args:
        progress: show progress bars on stderr while building.
        rebuild: build it again even if it is whole.
        n_per_collection: number of pieces in each collection; None for all usable ones.
        collections: names in `KNOWN_COLLECTIONS`.
        music21_corpus: another folder of music21's layout, for tests.

    Raises:
        DataError: it cannot be built, or another process has been building it for a quarter of an hour.
        MissingExtraError: music21 or symusic is not installed.
    """
    _check(n_per_collection, collections)
    folder = cache_folder() / _folder_name(n_per_collection, collections, music21_corpus)
    if not rebuild and (corpus := _load(folder)) is not None:
        return corpus
    require_symusic()  # before every worker fails for the same reason
    music21_corpus = music21_corpus or find_music21_corpus()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the cache folder {folder.parent} cannot be created: {error}; set {CACHE_VARIABLE}") from error
    with locked(folder):
        # Another builder may have finished while this one waited.
        if not rebuild and (corpus := _load(folder)) is not None:
            return corpus
        build(
            folder,
            collections=collections,
            n_per_collection=n_per_collection,
            music21_corpus=music21_corpus,
            progress=progress,
        )
        corpus = _load(folder)
    if corpus is None:
        raise DataError(f"{folder} is damaged right after it was written; check the disk")
    return corpus


def _check(n_per_collection: int | None, collections: tuple[str, ...]) -> None:
    if n_per_collection is not None and n_per_collection < 1:
        raise DataError(f"n_per_collection is {n_per_collection}; expected at least 1")
    unknown = [name for name in collections if name not in KNOWN_COLLECTIONS]
    if unknown or not collections:
        raise DataError(f"no collections {unknown}; there are: {', '.join(KNOWN_COLLECTIONS)}")


def _folder_name(n_per_collection: int | None, collections: tuple[str, ...], music21_corpus: Path | None) -> str:
    settings = (n_per_collection, collections, str(music21_corpus) if music21_corpus else None)
    if settings == (PIECES_PER_COLLECTION, COLLECTIONS, None):
        return f"{_FOLDER}-v{FORMAT}"
    return f"{_FOLDER}-v{FORMAT}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:8]}"


def _load(folder: Path) -> Corpus | None:
    """Read a corpus and check every byte of it against its digests; None if anything differs."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT or index["fingerprint"] != fingerprint(index["tracks"]):
            return None
        return Corpus(
            path=folder,
            tracks=tuple(_track(folder, facts) for facts in index["tracks"]),
            fingerprint=index["fingerprint"],
            report=tuple(_report(entry) for entry in index["report"]),
            made_with=index["made_with"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _track(folder: Path, facts: dict[str, Any]) -> CorpusTrack:
    facts = dict(facts)
    path = folder / facts.pop("midi")
    if hashlib.sha256(path.read_bytes()).hexdigest() != facts["sha256"]:
        raise ValueError(path)
    return CorpusTrack(midi_path=path, **facts)


def _report(entry: dict[str, Any]) -> CollectionReport:
    return CollectionReport(**{**entry, "dropped": tuple(Dropped(**dropped) for dropped in entry["dropped"])})
