"""A pretrained backbone as a front end: musicnn over a 22,050 Hz window.

musicnn wants 16 kHz, frames of 512 and steps of 256 samples. Rather than resample in the graph, the same
frequencies and durations are measured at 22,050 Hz: a window of 706 and a step of 353 samples are 32.02 and
16.01 ms. Tests hold the tags against those of a resampled recording.

Shapes: B batch, W samples of a window, D features.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from tritone_training.kinds.genre_cnn.frontend import MelPower, MelSettings
from tritone_training.pretrained.musicnn import N_MELS, N_PENULTIMATE, N_POOLED, N_TAGS, Musicnn

_N_WINDOW: Final = 706
MUSICNN_MEL: Final = MelSettings(
    n_window=_N_WINDOW,
    n_hop=353,
    n_bins=257,
    bin_hz=16_000 / 512,
    n_mels=N_MELS,
    min_hz=0.0,
    max_hz=8_000.0,
    pad=353,
    scale=_N_WINDOW / 512,  # the longer sum of the same sound is larger by this
)


class MusicnnFeatures(nn.Module):
    """(B, W) -> (B, 1, D): the layers before the tags, then the tags themselves."""

    n_units = 1
    n_features = N_POOLED + N_PENULTIMATE + N_TAGS
    unit_samples = 33_075  # training draws windows every 1.5 s
    tag_slice = slice(N_POOLED + N_PENULTIMATE, N_POOLED + N_PENULTIMATE + N_TAGS)
    penultimate_slice = slice(N_POOLED, N_POOLED + N_PENULTIMATE)

    def __init__(self, network: Musicnn) -> None:
        super().__init__()
        self.power = MelPower(MUSICNN_MEL)
        self.network = network.eval()

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, 1, D)."""
        pooled, penultimate, tags = self.network(self.power(audio))
        return torch.cat([pooled, penultimate, tags], dim=1)[:, None]
