"""What music may be asked to be, beside its key: its mode and its density; and what stands for "any".

What the caller leaves open is drawn inside the graph from what the training set has, so the generator always works
under full conditions and "any" is as varied as the training set is.

Letters: B batch, S spans, D 33 quantiles, C width of the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone_training.musicality import estimate_keys, measure_attributes, spans_to_frames
from tritone_training.musicality.key import N_MODES

N_FEATURES: Final = N_MODES + 1  # the mode, the density
_N_QUANTILES: Final = 33


@dataclass(frozen=True, eq=False)
class SpanConditions:
    """What spans turn out to be, by measurement: mode (S,), density (S,)."""

    mode: npt.NDArray[np.int64]
    density: npt.NDArray[np.float32]


def measure_conditions(lanes: npt.NDArray[Any]) -> SpanConditions:
    """Mode after Krumhansl & Schmuckler (major for silence), struck notes in a quarter: lanes (S, N, V)."""
    frames = spans_to_frames(lanes)
    _, mode = estimate_keys(frames)
    return SpanConditions(np.maximum(mode, 0), measure_attributes(frames)[:, 0].astype(np.float32))


class Conditions(nn.Module):
    """Resolves what was left open, and turns conditions into features.

    The buffers come from `learn`: the share of major spans, quantiles of the density in each mode, its mean and
    deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("major_share", torch.tensor(0.5))
        self.register_buffer("density_quantiles", torch.zeros(N_MODES, _N_QUANTILES))
        self.register_buffer("density_mean", torch.tensor(0.0))
        self.register_buffer("density_deviation", torch.tensor(1.0))
        self.major_share: Tensor
        self.density_quantiles: Tensor
        self.density_mean: Tensor
        self.density_deviation: Tensor

    def learn(self, measured: SpanConditions) -> None:
        """Remember how conditions are spread over the training set."""
        shares = np.linspace(0, 1, _N_QUANTILES)
        for mode in range(N_MODES):
            own = measured.density[measured.mode == mode]
            quantiles = np.quantile(own if own.size else measured.density, shares)
            self.density_quantiles[mode] = torch.from_numpy(quantiles.astype(np.float32))
        self.major_share.fill_(float((measured.mode == 0).mean()))
        self.density_mean.fill_(float(measured.density.mean()))
        self.density_deviation.fill_(max(float(measured.density.std()), 1e-3))

    def resolve(self, chance: Tensor, mode: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
        """Draw what is open, and take what is out of range to the nearest that was learnt.

        Args:
            chance: (B, 2) uniform in 0 <= u < 1.
            mode: (B,) int64, below 0 open.
            density: (B,) float, below 0 (or no number) open.

        Returns:
            mode (B,), density (B,).
        """
        any_mode = (chance[:, 0] >= self.major_share).to(torch.int64)
        mode = torch.where(mode < 0, any_mode, mode.clamp_max(N_MODES - 1))
        quantiles = self.density_quantiles[mode]  # (B, D)
        place = chance[:, 1:].clamp(0.0, 1.0) * (_N_QUANTILES - 1)  # (B, 1)
        left = place.floor().to(torch.int64).clamp(0, _N_QUANTILES - 2)
        low, high = torch.gather(quantiles, 1, left), torch.gather(quantiles, 1, left + 1)
        any_density = (low + (high - low) * (place - left.to(place.dtype)))[:, 0]
        learnt = torch.maximum(torch.minimum(density, quantiles[:, -1]), quantiles[:, 0])
        return mode, torch.where(density >= 0, learnt, any_density)

    def forward(self, mode: Tensor, density: Tensor) -> Tensor:
        """(B,) each -> (B, C)."""
        scaled = (density - self.density_mean) / self.density_deviation
        return torch.cat([nn.functional.one_hot(mode, N_MODES).to(scaled.dtype), scaled[:, None]], dim=1)
