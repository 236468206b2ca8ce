"""Pieces as the network learns them: features computed once, excerpts drawn and transposed again in each epoch.

Excerpts are transposed, and some of their conditions are hidden at random, so that the decoder learns to do without.

Shapes: B pieces or excerpts, T frames, 88 pitches, C features of a pitch, G features of a frame, K pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from tritone.music.grid import HELD, N_PITCHES, STRUCK
from tritone_training.data.piece_conditions import (
    PieceConditions,
    conditions_of,
    density_edges,
    excerpt_of,
    templates,
    unknown,
)
from tritone_training.data.scores import ScorePiece, ScoreSet
from tritone_training.exceptions import DataError
from tritone_training.kinds.polyphony_rnn.conditions import (
    DENSITY,
    KEY,
    LEFT,
    REPEATS,
    STYLE,
    VOICES,
    frame_conditions,
    history_features,
    transposed_key,
    without_metre,
    without_repeats,
)
from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import FRAMES_PER_QUARTER
from tritone_training.kinds.polyphony_rnn.features import N_LAGS, FeatureExtractor, FrameFeatures

_PIECES_AT_ONCE: Final = 64
_MOST_LOST: Final = 0.25  # of the notes of a training piece on a coarser grid
_POOL_BATCHES: Final = 16  # excerpts of so many batches are sorted by length, so that little is padding


@dataclass(frozen=True, eq=False)
class PieceNotes:
    """The notes of a piece.

    Attributes:
        notes: (T, 88) bool, what sounds.
        struck: (T, 88) bool, what begins.
        style: 1.. in the order of the styles of the data set; 0 if unknown.
        bar_frames: frames in a bar; 0 if unknown.
        conditions: (T, 9) int64, see `conditions`.
    """

    name: str
    notes: Tensor
    struck: Tensor
    style: int
    bar_frames: int
    conditions: Tensor

    @classmethod
    def of(cls, score: ScorePiece, asked: PieceConditions | None = None, *, styles: Sequence[str] = ()) -> PieceNotes:
        """Return the notes of a score.

        Args:
            asked: what the piece could have been asked for; all is unknown if None.
            styles: names of the styles that are distinguished; all others are unknown.
        """
        notes = torch.from_numpy(score.frames > 0)
        style = 1 + styles.index(score.style) if score.style in styles else 0
        bar_frames, first_position = score.meter
        conditions = frame_conditions(
            notes,
            unknown(len(notes)) if asked is None else asked,
            style=style,
            bar_frames=bar_frames,
            first_position=first_position,
        )
        return cls(score.name, notes, torch.from_numpy(score.frames == STRUCK), style, bar_frames, conditions)

    def cut(self, n_frames: int) -> PieceNotes:
        """Return the first frames of the piece; its conditions stay those of the whole."""
        return replace(
            self,
            notes=self.notes[:n_frames],
            struck=self.struck[:n_frames],
            conditions=self.conditions[:n_frames],
        )


@dataclass(frozen=True, eq=False)
class PieceFeatures:
    """A piece with the features before each of its frames.

    Attributes:
        pitch: (T, C, 88) float16: 1.4 kB a frame, which is what a data set takes in memory.
        frame: (T, G) float32.
    """

    piece: PieceNotes
    pitch: Tensor
    frame: Tensor

    @property
    def notes(self) -> Tensor:
        """(T, 88) bool."""
        return self.piece.notes


class Batch(NamedTuple):
    """Excerpts, padded to the longest.

    Attributes:
        notes: (B, T, 88) float, what is to be predicted.
        pitch: (B, T, C, 88) features before each frame.
        frame: (B, T, G).
        counts: (B, T) 1 where a frame counts in the loss or the metrics, 0 in warm-up and padding.
        struck: (B, T, 88) float, what begins.
        history: (B, T, 16, 88) see `history_features`.
        conditions: (B, T, 9) int64.
    """

    notes: Tensor
    pitch: Tensor
    frame: Tensor
    counts: Tensor
    struck: Tensor
    history: Tensor
    conditions: Tensor


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


def reduced(scores: Sequence[ScorePiece], *, own: int, wanted: int, whole: bool = False) -> list[ScorePiece]:
    """Reduce pieces to a coarser grid; notes that begin and end between two of its frames are lost.

    Args:
        own: frames in a quarter note of the pieces; 0 if unknown, and then every frame is taken.
        wanted: of the result, a divisor of `own`.
        whole: keep the grid of a piece that would lose many notes. A reel in 2/4 in sixteenths is thus the same as in
            cut time in eighths.
    """
    coarse = own // wanted if own else 1
    found = []
    for score in scores:
        step = 1 if whole and _share_lost(score, coarse) > _MOST_LOST else coarse
        length, index = score.meter
        first = -index % step  # so that frames fall on the beats
        first = first if first < len(score.frames) else 0
        notes = score.frames[first::step] > 0
        struck = _struck(score.frames, first, step) & notes
        meter = (0, 0) if length % step or not length else (length // step, (index + first) // step % (length // step))
        frames = notes.astype(np.uint8) * HELD + struck.astype(np.uint8) * (STRUCK - HELD)
        signature = score.time_signature if step == coarse else None
        found.append(replace(score, frames=frames, meter=meter, voices=None, time_signature=signature))
    return found


class LearnedPieces(NamedTuple):
    """What is learned from the training pieces.

    Attributes:
        pieces: whole pieces.
        excerpts: parts of them that begin with a bar and end with a cadence.
        templates: conditions of the pieces, see `piece_conditions.templates`.
    """

    pieces: tuple[PieceNotes, ...]
    excerpts: tuple[PieceNotes, ...]
    templates: list[dict[str, Any]]


def learned_pieces(
    scores: Sequence[ScorePiece], *, styles: Sequence[str], frames_per_quarter: int, n_excerpts: int, seed: int
) -> LearnedPieces:
    """Return training pieces with their conditions.

    Args:
        scores: on the grid that is to be learned.
        styles: names of the styles that are distinguished.
        frames_per_quarter: 0 if unknown.
        n_excerpts: of each piece, chosen at random.
        seed: of that choice.
    """
    edges = density_edges(scores)
    grid = {"reach": N_LAGS, "frames_per_quarter": frames_per_quarter or FRAMES_PER_QUARTER}
    asked = [conditions_of(score, edges, **grid) for score in scores]
    random = np.random.default_rng(seed)
    parts = [excerpt_of(score, edges, **grid, random=random) for score in scores for _ in range(n_excerpts)]
    return LearnedPieces(
        pieces=tuple(PieceNotes.of(score, each, styles=styles) for score, each in zip(scores, asked, strict=True)),
        excerpts=tuple(PieceNotes.of(*part, styles=styles) for part in parts if part is not None),
        templates=templates(scores, asked),
    )


def _share_lost(score: ScorePiece, step: int) -> float:
    """Return the share of the notes of a piece that begin and end between two frames of a grid of every `step`."""
    struck = score.frames == STRUCK
    sounding = score.frames > 0
    first = -score.meter[1] % step
    reached = np.arange(len(struck)) % step == first
    # A note that begins elsewhere is kept if it still sounds at the next frame of the coarser grid.
    for later in range(1, step):
        there = np.zeros(len(struck), bool)
        there[:-later] = (np.arange(len(struck)) % step == first)[later:]
        held = np.zeros_like(sounding)
        held[:-later] = (score.frames == HELD)[later:]
        kept = struck & there[:, None] & held
        struck = struck & ~kept
    n_notes = int((score.frames == STRUCK).sum())
    return float((struck & ~reached[:, None]).sum() / n_notes) if n_notes else 0.0


def _struck(frames: npt.NDArray[np.uint8], first: int, step: int) -> npt.NDArray[np.bool_]:
    """Return which pitches begin at a frame of the coarser grid, or since the one before: (T, 88)."""
    padding = np.zeros((step - 1, N_PITCHES), bool)
    begins = np.concatenate([padding, frames[first:] == STRUCK])
    n_frames = -(-(len(frames) - first) // step)
    spans = np.concatenate([begins, padding])[: n_frames * step].reshape(n_frames, step, N_PITCHES)
    struck: npt.NDArray[np.bool_] = spans.any(1)
    struck[0] |= frames[first] > 0
    return struck


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
            n_frames = len(pieces[index].notes)
            computed[index] = PieceFeatures(
                piece=pieces[index],
                pitch=features.pitch[row, :n_frames].clone(),
                frame=features.frame[row, :n_frames].clone(),
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
        self.hidden_conditions = config.hidden_conditions
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
        notes = piece.piece
        history = history_features(notes.notes, notes.struck, notes.bar_frames, notes.conditions[:, REPEATS])[span]
        conditions = transposed_key(notes.conditions[span], shift)
        for column in (KEY, STYLE, LEFT, DENSITY, VOICES):
            if float(torch.rand(())) < self.hidden_conditions:
                conditions[:, column] = 0
        for hide in (without_metre, without_repeats):
            if float(torch.rand(())) < self.hidden_conditions:
                conditions, history = hide(conditions, history)
        return Batch(
            transposed(notes.notes[span].float(), shift),
            transposed(piece.pitch[span].float(), shift),
            piece.frame[span],
            counts,
            transposed(notes.struck[span].float(), shift),
            transposed(history, shift),
            conditions,
        )

    def weights(self, balance: float) -> list[float]:
        """Return how much more often each excerpt is to be drawn than those of the most frequent style.

        Args:
            balance: 0 equally often, 1 so that all styles are.
        """
        styles = [self.pieces[index].piece.style for index, *_ in self.items]
        n_of = Counter(styles)
        most = max(n_of.values())
        return [(most / n_of[style]) ** balance for style in styles]

    def n_frames(self, item: int) -> int:
        """Return the length of an excerpt."""
        index, _, n_excerpts = self.items[item]
        return -(-len(self.pieces[index].notes) // n_excerpts)


class WholePieces(Dataset[Batch]):
    """Batches of whole pieces of similar length, without transposition, all conditions unknown."""

    def __init__(self, pieces: Sequence[PieceFeatures], *, batch_size: int) -> None:
        ordered = sorted(pieces, key=lambda piece: len(piece.notes))
        self.batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch:
        return padded(
            [
                Batch(
                    piece.notes.float(),
                    piece.pitch.float(),
                    piece.frame,
                    torch.ones(len(piece.notes)),
                    piece.piece.struck.float(),
                    history_features(piece.notes, piece.piece.struck, 0),
                    torch.zeros_like(piece.piece.conditions),
                )
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
    """Batches of excerpts of similar length, in random order."""

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
