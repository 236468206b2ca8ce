"""The encoder of the two-bar autoencoder: spans to a normal distribution over the latent space.

The last number of the latent vector is the level, the span's mean pitch. Of the rest, each voice owns a part of each
quarter note: four voices times eight quarters, 32 equal parts, all made by the same layers. So what is learnt in one
key holds in all, and what is learnt about one quarter of one voice holds for all 32; some thousand spans suffice, and
a melody teaches what a fugue's voices need. Convolutions over quarters and the mixing of voices let each part know of
its neighbours.

Shapes: B batch, N = 32 time steps, V = 4 voices, Q = 8 quarters, D width of a quarter, E width of a step, Z latent.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone_training.bars.spans import (
    MIDDLE_LEVEL,
    N_MARKS,
    N_SOUNDING,
    REACH,
    SILENCE,
    level_of,
    marks_of,
    sounding_of,
    to_relative,
)

N_QUARTERS: Final = 8
STEPS_PER_QUARTER: Final = SPAN_FRAMES // N_QUARTERS
N_PARTS: Final = N_QUARTERS * N_VOICES
PITCH_SCALE: Final = 6.0  # semitones
_LOG_VARIANCE_RANGE: Final = (-8.0, 4.0)
_FIRST_LOG_VARIANCE: Final = -4.0  # little noise at first, or the decoder learns to ignore the latent
# The level is not learnt: it is a standard deviation of the prior for every eight semitones, give or take a quarter
# of a semitone.
LEVEL_SCALE: Final = 8.0
_LEVEL_LOG_VARIANCE: Final = 2 * math.log(0.25 / LEVEL_SCALE)


class ConvBlock(nn.Module):
    """(B, T, D) -> (B, T, D): a residual convolution over time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, 3, padding=1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = self.convolution(self.norm(x).transpose(1, 2)).transpose(1, 2)
        added: Tensor = x + self.out(nn.functional.silu(hidden))
        return added


class FeedForward(nn.Module):
    """(B, T, D) -> (B, T, D): a residual layer for each step alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        added: Tensor = x + self.narrow(nn.functional.silu(self.wide(self.norm(x))))
        return added


class MixVoices(nn.Module):
    """(B, V, Q, D) -> (B, V, Q, D): mixes the voices of each quarter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(N_VOICES * width, width)
        self.out = nn.Linear(width, N_VOICES * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, V, Q, D) -> (B, V, Q, D)."""
        together = nn.functional.silu(self.mix(self.norm(x).transpose(1, 2).flatten(2)))
        added: Tensor = x + self.out(together).unflatten(2, (N_VOICES, -1)).transpose(1, 2)
        return added


class SpanEncoder(nn.Module):
    """Voices to mean and log variance.

    Args:
        n_latent: Z, one more than a multiple of 32.
        width: D of a quarter of a voice.
        step_width: E of a time step of a voice.
    """

    def __init__(self, *, n_latent: int, width: int, step_width: int) -> None:
        super().__init__()
        self.sounding = nn.Embedding(N_SOUNDING, step_width)
        self.mark = nn.Embedding(N_MARKS, step_width)
        self.lane = nn.Parameter(0.02 * torch.randn(N_VOICES, 1, step_width))
        self.step = nn.Parameter(0.02 * torch.randn(SPAN_FRAMES, step_width))
        self.steps = ConvBlock(step_width)
        self.to_quarters = nn.Linear(STEPS_PER_QUARTER * step_width, width)
        self.quarters = ConvBlock(width)
        self.lanes = nn.Sequential(MixVoices(width), FeedForward(width), nn.LayerNorm(width))
        self.mean = nn.Linear(width, (n_latent - 1) // N_PARTS)
        self.log_variance = nn.Linear(width, (n_latent - 1) // N_PARTS)
        with torch.no_grad():  # pitches that are near begin near
            self.sounding.weight[1:, 0] = (torch.arange(N_SOUNDING - 1) - REACH) / PITCH_SCALE
            self.sounding.weight[SILENCE, 0] = 0
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, _FIRST_LOG_VARIANCE)

    def forward(self, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            voices: (B, N, V) int64; values out of range count as the nearest in range.

        Returns:
            mean and log variance, (B, Z) each.
        """
        voices = voices.clamp(0, N_VOICE_VALUES - 1)
        level = level_of(voices)
        voices = to_relative(voices, level)
        sounding = sounding_of(voices)
        embedded = (self.sounding(sounding) + self.mark(marks_of(voices, sounding))).transpose(1, 2)  # (B, V, N, E)
        x = self.steps((embedded + self.lane + self.step).flatten(0, 1))
        x = self.to_quarters(x.unflatten(1, (N_QUARTERS, STEPS_PER_QUARTER)).flatten(2))  # (B * V, Q, D)
        x = self.lanes(self.quarters(x).unflatten(0, (-1, N_VOICES))).transpose(1, 2)  # (B, Q, V, D)
        log_variance = self.log_variance(x).flatten(1).clamp(*_LOG_VARIANCE_RANGE)
        level_mean = (level - MIDDLE_LEVEL).to(x.dtype)[:, None] / LEVEL_SCALE
        return (
            torch.cat([self.mean(x).flatten(1), level_mean], dim=1),
            torch.cat([log_variance, torch.full_like(level_mean, _LEVEL_LOG_VARIANCE)], dim=1),
        )
