"""Item-item base models: EASE, item-kNN and a graph filter, each as a sparse table of the strongest entries.

EASE (Steck 2019, arXiv:1905.03375) inverts the Gram matrix of the items. With fewer users than items, the inverse is
computed from the smaller Gram matrix of the users (Woodbury identity).
Shapes: U users, I items, n neighbours kept, b items of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import sparse

Floats = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]
_BLOCK: Final = 512
MOST_DUAL_USERS: Final = 8_000
_OVERSAMPLED: Final = 16
_POWER_ITERATIONS: Final = 3


@dataclass(frozen=True, eq=False)
class Ridge:
    """`P = (X'X + l2)^-1`, either as a dense matrix or implicitly as `P = (1 - X' inner X) / l2`.

    Attributes:
        l2: regularisation.
        listening: (U, I) X.
        spread: (U, I) `inner X`, dense; None if `whole` is given.
        whole: (I, I) P, or None.
        diagonal: (I,) diagonal of P.
    """

    l2: float
    listening: sparse.csr_matrix
    spread: Floats | None
    whole: Floats | None
    diagonal: Floats

    def rows(self, left: sparse.csr_matrix) -> Floats:
        """Return `left P` (R, I), dense, for sparse `left` (R, I)."""
        if self.whole is not None:
            return np.asarray(left @ self.whole, np.float32)
        assert self.spread is not None  # noqa: S101 - one of the two is there
        through = np.asarray((left @ self.listening.T).todense(), np.float32)  # (R, U)
        product = -(through @ self.spread)
        rows = np.repeat(np.arange(left.shape[0]), np.diff(left.indptr))
        product[rows, left.indices] += left.data
        return np.asarray(product / np.float32(self.l2), np.float32)


def ridge(listening: sparse.csr_matrix, l2: float) -> Ridge:
    """Compute P from the smaller of the two Gram matrices."""
    n_users, n_items = listening.shape
    if n_users <= min(n_items, MOST_DUAL_USERS):
        gram = np.asarray((listening @ listening.T).todense(), np.float32)
        inner = _inverse(gram, l2)
        spread = np.ascontiguousarray((listening.T @ inner).T, np.float32)
        diagonal = (1 - np.asarray(listening.multiply(spread).sum(0)).ravel()) / l2
        return Ridge(l2, listening, spread, None, diagonal.astype(np.float32))
    whole = _inverse(np.asarray((listening.T @ listening).todense(), np.float32), l2)
    return Ridge(l2, listening, None, whole, np.diag(whole).copy())


def _inverse(gram: Floats, l2: float) -> Floats:
    gram[np.diag_indices(len(gram))] += np.float32(l2)
    factor = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse, status = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if status:
        raise np.linalg.LinAlgError(f"the Gram matrix of {len(gram)} rows is singular; raise the ridge")
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T, np.float32)


def ease_table(solved: Ridge, n: int, on_progress: OnProgress) -> sparse.csr_matrix:
    """Return EASE's weights `-P[j, i] / P[i, i]` (I, I), from an item j of the history to a scored item i."""

    def block(targets: slice) -> Floats:
        if solved.whole is not None:
            return -solved.whole[targets] / solved.diagonal[targets, None]
        assert solved.spread is not None  # noqa: S101 - one of the two is there
        product = np.asarray((solved.listening.T @ solved.spread[:, targets]).T, np.float32)
        strengths: Floats = product / (np.float32(solved.l2) * solved.diagonal[targets, None])
        return strengths

    return strongest(block, solved.listening.shape[1], n, on_progress)


def item_knn_table(listening: sparse.csr_matrix, shrink: float, n: int, on_progress: OnProgress) -> sparse.csr_matrix:
    """Return the cosine similarities of items' listeners, `overlap / (product of norms + shrink)` (I, I)."""
    turned = sparse.csr_matrix(listening.T)
    lengths = np.sqrt(np.asarray(turned.multiply(turned).sum(1)).ravel()).astype(np.float32)

    def block(targets: slice) -> Floats:
        overlap = np.asarray((turned[targets] @ listening).todense(), np.float32)
        cosines: Floats = overlap / (lengths[targets, None] * lengths + np.float32(shrink))
        return cosines

    return strongest(block, turned.shape[0], n, on_progress)


@dataclass(frozen=True, eq=False)
class Graph:
    """The bipartite graph of users and items with symmetric normalisation.

    Attributes:
        edges: (U, I) weights divided by the square roots of the degrees of user and item.
        degrees: (I,) sums of weights.
    """

    edges: sparse.csr_matrix
    degrees: Floats


def graph_of(weights: sparse.csr_matrix) -> Graph:
    """Build the graph of listening weights (U, I)."""
    of_users = np.asarray(weights.sum(1)).ravel()
    of_items = np.asarray(weights.sum(0)).ravel()
    left = sparse.diags_array(1 / np.sqrt(np.maximum(of_users, 1e-9)))
    right = sparse.diags_array(1 / np.sqrt(np.maximum(of_items, 1e-9)))
    return Graph(sparse.csr_matrix(left @ weights @ right, dtype=np.float32), of_items.astype(np.float32))


def graph_table(graph: Graph, l2: float, n: int, on_progress: OnProgress) -> sparse.csr_matrix:
    """Return the table (I, I) of a low-pass graph filter with the frequency response `s^2 / (s^2 + l2)`.

    LightGCN is equivalent to such a linear filter (Shen et al. 2021, arXiv:2108.07567).
    """
    solved = ridge(graph.edges, l2)
    roots = np.sqrt(graph.degrees)
    back = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)

    def block(targets: slice) -> Floats:
        if solved.whole is not None:  # G (G + l2)^-1 = 1 - l2 (G + l2)^-1, and the diagonal is not used
            filtered = -np.float32(l2) * solved.whole[targets]
        else:
            assert solved.spread is not None  # noqa: S101 - one of the two is there
            filtered = np.asarray((graph.edges.T @ solved.spread[:, targets]).T, np.float32)
        return np.asarray(filtered * roots[targets, None] * back, np.float32)

    return strongest(block, graph.edges.shape[1], n, on_progress, importance=roots)


def item_vectors(graph: Graph, size: int) -> Floats:
    """Return item vectors (I, size) by truncated SVD of the graph, of norm 1; 0 for items without listeners."""
    from scipy.sparse.linalg import svds

    size = min(size, min(graph.edges.shape) - 1)
    if size < 1:
        return np.zeros((graph.edges.shape[1], 1), np.float32)
    start = np.random.default_rng(0).standard_normal(min(graph.edges.shape)).astype(np.float32)
    _, values, right = svds(graph.edges, k=size, v0=start)
    return _unit(right.T * values)


def item_vectors_drawn(graph: Graph, size: int) -> Floats:
    """As `item_vectors`, by randomized SVD for large catalogues (Halko et al. 2011, arXiv:0909.4061)."""
    n = min(size + _OVERSAMPLED, *graph.edges.shape)
    turned = sparse.csr_matrix(graph.edges.T)
    basis = np.random.default_rng(0).standard_normal((graph.edges.shape[1], n)).astype(np.float32)
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(turned @ (graph.edges @ basis))[0]
    through = graph.edges @ basis  # (U, n)
    squares, mixed = np.linalg.eigh(through.T @ through)
    best = np.argsort(-squares)[:size]
    return _unit((basis @ mixed[:, best]) * np.sqrt(np.maximum(squares[best], 0)))


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def strongest(
    block: Callable[[slice], Floats], n_items: int, n: int, on_progress: OnProgress, importance: Floats | None = None
) -> sparse.csr_matrix:
    """Keep the n entries of the largest absolute value for each target item.

    Entries are selected by target (column), not by source: popular items get small weights from many sources, most of
    which would be lost otherwise.

    Args:
        block: maps a slice of targets to the strengths of all sources for each of them (b, I); the array is modified.
        n_items: I.
        n: number of entries per target.
        on_progress: called with the number of finished items and of all items.
        importance: (I,) factor of each source in the selection, for tables whose entries are divided by popularity.

    Returns:
        sparse (I, I), from source to target.
    """
    n = min(n, n_items)
    targets, sources, strengths = [], [], []
    for start in range(0, n_items, _BLOCK):
        end = min(start + _BLOCK, n_items)
        values = block(slice(start, end))
        values[np.arange(end - start), np.arange(start, end)] = 0
        weight = np.abs(values) if importance is None else np.abs(values) * importance
        best = np.argpartition(-weight, n - 1, axis=1)[:, :n]
        kept = np.take_along_axis(values, best, 1)
        rows, indices = np.nonzero(kept)
        targets.append(rows + start)
        sources.append(best[rows, indices])
        strengths.append(kept[rows, indices])
        on_progress(end, n_items)
    table = sparse.csr_matrix(
        (np.concatenate(strengths), (np.concatenate(sources), np.concatenate(targets))), shape=(n_items, n_items)
    )
    table.sort_indices()
    return table
