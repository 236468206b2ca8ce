"""Labelled recordings, data sets with a report on recordings that cannot be used, and their division into folds."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from tritone.audio import FloatArray, OnNote, Window, iter_windows, load_mono
from tritone.constants import SAMPLE_RATE_HZ
from tritone.exceptions import InvalidAudioError
from tritone_training.exceptions import DataError

# Unicode categories that `comparable_label` ignores: blanks, controls, joiners, hyphens, underscores.
_INSIGNIFICANT: Final = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Pd", "Pc"})


@dataclass(frozen=True)
class Recording:
    """One recording with its label and metadata.

    Attributes:
        name: the path as the data set writes it, or a corpus id; unique within a set.
        load: returns the samples, (S,) float32, mono at 22,050 Hz; raises InvalidAudioError.
        path: the file, if it is one.
        fold: the fold that the data set assigns; recordings of one fold are held out together.
        artist: recordings of one artist are always in the same part of a split.
        piece: the composition, if several recordings may share it; also kept in the same part of a split.
        emotions: nine fractions in 0..1 in the order of `EMOTIONS`, or None.
    """

    name: str
    label: str
    load: Callable[[], FloatArray]
    path: Path | None = None
    fold: int | None = None
    artist: str | None = None
    emotions: tuple[float, ...] | None = None
    piece: str | None = None

    @classmethod
    def of_file(cls, name: str, label: str, path: Path, **known: Any) -> Recording:
        """Return the recording for a file."""
        return cls(name, label, lambda: load_mono(path), path, **known)

    @property
    def group(self) -> str:
        """Return the group that a split keeps together: the artist, else the piece, else the recording itself."""
        if self.artist:
            # Different capitalisation or Unicode composition of a name is the same artist.
            return f"artist {unicodedata.normalize('NFKC', self.artist).casefold()}"
        return f"piece {self.piece}" if self.piece else f"recording {self.name}"

    def windows(self, *, on_note: OnNote | None = None) -> Iterator[Window]:
        """Yield the windows of the recording, cut as in the SDK; files are read in blocks, in bounded memory.

        Args:
            on_note: called with each warning about a usable recording.

        Raises:
            InvalidAudioError: the recording cannot be used.
        """
        audio = self.path if self.path is not None else (self.load(), SAMPLE_RATE_HZ)
        yield from iter_windows(audio, on_note=on_note)

    def blocks(self, *, on_note: OnNote | None = None) -> Iterator[FloatArray]:
        """Yield all samples once, in order, as blocks (S,) of at most 3 s.

        Args:
            on_note: as `windows`.

        Raises:
            InvalidAudioError: as `windows`.
        """
        n_read = 0
        for window in self.windows(on_note=on_note):
            start = round(window.start_s * SAMPLE_RATE_HZ)
            n_covered = round(window.covers_s * SAMPLE_RATE_HZ)
            yield window.samples[n_read - start : n_covered]  # the last window overlaps the one before
            n_read = start + n_covered


@dataclass(frozen=True)
class DataProblem:
    """A recording that cannot be used, and why."""

    name: str
    reason: str
    message: str

    @classmethod
    def of_audio(cls, recording: Recording, error: InvalidAudioError) -> DataProblem:
        """Return the problem for a recording whose audio cannot be used."""
        return cls(recording.name, error.reason, printable(str(error)))


@dataclass(frozen=True)
class Remark:
    """A warning about a recording that is used."""

    name: str
    message: str


@dataclass(frozen=True)
class RecordingSet:
    """The usable recordings of a data set, and a report on the others.

    Attributes:
        source: where they come from, for the model card.
        licence: licence of the data, if the data set states it.
        remarks: warnings about recordings that are used.
    """

    source: str
    recordings: tuple[Recording, ...]
    problems: tuple[DataProblem, ...] = ()
    licence: str = "not stated"
    notes: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels, sorted."""
        return tuple(sorted({recording.label for recording in self.recordings}))

    @property
    def has_emotions(self) -> bool:
        """Return whether any recording has emotion fractions."""
        return any(recording.emotions is not None for recording in self.recordings)

    def without(self, problems: Iterable[DataProblem]) -> RecordingSet:
        """Return the set without the recordings of the given problems, which are added to the report."""
        problems = tuple(problems)
        bad = {problem.name for problem in problems}
        kept = tuple(recording for recording in self.recordings if recording.name not in bad)
        return replace(self, recordings=kept, problems=(*self.problems, *problems))

    @property
    def similar_labels(self) -> tuple[tuple[str, ...], ...]:
        """Return groups of labels that differ only by case, blanks or hyphens, and probably mean the same."""
        groups: dict[str, list[str]] = {}
        for label in self.labels:
            groups.setdefault(comparable_label(label), []).append(label)
        return tuple(tuple(labels) for labels in groups.values() if len(labels) > 1)

    def only(self, names: Iterable[str]) -> RecordingSet:
        """Return the set of the recordings with these names."""
        wanted = set(names)
        return replace(self, recordings=tuple(r for r in self.recordings if r.name in wanted))

    def report(self) -> dict[str, Any]:
        """Return the number of recordings found and used and all problems, for the user and the model card."""
        counts = Counter(r.label for r in self.recordings)
        return {
            "source": self.source,
            "licence": self.licence,
            "n_in": len(self.recordings) + len(self.problems),
            "n_used": len(self.recordings),
            "labels": dict(sorted(counts.items())),
            "similar_labels": [{label: counts[label] for label in labels} for labels in self.similar_labels],
            "n_artists": len({r.group for r in self.recordings if r.artist}),
            "n_with_emotions": sum(r.emotions is not None for r in self.recordings),
            "problems": [{"path": p.name, "reason": p.reason, "message": p.message} for p in self.problems],
            "remarks": [{"path": remark.name, "message": remark.message} for remark in self.remarks],
            **self.notes,
        }


def normal_label(text: str) -> str:
    """Return a label in composed form (NFC), with plain blanks and without invisible characters.

    Unlike `normalize_id`, which keeps them inside an id: labels are typed by people and shown, not looked up.
    """
    composed = unicodedata.normalize("NFC", text)
    plain = ((" " if unicodedata.category(c) == "Zs" else c) for c in composed if unicodedata.category(c) != "Cf")
    return "".join(plain)


def comparable_label(label: str) -> str:
    """Return a key that similar labels share: without case, blanks, invisible characters, hyphens and underscores."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in _INSIGNIFICANT)


def printable(text: str) -> str:
    r"""Return a path as valid Unicode text; bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def assign_folds(recordings: RecordingSet, *, n_folds: int = 4, seed: int = 0) -> RecordingSet:
    """Return the set with a fold for every recording: the given ones, or stratified and artist-disjoint folds.

    Raises:
        DataError: some recordings have a fold and some have none, or a label has too few artists for the folds.
    """
    known = [recording.fold is not None for recording in recordings.recordings]
    if all(known):
        return replace(recordings, notes={**recordings.notes, "folds": _how_given(recordings)})
    if any(known):
        bare = next(r.name for r in recordings.recordings if r.fold is None)
        raise DataError(
            f"{recordings.source}: {sum(known)} of {len(known)} recordings have a fold and {bare} has none; "
            f"expected a fold for all recordings or for none; complete the column, or leave it out"
        )
    folds = _group_folds(recordings.recordings, n_folds, seed)
    return replace(
        recordings,
        recordings=tuple(replace(r, fold=int(f)) for r, f in zip(recordings.recordings, folds, strict=True)),
        notes={**recordings.notes, "folds": _how_split(recordings)},
    )


def held_out_split(
    recordings: Sequence[Recording], *, n_parts: int, seed: int
) -> tuple[tuple[Recording, ...], tuple[Recording, ...]]:
    """Hold out about 1 / `n_parts` of the recordings, artist-disjoint and stratified by label.

    Returns:
        (training recordings, held-out recordings).

    Raises:
        DataError: a label has too few artists.
    """
    folds = _group_folds(recordings, n_parts, seed)
    rest = tuple(r for r, fold in zip(recordings, folds, strict=True) if fold != 0)
    held_out = tuple(r for r, fold in zip(recordings, folds, strict=True) if fold == 0)
    return rest, held_out


def _group_folds(
    recordings: Sequence[Recording], n_folds: int, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = np.array([r.label for r in recordings])
    groups = np.array([r.group for r in recordings])
    for label in np.unique(labels):
        n_groups = np.unique(groups[labels == label]).size
        if n_groups < n_folds:
            raise DataError(
                f"label {label!r} has {n_groups} artist{'s' * (n_groups != 1)} or single recordings; {n_folds} folds "
                f"that keep artists apart need at least {n_folds}: add recordings or use fewer folds"
            )
    folds = np.zeros(len(recordings), np.int64)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, indices) in enumerate(splitter.split(labels, labels, groups)):
        folds[indices] = fold
    return folds


def _how_given(recordings: RecordingSet) -> str:
    folds_of: dict[str, set[int | None]] = {}
    for recording in recordings.recordings:
        folds_of.setdefault(recording.group, set()).add(recording.fold)
    n_torn = sum(len(folds) > 1 for folds in folds_of.values())
    if n_torn:
        return f"the data set's own; {n_torn} artists or pieces are in several, so metrics are too optimistic"
    return "the data set's own"


def _how_split(recordings: RecordingSet) -> str:
    n_artists = sum(r.artist is not None for r in recordings.recordings)
    if not n_artists:
        return "by recording: no artists are known"
    return f"artist-disjoint ({n_artists} of {len(recordings.recordings)} recordings name their artist)"
