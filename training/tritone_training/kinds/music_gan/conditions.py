"""Conditions of generated music: mode, density and key.

What the caller leaves open is drawn inside the graph from the distribution of the training set, so that the generator
always works under full conditions and "any" is as varied as the training set. The style, which callers cannot choose,
is drawn last, with its probability given mode and density.

The key estimate is that of `tritone.music.keys.estimate_keys`, in whole numbers: with rounded sums, two keys
that are almost equally likely could be ordered differently on different hosts, which would change the whole span.

Shapes: B batch, S spans, N = 32 time steps, V = 4 voices, D 33 quantiles, T styles, P 88 pitches, K = 89 values of a
relative voice, C = 3 + T width of the features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone.music.keys import N_KEYS, N_MODES, PITCH_CLASSES, PROFILES, estimate_keys, key_profiles
from tritone.music.voices import FIRST_STRIKE
from tritone_training.bars.spans import REACH, SpanSet, sounding_of
from tritone_training.musicality import measure_attributes, spans_to_frames

_N_QUANTILES: Final = 33
_LEAST_DEVIATION: Final = 0.1  # notes in a quarter


@dataclass(frozen=True, eq=False)
class SpanConditions:
    """Measured mode (S,) and density (S,) of spans, and their labelled style (S,)."""

    mode: npt.NDArray[np.int64]
    density: npt.NDArray[np.float32]
    style: npt.NDArray[np.int64]


def measure_conditions(spans: SpanSet) -> SpanConditions:
    """Return mode (Krumhansl-Schmuckler; major for silence), struck notes in a quarter, and style of spans."""
    frames = spans_to_frames(spans.voices)
    _, mode = estimate_keys(frames)
    return SpanConditions(np.maximum(mode, 0), measure_attributes(frames)[:, 0].astype(np.float32), spans.styles)


class ConditionEncoder(nn.Module):
    """Draws conditions that a request leaves open, and encodes conditions as features.

    The buffers come from `learn`: the share of major spans, quantiles of the density in each mode, its mean and
    deviation; of each style and mode the logarithm of its share, and its own density's mean and deviation.

    Args:
        n_styles: T.
    """

    def __init__(self, n_styles: int) -> None:
        super().__init__()
        self.n_styles = n_styles
        self.n_features = n_features(n_styles)
        self.register_buffer("major_share", torch.tensor(0.5))
        self.register_buffer("density_quantiles", torch.zeros(N_MODES, _N_QUANTILES))
        self.register_buffer("density_mean", torch.tensor(0.0))
        self.register_buffer("density_deviation", torch.tensor(1.0))
        self.register_buffer("style_log_share", torch.zeros(N_MODES, n_styles))
        self.register_buffer("style_density_mean", torch.zeros(N_MODES, n_styles))
        self.register_buffer("style_density_deviation", torch.ones(N_MODES, n_styles))
        self.major_share: Tensor
        self.density_quantiles: Tensor
        self.density_mean: Tensor
        self.density_deviation: Tensor
        self.style_log_share: Tensor
        self.style_density_mean: Tensor
        self.style_density_deviation: Tensor

    def learn(self, measured: SpanConditions) -> None:
        """Fit the distribution of conditions to the training set."""
        shares = np.linspace(0, 1, _N_QUANTILES)
        for mode in range(N_MODES):
            own = measured.density[measured.mode == mode]
            quantiles = np.quantile(own if own.size else measured.density, shares)
            self.density_quantiles[mode] = torch.from_numpy(quantiles.astype(np.float32))
        self.major_share.fill_(float((measured.mode == 0).mean()))
        self.density_mean.fill_(float(measured.density.mean()))
        self.density_deviation.fill_(max(float(measured.density.std()), 1e-3))
        for mode in range(N_MODES):
            for style in range(self.n_styles):
                own = measured.density[(measured.mode == mode) & (measured.style == style)]
                # One span more than there is, so that no style becomes impossible.
                self.style_log_share[mode, style] = math.log((own.size + 1) / (len(measured.density) + self.n_styles))
                self.style_density_mean[mode, style] = float(own.mean()) if own.size else self.density_mean
                spread = float(own.std()) if own.size > 1 else 0.0
                self.style_density_deviation[mode, style] = max(spread, _LEAST_DEVIATION)

    def resolve(self, chance: Tensor, mode: Tensor, density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw conditions that are open, and clamp others to the range of the training set.

        Args:
            chance: (B, 3) uniform in 0 <= u < 1.
            mode: (B,) int64, below 0 open.
            density: (B,) float, below 0 (or no number) open.

        Returns:
            mode (B,), density (B,), style (B,).
        """
        any_mode = (chance[:, 0] >= self.major_share).to(torch.int64)
        mode = torch.where(mode < 0, any_mode, mode.clamp_max(N_MODES - 1))
        quantiles = self.density_quantiles[mode]  # (B, D)
        place = chance[:, 1:2].clamp(0.0, 1.0) * (_N_QUANTILES - 1)  # (B, 1)
        left = place.floor().to(torch.int64).clamp(0, _N_QUANTILES - 2)
        low, high = torch.gather(quantiles, 1, left), torch.gather(quantiles, 1, left + 1)
        any_density = (low + (high - low) * (place - left.to(place.dtype)))[:, 0]
        learnt = torch.maximum(torch.minimum(density, quantiles[:, -1]), quantiles[:, 0])
        density = torch.where(density >= 0, learnt, any_density)
        return mode, density, self._style(chance[:, 2:], mode, density)

    def _style(self, chance: Tensor, mode: Tensor, density: Tensor) -> Tensor:
        """Draw by Bayes' rule, each style's density being normal: (B, 1), (B,), (B,) -> (B,)."""
        deviation = self.style_density_deviation[mode]  # (B, T)
        distance = (density[:, None] - self.style_density_mean[mode]) / deviation
        likely = (self.style_log_share[mode] - 0.5 * distance * distance - torch.log(deviation)).softmax(1)
        style = (likely.cumsum(1) <= chance).sum(1)
        return style.clamp_max(self.n_styles - 1)

    def forward(self, mode: Tensor, density: Tensor, style: Tensor) -> Tensor:
        """(B,) each -> (B, C)."""
        scaled = (density - self.density_mean) / self.density_deviation
        chosen = [nn.functional.one_hot(mode, N_MODES), nn.functional.one_hot(style, self.n_styles)]
        return torch.cat([*(each.to(scaled.dtype) for each in chosen), scaled[:, None]], dim=1)


def n_features(n_styles: int) -> int:
    """Return C, the number of features: mode, style, and density as the last one."""
    return N_MODES + n_styles + 1


def style_of(features: Tensor) -> Tensor:
    """Return the style encoded in features: (B, C) -> (B,) int64."""
    return features[:, N_MODES:-1].argmax(1)


_SCALE: Final = 10_000
_SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10, 11))  # degrees of the major and the minor scale
_OUTSIDE_NATS: Final = 8.0
_OCTAVES: Final = 8
_NEVER: Final = -(2**40)


class KeyEstimate(nn.Module):
    """Estimates the tonic of voices, among all keys or those of one mode."""

    def __init__(self) -> None:
        super().__init__()
        # (24, 88): how much a step of a pitch speaks for a key.
        weights = np.round(_SCALE * key_profiles())[:, PITCH_CLASSES].astype(np.int64)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)
        self.weights: Tensor

    def forward(self, voices: Tensor, mode: Tensor) -> Tensor:
        """Estimate the tonic.

        Args:
            voices: (B, N, V).
            mode: (B,) int64, 0 major, 1 minor; below 0 either.

        Returns:
            (B,) int64, 0 C .. 11 B.
        """
        durations = nn.functional.one_hot(sounding_of(voices), N_PITCHES + 1)[..., 1:].amax(2).sum(1)  # (B, P)
        scores = (durations[:, None, :] * self.weights).sum(2)  # (B, 24)
        rank = torch.arange(N_KEYS * N_MODES, device=voices.device)
        scores = scores * (N_KEYS * N_MODES) - rank  # no two are equal
        wanted = (mode[:, None] < 0) | (torch.div(rank, N_KEYS, rounding_mode="floor") == mode[:, None])
        best = torch.where(wanted, scores, _NEVER).argmax(1)
        return best - N_KEYS * torch.div(best, N_KEYS, rounding_mode="floor")


class KeyTilt(nn.Module):
    """Computes the bias of a key on each value of a relative voice.

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
        """Return the bias in nats.

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
    """Return the semitones, -6 to 5, from a tonic to a key; 0 for a key below 0: (B,) each -> (B,)."""
    difference = key - tonic + 18  # above 0 whatever they are
    shift = difference - 12 * torch.div(difference, 12, rounding_mode="floor") - 6
    return torch.where(key < 0, torch.zeros_like(shift), shift)
