"""Collaborative models that the recommender does not have, for comparison.

Each takes the listening weights of all users (U, I) and the rows of the users to score, and returns scores (B, I).
Shapes: U users, I items, B users to score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_DENOISING = 0.3
_EASE_L2 = 60.0
_PASSED = 256  # frequencies, but at most a quarter of all
_DAMPING = 0.35


def denoising_ease(weights: sparse.csr_matrix, rows: Rows) -> Floats:
    """Return scores by EASE with dropout (Steck 2020, EDLAE), solved in the space of the users."""
    squares = np.asarray(weights.multiply(weights).sum(0)).ravel()
    ridge = (_EASE_L2 + _DENOISING / (1 - _DENOISING) * squares).astype(np.float32)
    scaled = sparse.csr_matrix(weights @ sparse.diags_array(1 / ridge))
    gram = np.asarray((scaled @ weights.T).todense(), np.float32)
    gram[np.diag_indices(len(gram))] += 1
    through = np.ascontiguousarray((scaled.T @ np.linalg.inv(gram)).T)  # (U, I) weights x inverse
    diagonal = 1 / ridge - np.asarray(scaled.multiply(through).sum(0)).ravel()
    return np.asarray(-through[rows] / diagonal, np.float32)


def low_pass(weights: sparse.csr_matrix, rows: Rows) -> Floats:
    """Return scores by an ideal low-pass filter on the graph (Shen et al. 2021, GF-CF, arXiv:2108.07567)."""
    of_users, of_items = (np.maximum(np.asarray(weights.sum(axis)).ravel(), 1e-9) ** 0.5 for axis in (1, 0))
    edges = sparse.csr_matrix(sparse.diags_array(1 / of_users) @ weights @ sparse.diags_array(1 / of_items))
    _, vectors = np.linalg.eigh(np.asarray((edges @ edges.T).todense(), np.float64))
    passed = vectors[:, -min(_PASSED, len(vectors) // 4) :]
    return np.asarray(((passed[rows] @ passed.T) @ edges) * of_items, np.float32)


def random_walk(weights: sparse.csr_matrix, rows: Rows) -> Floats:
    """Return scores by walks of three steps with a penalty for popular items (Paudel et al. 2017, RP3beta)."""
    seen = sparse.csr_matrix((np.ones_like(weights.data), weights.indices, weights.indptr), weights.shape)
    listeners = np.maximum(np.asarray(seen.sum(0)).ravel(), 1)
    onward = sparse.csr_matrix(sparse.diags_array(1 / np.maximum(np.diff(seen.indptr), 1)) @ seen)
    back = sparse.csr_matrix(sparse.diags_array(1 / listeners) @ seen.T)
    return np.asarray(((onward[rows] @ back).toarray() @ onward) * listeners**-_DAMPING * 1_000, np.float32)


MEMBERS: dict[str, Callable[[sparse.csr_matrix, Rows], Floats]] = {
    "denoising EASE": denoising_ease,
    "low-pass filter": low_pass,
    "random walk": random_walk,
}
