"""Lanes as tensors: relative to a span's level, so that what is learnt in one key holds in all.

A relative span has the same form as a span, but its strikes count semitones from the level, the mean pitch: value
45 strikes the level itself, 2 is 43 semitones below it, 88 as many above.

Shapes: B batch, N time steps, V lanes.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from tritone.music.grid import N_PITCHES
from tritone.music.lanes import FIRST_STRIKE, HOLD, N_LANE_VALUES, REST

REACH: Final = 43  # semitones below and above the level; notes farther off come nearer by octaves
N_RELATIVE: Final = FIRST_STRIKE + 2 * REACH + 1  # values of a relative lane
N_SOUNDING: Final = N_RELATIVE - 1  # silence, and each of the pitches
N_MARKS: Final = 3  # rest, hold, strike
SILENCE: Final = 0
MIDDLE_LEVEL: Final = 39  # column of C4, the level of a span without notes
_OCTAVE: Final = 12


def level_of(lanes: Tensor) -> Tensor:
    """The mean of the struck pitches, as a column of the grid: (B, N, V) -> (B,) int64, 0..87."""
    strikes = lanes >= FIRST_STRIKE
    total = torch.where(strikes, lanes - FIRST_STRIKE, 0).sum((1, 2))
    count = strikes.sum((1, 2))
    # In whole numbers, so that no host rounds a half to another side.
    mean = torch.div(2 * total + count, 2 * count.clamp_min(1), rounding_mode="floor")
    return torch.where(count > 0, mean, MIDDLE_LEVEL)


def to_relative(lanes: Tensor, level: Tensor) -> Tensor:
    """Strikes as distances from a level: (B, N, V), (B,) -> (B, N, V), values below `N_RELATIVE`."""
    distance = lanes - FIRST_STRIKE - level[:, None, None]
    above = (distance - REACH).clamp_min(0)
    below = (-REACH - distance).clamp_min(0)
    octaves = _ceil_octaves(below) - _ceil_octaves(above)
    strikes = distance + _OCTAVE * octaves + REACH + FIRST_STRIKE
    return torch.where(lanes >= FIRST_STRIKE, strikes, lanes)


def to_absolute(relative: Tensor, level: Tensor) -> Tensor:
    """The opposite of `to_relative`; notes beyond the keyboard come back onto it by octaves."""
    pitch = relative - FIRST_STRIKE - REACH + level[:, None, None]
    octaves = _ceil_octaves((-pitch).clamp_min(0)) - _ceil_octaves((pitch - (N_PITCHES - 1)).clamp_min(0))
    return torch.where(relative >= FIRST_STRIKE, pitch + _OCTAVE * octaves + FIRST_STRIKE, relative)


def _ceil_octaves(semitones: Tensor) -> Tensor:
    return torch.div(semitones + _OCTAVE - 1, _OCTAVE, rounding_mode="floor")


def sounding_of(lanes: Tensor) -> Tensor:
    """What sounds in each lane: (B, N, V) -> (B, N, V) int64, 0 silence, above it the pitches, the lowest being 1.

    Without a loop over steps, so that it is a few nodes in the graph.
    """
    n_steps = lanes.shape[1]
    step = torch.arange(n_steps, device=lanes.device)
    begun = torch.where(lanes == HOLD, 0, step[:, None])  # (B, N, V) own step where something begins
    past = (step[None, :] <= step[:, None])[None, :, :, None]  # (1, N, N, 1)
    latest = torch.where(past, begun[:, None], 0).amax(2)  # (B, N, V) step at which what sounds now began
    value = torch.gather(lanes, 1, latest)
    return (value - HOLD).clamp_min(SILENCE)


def marks_of(lanes: Tensor, sounding: Tensor) -> Tensor:
    """0 rest, 1 hold, 2 strike; a hold of nothing is a rest: (B, N, V) each -> (B, N, V) int64."""
    return torch.where(sounding == SILENCE, REST, lanes.clamp_max(FIRST_STRIKE))


def sounding_next(sounding: Tensor, lanes: Tensor) -> Tensor:
    """What sounds after a step: sounding before it (B, V) and the step's values (B, V) -> (B, V)."""
    return torch.where(lanes == HOLD, sounding, (lanes - HOLD).clamp_min(SILENCE))


def before(values: Tensor) -> Tensor:
    """Shift one step later, silence coming first: (B, N, V) -> (B, N, V)."""
    return torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)


def transposed(lanes: Tensor, semitones: Tensor) -> Tensor:
    """Move spans up or down; a span of which a note would leave the keyboard stays as it is.

    Args:
        lanes: (B, N, V).
        semitones: (B,) int64.
    """
    strikes = lanes >= FIRST_STRIKE
    moved = lanes + semitones[:, None, None]
    fits = ~strikes | ((moved >= FIRST_STRIKE) & (moved < N_LANE_VALUES))
    return torch.where(strikes & fits.all(2).all(1)[:, None, None], moved, lanes)
