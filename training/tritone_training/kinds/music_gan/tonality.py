"""Keys inside the graph: the Krumhansl-Schmuckler estimate, a tilt towards a key, and the level that leads to one.

The estimate is that of `tritone_training.musicality.key`, in whole numbers: with rounded sums, two keys that are
almost equally likely could change places from host to host, and the whole span with them.

Shapes: B batch, N = 32 time steps, V = 4 lanes, P 88 pitches, K = 89 values of a relative
lane.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone.music.lanes import FIRST_STRIKE
from tritone_training.kinds.music_vae.lanes import REACH, sounding_of
from tritone_training.musicality.key import N_KEYS, N_MODES, PITCH_CLASSES, PROFILES, key_profiles

_SCALE: Final = 10_000
_SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10, 11))  # degrees of the major and the minor scale
_OUTSIDE_NATS: Final = 8.0
_OCTAVES: Final = 8
_NEVER: Final = -(2**40)


class KeyEstimate(nn.Module):
    """Lanes to the tonic that fits best, among all keys or those of one mode."""

    def __init__(self) -> None:
        super().__init__()
        # (24, 88): how much a step of a pitch speaks for a key.
        weights = np.round(_SCALE * key_profiles())[:, PITCH_CLASSES].astype(np.int64)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)
        self.weights: Tensor

    def forward(self, lanes: Tensor, mode: Tensor) -> Tensor:
        """Estimate the tonic.

        Args:
            lanes: (B, N, V).
            mode: (B,) int64, 0 major, 1 minor; below 0 either.

        Returns:
            (B,) int64, 0 C .. 11 B.
        """
        durations = nn.functional.one_hot(sounding_of(lanes), N_PITCHES + 1)[..., 1:].amax(2).sum(1)  # (B, P)
        scores = (durations[:, None, :] * self.weights).sum(2)  # (B, 24)
        rank = torch.arange(N_KEYS * N_MODES, device=lanes.device)
        scores = scores * (N_KEYS * N_MODES) - rank  # no two are equal
        wanted = (mode[:, None] < 0) | (torch.div(rank, N_KEYS, rounding_mode="floor") == mode[:, None])
        best = torch.where(wanted, scores, _NEVER).argmax(1)
        return best - N_KEYS * torch.div(best, N_KEYS, rounding_mode="floor")


class KeyTilt(nn.Module):
    """How much likelier a key makes each value of a relative lane.

    Notes outside the scale (the minor one with both seventh degrees) are all but forbidden; those inside are favoured
    as listeners find them fitting, by the profiles of Krumhansl & Kessler (1982), a nat for each point of their scale.
    """

    def __init__(self) -> None:
        super().__init__()
        table = np.full((N_MODES, 12), -_OUTSIDE_NATS)
        for mode, (profile, scale) in enumerate(zip(PROFILES, _SCALES, strict=True)):
            inside = np.array(profile)[list(scale)]
            table[mode, list(scale)] = inside - inside.mean()
        self.register_buffer("table", torch.from_numpy(table.astype(np.float32)), persistent=False)
        self.register_buffer("distances", torch.arange(-REACH, REACH + 1), persistent=False)
        self.table: Tensor
        self.distances: Tensor

    def forward(self, tonic: Tensor, mode: Tensor, level: Tensor) -> Tensor:
        """Nats to add.

        Args:
            tonic: (B,) int64, 0 C .. 11 B.
            mode: (B,) int64, 0 major, 1 minor.
            level: (B,) int64, of the span, a column of the grid.

        Returns:
            (B, K), 0 for rest and hold.
        """
        degree = self.distances + (level + LOWEST_PITCH - tonic)[:, None] + 12 * _OCTAVES  # above 0
        degree = degree - 12 * torch.div(degree, 12, rounding_mode="floor")
        strikes = torch.gather(self.table[mode], 1, degree)
        return nn.functional.pad(strikes, (FIRST_STRIKE, 0))


def nearest_shift(tonic: Tensor, key: Tensor) -> Tensor:
    """Semitones, -6 to 5, that bring a tonic to a key; 0 for a key below 0: (B,) each -> (B,)."""
    difference = key - tonic + 18  # above 0 whatever they are
    shift = difference - 12 * torch.div(difference, 12, rounding_mode="floor") - 6
    return torch.where(key < 0, torch.zeros_like(shift), shift)
