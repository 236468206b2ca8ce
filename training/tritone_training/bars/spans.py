"""Two-bar spans for four voices: cutting them from scores, and their voices as tensors.

A relative span has the same form as a span, but its strikes count semitones from the level (the mean pitch of the
span), so that a network generalises over keys: value 45 strikes the level itself, 2 is 43 semitones below it, 88 is 43
above.

Shapes: B batch, S spans, N = 32 time steps, V = 4 voices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritone.music.grid import N_PITCHES
from tritone.music.voices import FIRST_STRIKE, HOLD, N_VOICE_VALUES, REST, SPAN_FRAMES, grid_to_voices
from tritone_training.data.scores import ScorePiece, ScoreSet
from tritone_training.exceptions import DataError

REACH: Final = 43  # semitones below and above the level; notes farther off come nearer by octaves
N_RELATIVE: Final = FIRST_STRIKE + 2 * REACH + 1  # values of a relative voice
N_SOUNDING: Final = N_RELATIVE - 1  # silence, and each of the pitches
N_MARKS: Final = 3  # rest, hold, strike
SILENCE: Final = 0
MIDDLE_LEVEL: Final = 39  # column of C4, the level of a span without notes
_OCTAVE: Final = 12


def level_of(voices: Tensor) -> Tensor:
    """Return the mean of the struck pitches as a column of the grid: (B, N, V) -> (B,) int64, 0..87."""
    strikes = voices >= FIRST_STRIKE
    total = torch.where(strikes, voices - FIRST_STRIKE, 0).sum((1, 2))
    count = strikes.sum((1, 2))
    # In whole numbers, so that no host rounds a half to another side.
    mean = torch.div(2 * total + count, 2 * count.clamp_min(1), rounding_mode="floor")
    return torch.where(count > 0, mean, MIDDLE_LEVEL)


def to_relative(voices: Tensor, level: Tensor) -> Tensor:
    """Express strikes as distances from a level: (B, N, V), (B,) -> (B, N, V), values below `N_RELATIVE`."""
    distance = voices - FIRST_STRIKE - level[:, None, None]
    above = (distance - REACH).clamp_min(0)
    below = (-REACH - distance).clamp_min(0)
    octaves = _ceil_octaves(below) - _ceil_octaves(above)
    strikes = distance + _OCTAVE * octaves + REACH + FIRST_STRIKE
    return torch.where(voices >= FIRST_STRIKE, strikes, voices)


def to_absolute(relative: Tensor, level: Tensor) -> Tensor:
    """Invert `to_relative`; notes beyond the keyboard are moved onto it by octaves."""
    pitch = relative - FIRST_STRIKE - REACH + level[:, None, None]
    octaves = _ceil_octaves((-pitch).clamp_min(0)) - _ceil_octaves((pitch - (N_PITCHES - 1)).clamp_min(0))
    return torch.where(relative >= FIRST_STRIKE, pitch + _OCTAVE * octaves + FIRST_STRIKE, relative)


def _ceil_octaves(semitones: Tensor) -> Tensor:
    return torch.div(semitones + _OCTAVE - 1, _OCTAVE, rounding_mode="floor")


def sounding_of(voices: Tensor) -> Tensor:
    """Return what sounds in each voice: (B, N, V) -> (B, N, V) int64, 0 for silence, then the pitches from 1.

    Computed without a loop over steps, so that the exported graph stays small.
    """
    n_steps = voices.shape[1]
    step = torch.arange(n_steps, device=voices.device)
    begun = torch.where(voices == HOLD, 0, step[:, None])  # (B, N, V) own step where something begins
    past = (step[None, :] <= step[:, None])[None, :, :, None]  # (1, N, N, 1)
    latest = torch.where(past, begun[:, None], 0).amax(2)  # (B, N, V) step at which what sounds now began
    value = torch.gather(voices, 1, latest)
    return (value - HOLD).clamp_min(SILENCE)


def marks_of(voices: Tensor, sounding: Tensor) -> Tensor:
    """Return 0 for rests and holds of silence, 1 for holds, 2 for strikes: (B, N, V) each -> (B, N, V) int64."""
    return torch.where(sounding == SILENCE, REST, voices.clamp_max(FIRST_STRIKE))


def sounding_next(sounding: Tensor, voices: Tensor) -> Tensor:
    """Return what sounds after a step, from what sounded before it (B, V) and the values of the step (B, V)."""
    return torch.where(voices == HOLD, sounding, (voices - HOLD).clamp_min(SILENCE))


def before(values: Tensor) -> Tensor:
    """Shift by one step, starting with silence: (B, N, V) -> (B, N, V)."""
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)


def transposed(voices: Tensor, semitones: Tensor) -> Tensor:
    """Transpose spans; a span with a note that would leave the keyboard is returned unchanged.

    Args:
        voices: (B, N, V).
        semitones: (B,) int64.
    """
    strikes = voices >= FIRST_STRIKE
    moved = voices + semitones[:, None, None]
    fits = ~strikes | ((moved >= FIRST_STRIKE) & (moved < N_VOICE_VALUES))
    return torch.where(strikes & fits.all(2).all(1)[:, None, None], moved, voices)


STEPS_PER_BAR: Final = SPAN_FRAMES // 2
_FRAMES_PER_QUARTER: Final = 4


@dataclass(frozen=True, eq=False)
class SpanSet:
    """Spans with their pieces and styles.

    Attributes:
        voices: (S, N, V) int64.
        pieces: (S,) index of each span's piece within its split.
        styles: (S,) index of its style within `style_names`.
        ends: (S,) bool, whether the span is the last bar of a piece, followed by silence.
        report: counts of spans and of pieces that were left out.
    """

    voices: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int64]
    styles: npt.NDArray[np.int64]
    ends: npt.NDArray[np.bool_]
    style_names: tuple[str, ...]
    report: dict[str, int]

    def __len__(self) -> int:
        return len(self.voices)

    def take(self, indices: npt.NDArray[np.int64]) -> SpanSet:
        """Return the spans with the given indices."""
        return SpanSet(
            voices=self.voices[indices],
            pieces=self.pieces[indices],
            styles=self.styles[indices],
            ends=self.ends[indices],
            style_names=self.style_names,
            report={"n_spans": len(indices)},
        )

    def whole(self) -> SpanSet:
        """Return the spans that are not filled up with silence."""
        return self.take(np.flatnonzero(~self.ends))

    def at_most(self, n_per_style: int) -> SpanSet:
        """Return at most n evenly spaced spans of each style, so that a large style does not outweigh the others."""
        chosen = []
        for style in range(len(self.style_names)):
            (own,) = np.nonzero(self.styles == style)
            chosen.append(own[np.linspace(0, len(own) - 1, min(len(own), n_per_style)).astype(np.int64)])
        return self.take(np.concatenate(chosen))


def cut_spans(
    scores: ScoreSet,
    split: str | None,
    *,
    with_ends: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SpanSet:
    """Cut all spans of two bars of 4/4 in one split (None: all), one beginning at every bar.

    Bars are the score's own where its bars, halves or pairs of them are as long as 4/4 (2/4, 2/2, 4/2); pieces in
    other meters are left out. Where the meter is unknown a bar is 16 steps from the beginning.

    Args:
        with_ends: also cut the last bar of each piece, followed by silence, since pieces in requests end as well.

    Raises:
        DataError: there are no spans, or the time steps are not sixteenths.
    """
    if scores.frames_per_quarter not in (0, _FRAMES_PER_QUARTER):
        raise DataError(
            f"{scores.source}: has {scores.frames_per_quarter} time steps in a quarter note; spans need sixteenths"
        )
    pieces = scores.pieces if split is None else scores.split(split)
    style_names = scores.styles
    voices: list[npt.NDArray[np.int64]] = []
    origins: list[tuple[int, int, bool]] = []
    report = {"n_pieces": len(pieces), "n_pieces_in_other_meters": 0, "n_pieces_too_short": 0, "n_silent_spans": 0}
    for index, piece in enumerate(pieces):
        on_progress(index, len(pieces))
        starts = _starts(piece, with_ends=with_ends)
        if starts is None:
            report["n_pieces_in_other_meters"] += 1
        elif not starts:
            report["n_pieces_too_short"] += 1
        for start in starts or ():
            frames = piece.frames[start : start + SPAN_FRAMES]
            if not frames.any():
                report["n_silent_spans"] += 1
                continue
            is_end = len(frames) < SPAN_FRAMES
            voices.append(grid_to_voices(np.pad(frames, ((0, SPAN_FRAMES - len(frames)), (0, 0)))))
            origins.append((index, style_names.index(piece.style), is_end))
    if not voices:
        raise DataError(f"{scores.source}: has no two bars of 4/4 in {_where(split)}; {_why(report)}")
    own_pieces, styles, ends = np.array(origins, np.int64).T
    return SpanSet(
        np.stack(voices), own_pieces, styles, ends.astype(bool), style_names, {"n_spans": len(voices), **report}
    )


def _starts(piece: ScorePiece, *, with_ends: bool) -> Sequence[int] | None:
    """Return the first steps of the spans of a piece; None if its bars do not fit 4/4."""
    length, index = piece.meter
    if length and STEPS_PER_BAR % length and length % STEPS_PER_BAR:
        return None
    first = -index % length if length else 0
    shortest = STEPS_PER_BAR if with_ends else SPAN_FRAMES
    return range(first, len(piece.frames) - shortest + 1, STEPS_PER_BAR)


def _where(split: str | None) -> str:
    return "any split" if split is None else f"the split {split!r}"


def _why(report: dict[str, int]) -> str:
    return (
        f"of {report['n_pieces']} piece(s) {report['n_pieces_in_other_meters']} are in other meters and "
        f"{report['n_pieces_too_short']} shorter than {SPAN_FRAMES} sixteenths"
    )
