"""Score data sets: pieces with their metadata and splits, and a report on pieces that cannot be used.

Shapes: T time steps, 88 pitches (MIDI 21..108), V voices.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.data.recordings import DataProblem
from tritone_training.exceptions import DataError

SPLITS: Final = ("train", "valid", "test")
SPLIT_SEED: Final = 0
_SHARES: Final = (("train", 0.8), ("valid", 0.9), ("test", 1.0))  # upper ends
SPLIT_NOTE: Final = f"by a hash of the name (seed {SPLIT_SEED}): 80 % train, 10 % valid, 10 % test"


@dataclass(frozen=True, eq=False)
class ScorePiece:
    """One piece.

    Attributes:
        name: the path as the data set writes it, a corpus id, or `train/0007`; unique within a set.
        frames: (T, 88) uint8 grid, T >= 1: 0 silent, 1 held on from the step before, 2 struck here. If the data
            set has no onsets, a note is struck where its pitch begins to sound, and repeated notes are one note.
        split: `train`, `valid` or `test`.
        style: a collection, a folder's or a file's name.
        meter: (time steps in a bar, index within its bar of the first step); (0, 0) if unknown.
        voices: (T, V) int64, the MIDI pitch that each voice sounds, or -1; None where notes have no voices.
        time_signature: (beats, denominator), such as (6, 8); None if unknown.
    """

    name: str
    frames: npt.NDArray[np.uint8] = field(repr=False)
    split: str
    style: str
    meter: tuple[int, int] = (0, 0)
    voices: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    time_signature: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """The usable pieces of a data set, and a report on the others.

    Attributes:
        source: where they come from, for the model card.
        has_onsets: whether the data distinguish repeated notes from held ones.
        frames_per_quarter: time steps in a quarter note; 0 if unknown.
        licence: the data's licence, if it is known.
        notes: more facts for the report, such as how it was split.
    """

    source: str
    pieces: tuple[ScorePiece, ...] = field(repr=False)
    has_onsets: bool
    frames_per_quarter: int
    problems: tuple[DataProblem, ...] = ()
    licence: str = "not stated"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> tuple[ScorePiece, ...]:
        """Return the pieces of one split.

        Raises:
            DataError: the split has no pieces.
        """
        pieces = tuple(piece for piece in self.pieces if piece.split == name)
        if not pieces:
            there = ", ".join(f"{split} ({n})" for split, n in self._split_sizes().items())
            raise DataError(f"{self.source}: has no pieces in the split {name!r}; expected one of: {there}")
        return pieces

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the styles, sorted."""
        return tuple(sorted({piece.style for piece in self.pieces}))

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of all notes and metadata of the pieces."""
        digest = hashlib.sha256(f"{self.has_onsets} {self.frames_per_quarter}".encode())
        for piece in self.pieces:
            digest.update(repr((piece.name, piece.split, piece.style, piece.meter, piece.frames.shape)).encode())
            digest.update(np.ascontiguousarray(piece.frames).tobytes())
            if piece.voices is not None:
                digest.update(np.ascontiguousarray(piece.voices, "<i8").tobytes())
        return digest.hexdigest()

    def report(self) -> dict[str, Any]:
        """Return the number of pieces found and used and all problems, for the user and the model card."""
        return {
            "source": self.source,
            "licence": self.licence,
            "fingerprint": self.fingerprint,
            "n_in": len(self.pieces) + len(self.problems),
            "n_used": len(self.pieces),
            "splits": self._split_sizes(),
            "n_frames": {
                split: sum(len(piece.frames) for piece in self.pieces if piece.split == split)
                for split in self._split_sizes()
            },
            "styles": dict(sorted(Counter(piece.style for piece in self.pieces).items())),
            "has_onsets": self.has_onsets,
            "frames_per_quarter": self.frames_per_quarter or None,
            "problems": [{"path": p.name, "reason": p.reason, "message": p.message} for p in self.problems],
            **self.notes,
        }

    def _split_sizes(self) -> dict[str, int]:
        counts = Counter(piece.split for piece in self.pieces)
        return {split: counts[split] for split in SPLITS if counts[split]}


def evenly_chosen(pieces: Sequence[ScorePiece], most_frames: int) -> tuple[ScorePiece, ...]:
    """Return evenly spaced pieces with about `most_frames` frames in total, at least one piece.

    All pieces are returned if they have no more frames than that.
    """
    n_frames = sum(len(piece.frames) for piece in pieces)
    n_chosen = max(1, min(len(pieces), int(len(pieces) * most_frames / n_frames)))
    return tuple(pieces[index] for index in np.linspace(0, len(pieces) - 1, n_chosen).round().astype(int))


def count_repeats(pieces: Sequence[ScorePiece]) -> dict[str, int]:
    """Return the number of pieces with the same notes as an earlier one, by split (`train and valid`: one in each).

    For published data sets, whose splits must not change.
    """
    first: dict[bytes, ScorePiece] = {}
    repeats: Counter[str] = Counter()
    for piece in pieces:
        earlier = first.setdefault(notes_digest(piece.frames), piece)
        if earlier is not piece:
            same = earlier.split == piece.split
            repeats[piece.split if same else f"{earlier.split} and {piece.split}"] += 1
    return dict(repeats)


def notes_digest(frames: npt.NDArray[np.uint8]) -> bytes:
    """Return a digest that is equal only for pieces with the same notes at the same steps."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).digest()


def hashed_splits(keys: Sequence[str]) -> list[str]:
    """Return the split of each key, chosen by a seeded hash; a key keeps its split when the data set grows.

    If no key falls into `valid`, the key of `train` whose hash is nearest to it is moved there.
    """
    places = {key: _place(key) for key in keys}
    splits = {key: next(split for split, end in _SHARES if place < end) for key, place in places.items()}
    training = [key for key, split in splits.items() if split == "train"]
    if "valid" not in splits.values() and len(training) > 1:
        splits[max(training, key=lambda key: places[key])] = "valid"
    return [splits[key] for key in keys]


def _place(key: str) -> float:
    """Return the hash of a key as a number in [0, 1)."""
    digest = hashlib.sha256(f"{SPLIT_SEED}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
