"""How lengths and intervals are spread, and how much two spreads have in common.

The overlap of two distributions and the comparison of distances within and between sets follow Yang & Lerch 2020
("On the evaluation of generative models in music", Neural Computing and Applications 32).

Shapes: S spans, N time steps, V lanes, K bins.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training._exceptions import DataError
from tritone_training.musicality.spans import note_table

Shares = npt.NDArray[np.float64]

LARGEST_INTERVAL: Final = 12  # semitones; larger leaps count into the outermost bins
_N_GRID: Final = 1000
_MOST_PAIRED: Final = 500  # spans compared pair by pair; the densities change little beyond


def histogram(values: npt.NDArray[Any], *, lowest: int, highest: int) -> Shares:
    """Shares of whole numbers from lowest to highest, both included: (K,), sum 1; values beyond go into the end bins.

    All zeros without values.
    """
    clipped = np.clip(np.asarray(values, np.int64), lowest, highest) - lowest
    counts = np.bincount(clipped, minlength=highest - lowest + 1).astype(np.float64)
    shares: Shares = counts / max(counts.sum(), 1.0)
    return shares


def length_histogram(spans: npt.NDArray[Any]) -> Shares:
    """Note lengths of 1 .. N steps: grids (S, N, 88) or lanes (S, N, V) -> (N,)."""
    return histogram(note_table(spans).length, lowest=1, highest=spans.shape[1])


def interval_histogram(lanes: npt.NDArray[Any]) -> Shares:
    """Semitones from each note to the next of its voice: (S, N, V) -> (25,), an octave or more down .. up."""
    notes = note_table(lanes)
    same = (np.diff(notes.span) == 0) & (np.diff(notes.voice) == 0)
    return histogram(np.diff(notes.pitch)[same], lowest=-LARGEST_INTERVAL, highest=LARGEST_INTERVAL)


def overlap_area(first: Shares, second: Shares) -> float:
    """What two histograms share, 0 (disjoint) to 1 (equal): the sum over the bins of the smaller share.

    Raises:
        DataError: of different lengths.
    """
    if first.shape != second.shape:
        raise DataError(f"histograms of {first.shape} and {second.shape} bins cannot be compared")
    return float(np.minimum(first, second).sum())


def relative_similarity(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> dict[str, float]:
    """Do two sets differ from one another more than one differs within itself?

    The distances between all pairs within `theirs`, and between the sets, are smoothed with a Gaussian kernel.

    Args:
        ours, theirs: one number a span, two at least; of many, an evenly spaced choice is used.

    Returns:
        `overlap_area` of the two densities (1: indistinguishable) and `kl_divergence` in nats of the inter-set from
        the intra-set density.
    """
    from scipy.stats import gaussian_kde

    ours, theirs = (_thinned(np.asarray(values, np.float64)) for values in (ours, theirs))
    if min(ours.size, theirs.size) < 2:
        raise DataError(f"sets of {ours.size} and {theirs.size} spans; at least 2 of each are needed")
    within = np.abs(theirs[:, None] - theirs)[np.triu_indices(theirs.size, 1)]
    between = np.abs(ours[:, None] - theirs).ravel()
    if min(np.ptp(within), np.ptp(between)) == 0:  # a kernel needs some spread
        equal = float(np.ptp(within) == np.ptp(between) and within[0] == between[0])
        return {"overlap_area": equal, "kl_divergence": 0.0 if equal else float("inf")}
    densities = [gaussian_kde(distances) for distances in (within, between)]
    reach = 3 * max(float(np.sqrt(density.covariance[0, 0])) for density in densities)
    grid = np.linspace(-reach, max(within.max(), between.max()) + reach, _N_GRID)
    p, q = (np.maximum(density(grid), 1e-12) for density in densities)
    step = grid[1] - grid[0]
    return {
        "overlap_area": float(np.minimum(p, q).sum() * step),
        "kl_divergence": max(float((q * np.log(q / p)).sum() * step), 0.0),
    }


def _thinned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values[np.linspace(0, values.size - 1, min(values.size, _MOST_PAIRED)).astype(np.int64)]
