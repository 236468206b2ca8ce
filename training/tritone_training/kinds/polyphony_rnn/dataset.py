"""Pieces as the network learns them: features computed once, excerpts drawn and transposed again in each epoch.

Shapes: B pieces or excerpts, T frames, 88 pitches, C features of a pitch, G features of a frame, K pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from tritone.music.grid import N_PITCHES
from tritone_training.data.scores import ScorePiece, ScoreSet
from tritone_training.exceptions import DataError
from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import FRAMES_PER_QUARTER
from tritone_training.kinds.polyphony_rnn.features import FeatureExtractor, FrameFeatures

_PIECES_AT_ONCE: Final = 64
_POOL_BATCHES: Final = 16  # excerpts of so many batches are sorted by length, so that little is padding


@dataclass(frozen=True, eq=False)
class PieceNotes:
    """The notes that sound in a piece.

    Attributes:
        notes: (T, 88) bool.
    """

    name: str
    notes: Tensor


@dataclass(frozen=True, eq=False)
class PieceFeatures:
    """A piece with the features before each of its frames.

    Attributes:
        notes: (T, 88) bool.
        pitch: (T, C, 88) float16: 1.4 kB a frame, which is what a data set takes in memory.
        frame: (T, G) float32.
    """

    notes: Tensor
    pitch: Tensor
    frame: Tensor


class Batch(NamedTuple):
    """Excerpts, padded to the longest.

    Attributes:
        notes: (B, T, 88) float, what is to be predicted.
        pitch: (B, T, C, 88) features before each frame.
        frame: (B, T, G).
        counts: (B, T) 1 where a frame counts in the loss or the metrics, 0 in warm-up and padding.
    """

    notes: Tensor
    pitch: Tensor
    frame: Tensor
    counts: Tensor


def frames_per_quarter_of(scores: ScoreSet, trained: int | None = None) -> int:
    """Return the frames in a quarter note to train on: eighths, or the coarser grid of the data; 0 if unknown.

    Args:
        trained: the grid of the checkpoint that is to be evaluated on it.

    Raises:
        DataError: frames of the data set cannot be made into those of the checkpoint.
    """
    own = scores.frames_per_quarter
    wanted = trained if trained else (FRAMES_PER_QUARTER if own % FRAMES_PER_QUARTER == 0 else own)
    if own and own % wanted:
        raise DataError(
            f"{scores.source}: has {own} frames in a quarter note, the checkpoint learnt from {wanted}; "
            f"expected a multiple of that"
        )
    return wanted if own else 0


def pieces_of(scores: Sequence[ScorePiece], *, own: int, wanted: int) -> tuple[PieceNotes, ...]:
    """Reduce pieces to a coarser grid; notes that begin and end between two of its frames are lost.

    Args:
        own: frames in a quarter note of the pieces; 0 if unknown, and then every frame is taken.
        wanted: of the result, a divisor of `own`.
    """
    step = own // wanted if own else 1
    found = []
    for score in scores:
        first = -score.meter[1] % step  # so that frames fall on the beats
        notes = score.frames[first if first < len(score.frames) else 0 :: step] > 0
        found.append(PieceNotes(score.name, torch.from_numpy(np.ascontiguousarray(notes))))
    return tuple(found)


def extract_features(
    pieces: Sequence[PieceNotes],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PieceFeatures]:
    """Compute the features of every piece, in order."""
    order = sorted(range(len(pieces)), key=lambda index: len(pieces[index].notes))
    computed: dict[int, PieceFeatures] = {}
    for start in range(0, len(order), _PIECES_AT_ONCE):
        indices = order[start : start + _PIECES_AT_ONCE]
        features = _extract([pieces[index].notes for index in indices])
        for row, index in enumerate(indices):
            notes = pieces[index].notes
            computed[index] = PieceFeatures(
                notes=notes,
                pitch=features.pitch[row, : len(notes)].clone(),
                frame=features.frame[row, : len(notes)].clone(),
            )
        on_progress(len(computed), len(pieces))
    return [computed[index] for index in range(len(pieces))]


@torch.inference_mode()
def _extract(pieces: Sequence[Tensor]) -> FrameFeatures:
    """Return the features before each frame of pieces (T, 88): (B, T, C, 88) float16 and (B, T, G)."""
    notes = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True).float()
    extractor = FeatureExtractor()
    history, features = extractor.silence(notes[:, 0])
    pitch, frame = [], []
    for each in notes.unbind(1):
        pitch.append(features.pitch.half())
        frame.append(features.frame)
        history, features = extractor(history, each)
    return FrameFeatures(torch.stack(pitch, 1), torch.stack(frame, 1))


def _shifts(notes: Tensor, config: PolyphonyConfig) -> tuple[int, ...]:
    """Return the semitones by which a piece can be transposed within the configured range and the keyboard."""
    used = torch.nonzero(notes.any(0)).flatten().tolist()
    if not used:
        return (0,)
    down = min(config.transpose_down, used[0])
    up = min(config.transpose_up, N_PITCHES - 1 - used[-1])
    return tuple(range(-down, up + 1))


class Excerpts(Dataset[Batch]):
    """Random excerpts, each transposed at random; a piece that is short enough is one excerpt.

    A longer piece has as many excerpts of equal length as cover it; each begins anywhere up to half its length before
    or after its regular start. Half of the first ones begin with the piece.
    """

    def __init__(self, pieces: Sequence[PieceFeatures], config: PolyphonyConfig) -> None:
        self.pieces = pieces
        self.shifts = [_shifts(piece.notes, config) for piece in pieces]
        self.warmup_frames = config.warmup_frames
        self.items = [
            (index, number, n_excerpts)
            for index, piece in enumerate(pieces)
            for n_excerpts in [-(-len(piece.notes) // config.crop_frames)]
            for number in range(n_excerpts)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int) -> Batch:
        index, number, n_excerpts = self.items[item]
        piece = self.pieces[index]
        length = self.n_frames(item)
        first = 0
        if n_excerpts > 1:
            first = number * length + int(torch.randint(-(length // 2), length // 2 + 1, ()))
            first = min(max(first, 0), len(piece.notes) - length)
        shifts = self.shifts[index]
        shift = shifts[int(torch.randint(len(shifts), ()))]
        span = slice(first, first + length)
        counts = torch.ones(length)
        if first:  # the recurrent layer has not processed the preceding frames
            counts[: self.warmup_frames] = 0
        return Batch(
            transposed(piece.notes[span].float(), shift),
            transposed(piece.pitch[span].float(), shift),
            piece.frame[span],
            counts,
        )

    def n_frames(self, item: int) -> int:
        """Return the length of an excerpt."""
        index, _, n_excerpts = self.items[item]
        return -(-len(self.pieces[index].notes) // n_excerpts)


class WholePieces(Dataset[Batch]):
    """Batches of whole pieces of similar length, without transposition."""

    def __init__(self, pieces: Sequence[PieceFeatures], *, batch_size: int) -> None:
        ordered = sorted(pieces, key=lambda piece: len(piece.notes))
        self.batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch:
        return padded(
            [
                Batch(piece.notes.float(), piece.pitch.float(), piece.frame, torch.ones(len(piece.notes)))
                for piece in self.batches[item]
            ]
        )


def transposed(values: Tensor, shift: int) -> Tensor:
    """Transpose (..., 88) by `shift` semitones; no sounding note may leave the keyboard."""
    if not shift:
        return values
    moved = torch.zeros_like(values)
    if shift > 0:
        moved[..., shift:] = values[..., :-shift]
    else:
        moved[..., :shift] = values[..., -shift:]
    return moved


def padded(excerpts: Sequence[Batch]) -> Batch:
    """Pad excerpts to one batch."""
    return Batch(
        *(torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True) for part in zip(*excerpts, strict=True))
    )


class LengthBatches(BatchSampler):
    """Batches of excerpts of similar length, in random order.

    Takes the arguments of `BatchSampler` first, so that Lightning can build another one for several devices.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, lengths: Callable[[int], int]) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:
        pool: list[int] = []
        for index in self.sampler:
            pool.append(index)
            if len(pool) == _POOL_BATCHES * self.batch_size:
                yield from self._batches(pool)
                pool = []
        yield from self._batches(pool)

    def _batches(self, pool: Sequence[int]) -> list[list[int]]:
        ordered = sorted(pool, key=self.lengths)
        batches = [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]
        return [batches[index] for index in torch.randperm(len(batches)).tolist()]


def n_frames_of(pieces: Sequence[Any]) -> int:
    """Return the number of frames of all pieces."""
    return sum(len(piece.notes) for piece in pieces)
