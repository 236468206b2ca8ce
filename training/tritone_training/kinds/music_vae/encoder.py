"""Lanes in, a normal distribution over the latent space out.

The last number of the latent vector is the level, the span's mean pitch; of the rest, each quarter note owns an
eighth. So what is learnt in one key holds in all, and what is learnt about one quarter holds for all eight, and a few
thousand spans suffice. Convolutions and the mixing of quarters let each part know of its neighbours.

Letters: B batch, N = 32 time steps, V = 4 lanes, Q = 8 quarters, D width, Z latent.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from tritone_client.music.lanes import N_LANE_VALUES, N_LANES, SPAN_FRAMES
from tritone_training.kinds.music_vae.lanes import (
    MIDDLE_LEVEL,
    N_MARKS,
    N_SOUNDING,
    level_of,
    marks_of,
    sounding_of,
    to_relative,
)

N_QUARTERS: Final = 8
STEPS_PER_QUARTER: Final = SPAN_FRAMES // N_QUARTERS
_LOG_VARIANCE_RANGE: Final = (-8.0, 4.0)
_FIRST_LOG_VARIANCE: Final = -4.0  # begin with little noise: a decoder that cannot hear the latent learns to ignore it
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


class MixQuarters(nn.Module):
    """(B, Q, D) -> (B, Q, D): every quarter hears every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(N_QUARTERS, N_QUARTERS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        added: Tensor = x + self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return added


class SpanEncoder(nn.Module):
    """Lanes to mean and log variance.

    Args:
        n_latent: Z, one more than a multiple of 8.
        width: D of a time step; a quarter has twice as much.
    """

    def __init__(self, *, n_latent: int, width: int) -> None:
        super().__init__()
        self.sounding = nn.ModuleList(nn.Embedding(N_SOUNDING, width) for _ in range(N_LANES))
        self.mark = nn.ModuleList(nn.Embedding(N_MARKS, width) for _ in range(N_LANES))
        self.step = nn.Parameter(0.02 * torch.randn(SPAN_FRAMES, width))
        self.steps = ConvBlock(width)
        self.to_quarters = nn.Linear(STEPS_PER_QUARTER * width, 2 * width)
        self.quarters = nn.Sequential(ConvBlock(2 * width), MixQuarters(2 * width), FeedForward(2 * width))
        self.norm = nn.LayerNorm(2 * width)
        self.mean = nn.Linear(2 * width, (n_latent - 1) // N_QUARTERS)
        self.log_variance = nn.Linear(2 * width, (n_latent - 1) // N_QUARTERS)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, _FIRST_LOG_VARIANCE)

    def forward(self, lanes: Tensor) -> tuple[Tensor, Tensor]:
        """Encode.

        Args:
            lanes: (B, N, V) int64; values out of range count as the nearest in range.

        Returns:
            mean and log variance, (B, Z) each.
        """
        lanes = lanes.clamp(0, N_LANE_VALUES - 1)
        level = level_of(lanes)
        lanes = to_relative(lanes, level)
        sounding = sounding_of(lanes)
        marks = marks_of(lanes, sounding)
        x = self.step + sum(
            embed_sounding(sounding[..., lane]) + embed_mark(marks[..., lane])
            for lane, (embed_sounding, embed_mark) in enumerate(zip(self.sounding, self.mark, strict=True))
        )
        x = self.to_quarters(self.steps(x).unflatten(1, (N_QUARTERS, STEPS_PER_QUARTER)).flatten(2))  # (B, Q, 2D)
        x = self.norm(self.quarters(x))
        log_variance = self.log_variance(x).flatten(1).clamp(*_LOG_VARIANCE_RANGE)
        level_mean = (level - MIDDLE_LEVEL).to(x.dtype)[:, None] / LEVEL_SCALE
        return (
            torch.cat([self.mean(x).flatten(1), level_mean], dim=1),
            torch.cat([log_variance, torch.full_like(level_mean, _LEVEL_LOG_VARIANCE)], dim=1),
        )
