"""Item-item members: each item's strongest neighbours by EASE, cosine and a graph filter.

EASE (Steck 2019, arXiv:1905.03375) inverts the items' Gram matrix. With fewer users than items the same inverse
comes from the users' much smaller one (Woodbury), which is what makes it cheap here.
Letters: U users, I items, N neighbours kept, b items of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import sparse

Floats = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]
_BLOCK: Final = 512
_MOST_DUAL_USERS: Final = 8_000


@dataclass(frozen=True, eq=False)
class Table:
    """(I, N) neighbours and their strengths, strongest first; 0 where there are fewer."""

    neighbours: npt.NDArray[np.int32]
    strengths: Floats

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Under the names that the artifact gives them."""
        return {f"{name}.neighbours": self.neighbours, f"{name}.strengths": self.strengths}

    def to_csr(self) -> sparse.csr_matrix:
        """As a sparse (I, I) matrix."""
        n_items, width = self.neighbours.shape
        starts = np.arange(0, n_items * width + 1, width)
        matrix = sparse.csr_matrix((self.strengths.ravel(), self.neighbours.ravel(), starts), shape=(n_items, n_items))
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return matrix


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
    if n_users <= min(n_items, _MOST_DUAL_USERS):
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


def ease_table(solved: Ridge, n: int, on_progress: OnProgress) -> Table:
    """EASE's weights `-P[j, i] / P[i, i]`, the strongest of each item j."""

    def blocks() -> Iterator[Floats]:
        turned = sparse.csr_matrix(solved.listening.T)
        for start in range(0, turned.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            if solved.whole is not None:
                block = -solved.whole[rows]
            else:
                block = np.asarray(turned[rows] @ solved.spread, np.float32) / np.float32(solved.l2)
            yield block / solved.diagonal

    return strongest(blocks(), solved.listening.shape[1], n, on_progress)


def item_knn_table(listening: sparse.csr_matrix, shrink: float, n: int, on_progress: OnProgress) -> Table:
    """Cosine of two items' listeners, `overlap / (lengths + shrink)`."""
    turned = sparse.csr_matrix(listening.T)
    lengths = np.sqrt(np.asarray(turned.multiply(turned).sum(1)).ravel()).astype(np.float32)

    def blocks() -> Iterator[Floats]:
        for start in range(0, turned.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            overlap = np.asarray((turned[rows] @ listening).todense(), np.float32)
            yield overlap / (lengths[rows, None] * lengths + np.float32(shrink))

    return strongest(blocks(), turned.shape[0], n, on_progress)


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


def graph_table(graph: Graph, l2: float, n: int, on_progress: OnProgress) -> Table:
    """A smooth filter of the graph's spectrum, `s^2 / (s^2 + l2)`: what LightGCN's layers approximate.

    Linear graph filters: Shen et al. 2021, arXiv:2108.07567.
    """
    solved = ridge(graph.edges, l2)
    roots = np.sqrt(np.maximum(graph.degrees, 1e-9))

    def blocks() -> Iterator[Floats]:
        turned = sparse.csr_matrix(graph.edges.T)
        for start in range(0, turned.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            if solved.whole is not None:  # G (G + l2)^-1 = 1 - l2 (G + l2)^-1
                block = -np.float32(l2) * solved.whole[rows]
            else:
                block = np.asarray(turned[rows] @ solved.spread, np.float32)
            yield block * roots / roots[rows, None] * (graph.degrees[rows, None] > 0)

    return strongest(blocks(), graph.edges.shape[1], n, on_progress)


def item_vectors(graph: Graph, size: int) -> Floats:
    """(I, size) where items lie by who listens to them, each of length 1; 0 for those that nobody listens to."""
    from scipy.sparse.linalg import svds

    size = min(size, min(graph.edges.shape) - 1)
    if size < 1:
        return np.zeros((graph.edges.shape[1], 1), np.float32)
    _, values, right = svds(graph.edges, k=size, random_state=0)
    vectors = right.T * values
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def strongest(blocks: Iterator[Floats], n_items: int, n: int, on_progress: OnProgress) -> Table:
    """Keep each row's n largest values by size, itself and zeros left out."""
    n = max(1, min(n, n_items - 1))
    neighbours, strengths = np.zeros((n_items, n), np.int32), np.zeros((n_items, n), np.float32)
    start = 0
    for block in blocks:
        end = start + len(block)
        block[np.arange(len(block)), np.arange(start, end)] = 0
        size = np.abs(block)
        best = np.argpartition(-size, n - 1, axis=1)[:, :n] if n < n_items else np.argsort(-size, axis=1)[:, :n]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(size, best, 1), axis=1, kind="stable"), 1)
        neighbours[start:end] = best
        strengths[start:end] = np.take_along_axis(block, best, 1)
        on_progress(end, n_items)
        start = end
    return Table(neighbours, strengths)
