"""Comparison of two sets of spans: histograms, Fréchet distance, duplicates and memorisation.

The overlap of two distributions and the comparison of distances within and between sets follow Yang & Lerch 2020
("On the evaluation of generative models in music", Neural Computing and Applications 32).

The Fréchet distance is that of the Gaussians fitted to two sets of features (Dowson & Landau 1982, "The Fréchet
distance between multivariate normal distributions"; as a measure of generators: Heusel et al. 2017, arXiv:1706.08500).
It is squared, as published values are. It falls with the number of samples: compare only sets of one size, and with the
distance between two real sets of that size (`frechet_floor`).

Shapes: S spans or samples, R reference spans, N time steps, V voices, K bins, Z features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import N_PITCHES, STRUCK
from tritone_training.exceptions import DataError
from tritone_training.musicality.measures import note_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Shares = npt.NDArray[np.float64]

LARGEST_INTERVAL: Final = 12  # semitones; larger leaps count into the outermost bins
_N_GRID: Final = 1000  # points at which two densities are compared
_MAX_PAIRED: Final = 500  # spans that are compared in pairs; more change the densities little


def histogram(values: npt.NDArray[Any], *, lowest: int, highest: int) -> Shares:
    """Return the shares of integers from lowest to highest: (K,), sum 1; values outside are in the outer bins.

    All zeros without values.
    """
    clipped = np.clip(np.asarray(values, np.int64), lowest, highest) - lowest
    counts = np.bincount(clipped, minlength=highest - lowest + 1).astype(np.float64)
    shares: Shares = counts / max(counts.sum(), 1.0)
    return shares


def length_histogram(spans: npt.NDArray[Any]) -> Shares:
    """Return the shares of note lengths of 1 .. N steps: grids (S, N, 88) or voices (S, N, V) -> (N,)."""
    return histogram(note_table(spans).length, lowest=1, highest=spans.shape[1])


def interval_histogram(voices: npt.NDArray[Any]) -> Shares:
    """Return the shares of intervals between notes of a voice: (S, N, V) -> (25,), from an octave down to one up."""
    notes = note_table(voices)
    same = (np.diff(notes.span) == 0) & (np.diff(notes.voice) == 0)
    return histogram(np.diff(notes.pitch)[same], lowest=-LARGEST_INTERVAL, highest=LARGEST_INTERVAL)


def overlap_area(first: Shares, second: Shares) -> float:
    """Return the overlap of two histograms, 0 (disjoint) to 1 (equal): the sum over the bins of the smaller share.

    Raises:
        DataError: the histograms have different lengths.
    """
    if first.shape != second.shape:
        raise DataError(f"histograms of different lengths: expected {first.shape} bins, got {second.shape}")
    return float(np.minimum(first, second).sum())


def relative_similarity(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> dict[str, float]:
    """Return the similarity of two sets relative to the variation within one of them.

    The distances between all pairs within `theirs`, and between the sets, are smoothed with a Gaussian kernel.

    Args:
        ours, theirs: one number for each span, at least two; of more than 500, an evenly spaced selection is used.

    Returns:
        `overlap_area` of the two densities (1: indistinguishable) and `kl_divergence` in nats of the inter-set from
        the intra-set density.
    """
    from scipy.stats import gaussian_kde

    ours, theirs = (_thinned(np.asarray(values, np.float64)) for values in (ours, theirs))
    if min(ours.size, theirs.size) < 2:
        raise DataError(f"too few spans: expected at least 2 in each set, got {ours.size} and {theirs.size}")
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
    return values[np.linspace(0, values.size - 1, min(values.size, _MAX_PAIRED)).astype(np.int64)]


def frechet_distance(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return the squared Fréchet distance of two sets, (S, Z) and (S', Z).

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
    # tr (AB)^1/2 = tr (A^1/2 B A^1/2)^1/2: the product on the right is symmetric, so its roots are real.
    values, vectors = np.linalg.eigh(ours)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ theirs @ root), 0)).sum()
    return max(float(mean_gap @ mean_gap + np.trace(ours) + np.trace(theirs) - 2 * shared), 0.0)


def frechet_floor(
    features: npt.NDArray[Any], groups: npt.NDArray[Any], *, n_repeats: int = 10, seed: int = 0
) -> tuple[float, int]:
    """Return the distance between the halves of a real set, a lower bound of what a generator can reach.

    Groups (pieces) are not divided: neighbouring spans of one piece share bars, so halves that share pieces would be
    more similar than new music can be.

    Args:
        features: (S, Z).
        groups: (S,), the group of each sample.

    Returns:
        the mean over `n_repeats` random halvings, and the size of a half; both halves are cut to the smallest.
    """
    random = np.random.default_rng(seed)
    names = np.unique(groups)
    if len(names) < 2:
        raise DataError(f"too few pieces to divide in halves: expected at least 2, got {len(names)}")
    halves = []
    for _ in range(n_repeats):
        order = random.permutation(len(features))
        # Add the pieces in random order, each to the smaller half.
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


Distances = npt.NDArray[np.float64]

# The transpositions of training, because a transposed copy is also a copy.
TRANSPOSITIONS: Final = tuple(range(-6, 6))
COPY_DISTANCE: Final = 0.1  # nine tenths of all notes the same
_CHUNK: Final = 256


def duplicate_rate(spans: npt.NDArray[Any]) -> float:
    """Return the share of spans that equal an earlier one: (S, ...) -> 0..1."""
    flat = spans.reshape(len(spans), -1)
    return 1 - len(np.unique(flat, axis=0)) / len(flat) if len(flat) else 0.0


def nearest_distances(
    frames: npt.NDArray[Any], reference: npt.NDArray[Any], *, transpositions: tuple[int, ...] = TRANSPOSITIONS
) -> Distances:
    """Return the distance of each span from its nearest reference span over all transpositions.

    The distance is Jaccard's, over the struck notes (step, pitch): 1 less the notes in common over the notes in
    either; 0 for the same notes, 1 for none in common. Two silent spans are the same.

    Args:
        frames: (S, N, 88).
        reference: (R, N, 88), R at least 1.

    Returns:
        (S,)
    """
    ours, theirs = frames == STRUCK, reference == STRUCK
    n_theirs = theirs.sum((1, 2)).astype(np.float64)
    table = _sparse(theirs).T.tocsr()
    nearest = np.ones(len(frames))
    for start in range(0, len(frames), _CHUNK):
        chunk = ours[start : start + _CHUNK]
        n_ours = chunk.sum((1, 2)).astype(np.float64)
        for semitones in transpositions:
            common = np.asarray((_sparse(_transposed(chunk, semitones)) @ table).todense(), np.float64)
            either = n_ours[:, None] + n_theirs - common
            similarity = np.where(either > 0, common / np.maximum(either, 1), 1.0)
            nearest[start : start + _CHUNK] = np.minimum(nearest[start : start + _CHUNK], 1 - similarity.max(1))
    return nearest


def memorisation(generated: Distances, held_out: Distances) -> dict[str, float]:
    """Measure whether generated spans are nearer to the training set than unseen real music is.

    Args:
        generated, held_out: distances to the nearest training span, from `nearest_distances`.

    Returns:
        For each set the share of copies (distance at most 0.1) and the median distance; `nearer_share` is the
        probability that a generated span is nearer than a held-out one, ties counted half; 0.5 means no difference.
    """
    ordered = np.sort(held_out)
    below = np.searchsorted(ordered, generated, side="left")
    below_or_equal = np.searchsorted(ordered, generated, side="right")
    farther = len(ordered) - (below + below_or_equal) / 2
    return {
        "copy_rate": float((generated <= COPY_DISTANCE).mean()),
        "held_out_copy_rate": float((held_out <= COPY_DISTANCE).mean()),
        "median_distance": float(np.median(generated)),
        "held_out_median_distance": float(np.median(held_out)),
        "nearer_share": float((farther / len(ordered)).mean()),
    }


def _transposed(struck: npt.NDArray[np.bool_], semitones: int) -> npt.NDArray[np.bool_]:
    """Transpose grids; notes that leave the keyboard are dropped."""
    moved = np.zeros_like(struck)
    if semitones >= 0:
        moved[..., semitones:] = struck[..., : N_PITCHES - semitones]
    else:
        moved[..., :semitones] = struck[..., -semitones:]
    return moved


def _sparse(struck: npt.NDArray[np.bool_]) -> csr_matrix:
    from scipy.sparse import csr_matrix

    return csr_matrix(struck.reshape(len(struck), -1).astype(np.float32))
