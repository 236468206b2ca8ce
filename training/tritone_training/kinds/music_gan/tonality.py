"""The Krumhansl-Schmuckler key estimate inside the graph, and the level that brings a span into a key.

The estimate is that of `tritone_training.musicality.key`, in whole numbers: with rounded sums, two keys that are
almost equally likely could change places from host to host, and the whole span with them.

Letters: B batch, N = 32 time steps, V = 4 lanes, P 88 pitches.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from tritone_client.music.grid import N_PITCHES
from tritone_training.kinds.music_vae.lanes import sounding_of
from tritone_training.musicality.key import N_KEYS, N_MODES, PITCH_CLASSES, key_profiles

_SCALE: Final = 10_000
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


def nearest_shift(tonic: Tensor, key: Tensor) -> Tensor:
    """Semitones, -6 to 5, that bring a tonic to a key; 0 for a key below 0: (B,) each -> (B,)."""
    difference = key - tonic + 18  # above 0 whatever they are
    shift = difference - 12 * torch.div(difference, 12, rounding_mode="floor") - 6
    return torch.where(key < 0, torch.zeros_like(shift), shift)
