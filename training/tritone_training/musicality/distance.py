"""How far apart two sets are in a space of features: the Fréchet distance of the Gaussians fitted to them.

Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"; as a measure of generators:
Heusel et al. 2017, arXiv:1706.08500. Squared, as published figures are. It falls with the number of samples, so
compare only sets of one size, and with what two real sets of that size show (`frechet_floor`).

Shapes: S samples, Z features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_training._exceptions import DataError


def frechet_distance(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Squared Fréchet distance of two sets, (S, Z) and (S', Z).

    Raises:
        DataError: fewer than two samples, or other numbers of features.
    """
    for name, samples in (("first", first), ("second", second)):
        if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] != first.shape[1]:
            raise DataError(
                f"the {name} set has shape {samples.shape}; expected (2 or more samples, {first.shape[-1]} features)"
            )
    mean_gap = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    ours, theirs = (np.atleast_2d(np.cov(samples.astype(np.float64), rowvar=False)) for samples in (first, second))
    # tr (AB)^1/2 = tr (A^1/2 B A^1/2)^1/2, whose inside is symmetric: no complex roots to throw away.
    values, vectors = np.linalg.eigh(ours)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ theirs @ root), 0)).sum()
    return max(float(mean_gap @ mean_gap + np.trace(ours) + np.trace(theirs) - 2 * shared), 0.0)


def frechet_floor(
    features: npt.NDArray[Any], groups: npt.NDArray[Any], *, n_repeats: int = 10, seed: int = 0
) -> tuple[float, int]:
    """The distance of one half of a real set from the other: what no generator can be expected to beat.

    Groups (pieces) stay whole: neighbouring spans of one piece share their bars, and halves that share pieces would
    look more alike than new music can.

    Args:
        features: (S, Z).
        groups: (S,) which samples belong together.

    Returns:
        the mean over `n_repeats` random halvings, and the size of a half; both halves are cut to the smallest.
    """
    random = np.random.default_rng(seed)
    names = np.unique(groups)
    if len(names) < 2:
        raise DataError(f"{len(names)} piece(s); a floor needs at least 2 to divide")
    halves = []
    for _ in range(n_repeats):
        order = random.permutation(len(features))
        # Pieces in random order, one after the other to whichever half is smaller.
        sides: tuple[list[Any], list[Any]] = ([], [])
        sizes = [0, 0]
        for name in random.permutation(names):
            side = int(sizes[1] < sizes[0])
            sides[side].append(name)
            sizes[side] += int((groups == name).sum())
        halves.append(tuple(order[np.isin(groups[order], side)] for side in sides))
    n_each = min(len(half) for pair in halves for half in pair)
    distances = [frechet_distance(features[a[:n_each]], features[b[:n_each]]) for a, b in halves]
    return float(np.mean(distances)), n_each
