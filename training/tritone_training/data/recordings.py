"""Labelled recordings, and data sets with a report on recordings that cannot be used."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tritone.audio import FloatArray, OnNote, Window, iter_windows, load_mono
from tritone.constants import SAMPLE_RATE_HZ
from tritone.exceptions import InvalidAudioError

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
