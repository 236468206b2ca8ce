"""Item-item base models: EASE, item-kNN and a graph filter, each as a sparse table of the strongest entries.

EASE (Steck 2019, arXiv:1905.03375) inverts the Gram matrix of the items. With fewer users than items, the inverse is
computed from the smaller Gram matrix of the users (Woodbury identity).
Shapes: U users, I items, n neighbours kept, b items of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import sparse

from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_by_work, blocks_of

Floats = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]
_BLOCK: Final = 512
_MOST_PRODUCTS: Final = 200_000_000  # of a block of rows of a Gram matrix, about a second
_MOST_USERS: Final = 65_536  # of a part of the randomized SVD
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

    def parts(self, values: Floats | None = None) -> Parts[tuple[Floats, Floats]]:
        """Return, for blocks of items, rows of P (b, I) or columns of `spread` (U, b), and the items' values.

        Args:
            values: (I,); the diagonal of P if None.
        """
        each = self.diagonal if values is None else values

        def cut(items: slice) -> tuple[Floats, Floats]:
            if self.whole is not None:
                return self.whole[items], each[items]
            assert self.spread is not None  # noqa: S101 - one of the two is there
            return self.spread[:, items], each[items]

        return Parts(blocks_of(self.listening.shape[1], _BLOCK), cut)


def ridge(listening: sparse.csr_matrix, l2: float, engine: Engine = IN_PROCESS) -> Ridge:
    """Compute P from the smaller of the two Gram matrices.

    The matrix is inverted in this process: a Cholesky factorisation in parts would send more than it saves.
    """
    n_users, n_items = listening.shape
    if n_users <= min(n_items, MOST_DUAL_USERS):
        inner = _inverse(_gram(listening, sparse.csr_matrix(listening.T), engine), l2)
        spread = np.ascontiguousarray((listening.T @ inner).T, np.float32)
        diagonal = (1 - np.asarray(listening.multiply(spread).sum(0)).ravel()) / l2
        return Ridge(l2, listening, spread, None, diagonal.astype(np.float32))
    whole = _inverse(_gram(sparse.csr_matrix(listening.T), listening, engine), l2)
    return Ridge(l2, listening, None, whole, np.diag(whole).copy())


def _gram(rows: sparse.csr_matrix, turned: sparse.csr_matrix, engine: Engine) -> Floats:
    """Return the dense product of a matrix (R, K) and its transpose, by blocks of rows."""
    n_rows = rows.shape[0]
    gram = np.empty((n_rows, n_rows), np.float32)
    widths = np.diff(turned.indptr).astype(np.float64)
    ones = sparse.csr_matrix((np.ones(rows.nnz, np.float32), rows.indices, rows.indptr), shape=rows.shape)
    blocks = blocks_by_work(ones @ widths + n_rows, _MOST_PRODUCTS)
    with engine.share(turned) as shared:
        for block, found in zip(blocks, engine.map(_product, Parts(blocks, rows.__getitem__), shared), strict=True):
            gram[block] = found
    return gram


def _product(rows: sparse.csr_matrix, turned: sparse.csr_matrix) -> Floats:
    return np.asarray((rows @ turned).toarray(), np.float32)


def _inverse(gram: Floats, l2: float) -> Floats:
    gram[np.diag_indices(len(gram))] += np.float32(l2)
    factor = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse, status = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if status:
        raise np.linalg.LinAlgError(f"the Gram matrix of {len(gram)} rows is singular; raise the ridge")
    lower = np.tril(inverse)
    return np.asarray(lower + np.tril(lower, -1).T, np.float32)


def ease_table(solved: Ridge, n: int, on_progress: OnProgress, engine: Engine = IN_PROCESS) -> sparse.csr_matrix:
    """Return EASE's weights `-P[j, i] / P[i, i]` (I, I), from an item j of the history to a scored item i."""
    if solved.whole is not None:
        return strongest(_rows_of_inverse, solved.parts(), n, on_progress)
    return strongest(_rows_of_spread, solved.parts(), n, on_progress, solved.listening, solved.l2, engine=engine)


def _rows_of_inverse(part: tuple[Floats, Floats]) -> Floats:
    inverse, diagonal = part
    return np.asarray(-inverse / diagonal[:, None], np.float32)


def _rows_of_spread(part: tuple[Floats, Floats], listening: sparse.csr_matrix, l2: float) -> Floats:
    spread, diagonal = part
    product = np.asarray((listening.T @ spread).T, np.float32)
    return np.asarray(product / (np.float32(l2) * diagonal[:, None]), np.float32)


def item_knn_table(
    listening: sparse.csr_matrix, shrink: float, n: int, on_progress: OnProgress, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return the cosine similarities of items' listeners, `overlap / (product of norms + shrink)` (I, I)."""
    turned = sparse.csr_matrix(listening.T)
    lengths = np.sqrt(np.asarray(turned.multiply(turned).sum(1)).ravel()).astype(np.float32)
    parts = Parts(blocks_of(turned.shape[0], _BLOCK), lambda targets: (turned[targets], lengths[targets]))
    return strongest(_cosines, parts, n, on_progress, listening, lengths, shrink, engine=engine)


def _cosines(
    part: tuple[sparse.csr_matrix, Floats], listening: sparse.csr_matrix, lengths: Floats, shrink: float
) -> Floats:
    rows, own_lengths = part
    overlap = np.asarray((rows @ listening).todense(), np.float32)
    return np.asarray(overlap / (own_lengths[:, None] * lengths + np.float32(shrink)), np.float32)


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


def graph_table(
    graph: Graph, l2: float, n: int, on_progress: OnProgress, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return the table (I, I) of a low-pass graph filter with the frequency response `s^2 / (s^2 + l2)`.

    LightGCN is equivalent to such a linear filter (Shen et al. 2021, arXiv:2108.07567).
    """
    solved = ridge(graph.edges, l2, engine)
    roots = np.sqrt(graph.degrees)
    back = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    cut = solved.parts(roots)
    if solved.whole is not None:
        return strongest(_filtered_by_inverse, cut, n, on_progress, back, l2, importance=roots)
    return strongest(_filtered_by_spread, cut, n, on_progress, back, graph.edges, importance=roots, engine=engine)


def _filtered_by_inverse(part: tuple[Floats, Floats], back: Floats, l2: float) -> Floats:
    inverse, roots = part  # G (G + l2)^-1 = 1 - l2 (G + l2)^-1, and the diagonal is not used
    return np.asarray(-np.float32(l2) * inverse * roots[:, None] * back, np.float32)


def _filtered_by_spread(part: tuple[Floats, Floats], back: Floats, edges: sparse.csr_matrix) -> Floats:
    spread, roots = part
    return np.asarray(np.asarray((edges.T @ spread).T, np.float32) * roots[:, None] * back, np.float32)


def item_vectors(graph: Graph, size: int) -> Floats:
    """Return item vectors (I, size) by truncated SVD of the graph, of norm 1; 0 for items without listeners."""
    from scipy.sparse.linalg import svds

    size = min(size, min(graph.edges.shape) - 1)
    if size < 1:
        return np.zeros((graph.edges.shape[1], 1), np.float32)
    start = np.random.default_rng(0).standard_normal(min(graph.edges.shape)).astype(np.float32)
    _, values, right = svds(graph.edges, k=size, v0=start)
    return _unit(right.T * values)


def item_vectors_drawn(graph: Graph, size: int, engine: Engine = IN_PROCESS) -> Floats:
    """As `item_vectors`, by randomized SVD for large catalogues (Halko et al. 2011, arXiv:0909.4061).

    Products with the graph are sums over parts of the users in double precision, in the order of the parts.
    """
    n_users, n_items = graph.edges.shape
    n = min(size + _OVERSAMPLED, n_users, n_items)
    basis = np.random.default_rng(0).standard_normal((n_items, n)).astype(np.float32)
    blocks = blocks_of(n_users, _MOST_USERS)
    with engine.share(graph.edges) as edges:

        def total(task: Callable[..., npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
            found = np.zeros(shape)
            with engine.share(basis) as shared:
                for each in engine.map(task, blocks, edges, shared):
                    found += each
            return found

        for _ in range(_POWER_ITERATIONS):
            basis = np.linalg.qr(total(_there_and_back, (n_items, n)).astype(np.float32))[0]
        inner = total(_inner, (n, n))
    squares, mixed = np.linalg.eigh(inner)
    best = np.argsort(-squares)[:size]
    return _unit((basis @ mixed[:, best].astype(np.float32)) * np.sqrt(np.maximum(squares[best], 0)).astype(np.float32))


def _there_and_back(users: slice, edges: sparse.csr_matrix, basis: Floats) -> npt.NDArray[np.float64]:
    """Return `E'E basis` (I, n) of some of the users."""
    part = edges[users]
    return np.asarray(part.T @ (part @ basis), np.float64)


def _inner(users: slice, edges: sparse.csr_matrix, basis: Floats) -> npt.NDArray[np.float64]:
    """Return the products (n, n) of the columns of `E basis`, of some of the users."""
    through = np.asarray(edges[users] @ basis, np.float64)
    return np.asarray(through.T @ through)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def strongest(
    rows: Callable[..., Floats],
    parts: Parts[Any],
    n: int,
    on_progress: OnProgress,
    *shared: Any,
    importance: Floats | None = None,
    engine: Engine = IN_PROCESS,
) -> sparse.csr_matrix:
    """Keep the n entries of the largest absolute value for each target item.

    Entries are selected by target (column), not by source: popular items get small weights from many sources, most of
    which would be lost otherwise.

    Args:
        rows: maps a part and the shared values to the strengths of all sources for each target of the part (b, I).
        parts: of successive blocks of all targets.
        n: number of entries per target.
        on_progress: called with the number of finished items and of all items.
        shared: further arguments of `rows`.
        importance: (I,) factor of each source in the selection, for tables whose entries are divided by popularity.
        engine: computes the parts.

    Returns:
        sparse (I, I), from source to target.
    """
    found: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]] = []
    n_items = parts.blocks[-1].stop
    numbered = Parts(parts.blocks, lambda block: (block.start, parts.cut(block)))
    with engine.share(_Selection(rows, shared, n, importance)) as selection:
        for block, entries in zip(parts.blocks, engine.map(_strongest_of, numbered, selection), strict=True):
            found.append(entries)
            on_progress(block.stop, n_items)
    targets, sources, strengths = (np.concatenate(each) for each in zip(*found, strict=True))
    table = sparse.csr_matrix((strengths, (sources, targets)), shape=(n_items, n_items))
    table.sort_indices()
    return table


@dataclass(frozen=True, eq=False)
class _Selection:
    """Arguments of `strongest` that are the same for all targets."""

    rows: Callable[..., Floats]
    shared: tuple[Any, ...]
    n: int
    importance: Floats | None


def _strongest_of(
    part: tuple[int, Any], selection: _Selection
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Floats]:
    """Return target, source and strength of each entry that is kept."""
    first, cut = part
    values = selection.rows(cut, *selection.shared)
    n_targets, n_items = values.shape
    values[np.arange(n_targets), np.arange(first, first + n_targets)] = 0
    weight = np.abs(values) if selection.importance is None else np.abs(values) * selection.importance
    n = min(selection.n, n_items)
    best = np.argpartition(-weight, n - 1, axis=1)[:, :n]
    kept = np.take_along_axis(values, best, 1)
    rows, indices = np.nonzero(kept)
    return (rows + first).astype(np.int32), best[rows, indices].astype(np.int32), kept[rows, indices]
