"""Item-item base models by EASE, cosine and a graph filter: for each item, the items that speak most for it.

EASE (Steck 2019, arXiv:1905.03375) inverts the items' Gram matrix. With fewer users than items the same inverse
comes from the users' much smaller one (Woodbury), which is what makes it cheap here.
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
    """`P = (X'X + l2)^-1` without ever forming it: `P = (1 - X' inner X) / l2`, or as a whole where items are fewer.

    Attributes:
        spread: (U, I) `inner X`, dense; None if `whole` is there.
        whole: (I, I).
        diagonal: (I,) of P.
    """

    l2: float
    listening: sparse.csr_matrix
    spread: Floats | None
    whole: Floats | None
    diagonal: Floats

    def rows(self, left: sparse.csr_matrix) -> Floats:
        """`left P` (R, I), dense, for sparse left (R, I)."""
        if self.whole is not None:
            return np.asarray(left @ self.whole, np.float32)
        assert self.spread is not None  # noqa: S101 - one of the two is there
        through = np.asarray((left @ self.listening.T).todense(), np.float32)  # (R, U)
        product = -(through @ self.spread)
        rows = np.repeat(np.arange(left.shape[0]), np.diff(left.indptr))
        product[rows, left.indices] += left.data
        return np.asarray(product / np.float32(self.l2), np.float32)


def ridge(listening: sparse.csr_matrix, l2: float) -> Ridge:
    """Invert by the smaller side."""
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
    """EASE's weights `-P[j, i] / P[i, i]` (I, I) from a heard item j to an item i."""

    def block(targets: slice) -> Floats:
        if solved.whole is not None:
            return -solved.whole[targets] / solved.diagonal[targets, None]
        assert solved.spread is not None  # noqa: S101 - one of the two is there
        product = np.asarray((solved.listening.T @ solved.spread[:, targets]).T, np.float32)
        strengths: Floats = product / (np.float32(solved.l2) * solved.diagonal[targets, None])
        return strengths

    return strongest(block, solved.listening.shape[1], n, on_progress)


def item_knn_table(listening: sparse.csr_matrix, shrink: float, n: int, on_progress: OnProgress) -> sparse.csr_matrix:
    """Cosine of two items' listeners, `overlap / (lengths + shrink)`: (I, I)."""
    turned = sparse.csr_matrix(listening.T)
    lengths = np.sqrt(np.asarray(turned.multiply(turned).sum(1)).ravel()).astype(np.float32)

    def block(targets: slice) -> Floats:
        overlap = np.asarray((turned[targets] @ listening).todense(), np.float32)
        cosines: Floats = overlap / (lengths[targets, None] * lengths + np.float32(shrink))
        return cosines

    return strongest(block, turned.shape[0], n, on_progress)


@dataclass(frozen=True, eq=False)
class Graph:
    """Listening as a bipartite graph, each edge divided by the roots of its ends' degrees.

    Attributes:
        edges: (U, I).
        degrees: (I,).
    """

    edges: sparse.csr_matrix
    degrees: Floats


def graph_of(weights: sparse.csr_matrix) -> Graph:
    """Normalise both sides."""
    of_users = np.asarray(weights.sum(1)).ravel()
    of_items = np.asarray(weights.sum(0)).ravel()
    left = sparse.diags_array(1 / np.sqrt(np.maximum(of_users, 1e-9)))
    right = sparse.diags_array(1 / np.sqrt(np.maximum(of_items, 1e-9)))
    return Graph(sparse.csr_matrix(left @ weights @ right, dtype=np.float32), of_items.astype(np.float32))


def graph_table(graph: Graph, l2: float, n: int, on_progress: OnProgress) -> sparse.csr_matrix:
    """A smooth filter of the graph's spectrum, `s^2 / (s^2 + l2)`: what LightGCN's layers approximate.

    Linear graph filters: Shen et al. 2021, arXiv:2108.07567.
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

    return strongest(block, graph.edges.shape[1], n, on_progress, consumed=roots)


def item_vectors(graph: Graph, size: int) -> Floats:
    """(I, size) where items lie by who listens to them, each of length 1; 0 for those that nobody listens to."""
    from scipy.sparse.linalg import svds

    size = min(size, min(graph.edges.shape) - 1)
    if size < 1:
        return np.zeros((graph.edges.shape[1], 1), np.float32)
    start = np.random.default_rng(0).standard_normal(min(graph.edges.shape)).astype(np.float32)
    _, values, right = svds(graph.edges, k=size, v0=start)
    return _unit(right.T * values)


def item_vectors_drawn(graph: Graph, size: int) -> Floats:
    """As `item_vectors` where exact factors would take hours: randomized SVD (Halko et al. 2011, arXiv:0909.4061)."""
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
    block: Callable[[slice], Floats], n_items: int, n: int, on_progress: OnProgress, consumed: Floats | None = None
) -> sparse.csr_matrix:
    """Keep, for each item, the n items that speak most for or against it.

    Chosen by target: choosing each heard item's own strongest neighbours would leave the well-known, which many
    items speak for a little, without most of their support.

    Args:
        block: targets -> (b, I) strengths of all items for each of them; it may be written to.
        heard: (I,) how much each item's strength matters when choosing, for tables that divide by popularity.

    Returns:
        (I, I) from heard items to targets.
    """
    n = min(n, n_items)
    targets, sources, strengths = [], [], []
    for start in range(0, n_items, _BLOCK):
        end = min(start + _BLOCK, n_items)
        values = block(slice(start, end))
        values[np.arange(end - start), np.arange(start, end)] = 0
        weight = np.abs(values) if consumed is None else np.abs(values) * consumed
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
