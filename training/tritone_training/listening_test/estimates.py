"""Means with confidence intervals, by the percentile bootstrap over pieces (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CONFIDENCE: Final = 0.95
N_RESAMPLES: Final = 1_000
_SEED: Final = 0  # the same pieces give the same interval


@dataclass(frozen=True)
class Estimate:
    """A statistic of a set of pieces.

    Attributes:
        mean: its value over all pieces; NaN if it is defined for none.
        low, high: bounds of the 95 % bootstrap confidence interval.
        n: number of pieces for which it is defined.
    """

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None instead of NaN."""
        return {
            **{name: None if np.isnan(value) else value for name, value in vars(self).items() if name != "n"},
            "n": self.n,
        }


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one value per piece; NaN values are left out."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return estimate(array, lambda samples: samples.mean(axis=1))


def estimate(
    values: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Estimate a statistic of S pieces.

    Args:
        values: (S, ...), the values of each piece.
        statistic: maps R samples (R, S, ...) to their statistics (R,).
        n_resamples: number of bootstrap samples.
    """
    n = len(values)
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(statistic(values[None])[0])
    drawn = np.random.default_rng(_SEED).integers(0, n, (n_resamples, n))
    resampled = np.concatenate([statistic(values[part]) for part in np.array_split(drawn, 10)])
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(mean, float(low), float(high), n)
