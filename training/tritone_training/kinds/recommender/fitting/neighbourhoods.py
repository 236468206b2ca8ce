"""Item-item base models for large catalogues, with each item's regression restricted to its nearest neighbours.

The Gram matrix is computed once, in sparse blocks. For each item, the exact entries of the `m` items with the highest
cosine are kept. The item-kNN table consists of the best of these, so it equals the dense computation. EASE and the
graph filter are solved by one small ridge regression per item on its `n` best neighbours (cf. Steck 2019,
arXiv:1911.05394, who restricts EASE to a sparsity pattern). Entries outside of the neighbourhood count as
0; the result is exact if the neighbourhood contains all items.
Shapes: U users, I items, m neighbours with a known overlap, n neighbours in the regression, b items of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_by_work, blocks_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
OnProgress = Callable[[int, int], None]
_MOST_ENTRIES: Final = (
    10_000_000  # of a block of the Gram matrix: 8 bytes each, and as much again during its computation
)
_SOLVED_AT_ONCE: Final = 128
_SOLVED_BY_TASK: Final = 1024
_KNOWN_PER_SOLVED: Final = 4  # m / n


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The nearest neighbours of each item, nearest first, padded with the item itself at overlap 0.

    Attributes:
        items: (I, m) indices.
        overlaps: (I, m) entries of the Gram matrix.
        cosines: (I, m) overlap / (product of norms + shrink).
        squares: (I,) diagonal of the Gram matrix.
    """

    items: Ints
    overlaps: Floats
    cosines: Floats
    squares: Floats

    @property
    def n_items(self) -> int:
        return len(self.items)

    def table(self, n: int, values: Floats) -> sparse.csr_matrix:
        """Return a sparse table (I, I), from neighbour to item, of values (I, >= n) in the order of `items`."""
        n = min(n, values.shape[1])
        strengths = values[:, :n].ravel()
        targets = np.repeat(np.arange(self.n_items, dtype=np.int32), n)
        kept = strengths != 0
        table = sparse.csr_matrix(
            (strengths[kept], (self.items[:, :n].ravel()[kept], targets[kept])), shape=(self.n_items, self.n_items)
        )
        table.sort_indices()
        return table


@dataclass(frozen=True, eq=False)
class _Columns:
    """What every block of items is compared with.

    Attributes:
        matrix: (U, I).
        lengths: (I,) norms of the columns.
        shrink: added to the denominator of the cosine.
        m: number of neighbours.
    """

    matrix: sparse.csr_matrix
    lengths: Floats
    shrink: float
    m: int


def neighbourhoods(
    matrix: sparse.csr_matrix, n: int, shrink: float, on_progress: OnProgress, engine: Engine = IN_PROCESS
) -> Neighbourhoods:
    """Find the neighbours of every item by the cosine similarity of their columns.

    A task computes the rows of the Gram matrix of a block of items, for which every worker has the whole matrix.
    Partial Gram matrices of some of the users each would have to be sent and added: they have more entries than the
    matrix, about the mean length of a history times as many.

    Args:
        matrix: (U, I), not negative.
        n: number of neighbours in the regressions; overlaps are kept for four times as many.
        shrink: added to the denominator of the cosine.
        on_progress: called with the number of finished items and of all items.
        engine: computes the blocks.
    """
    n_items = matrix.shape[1]
    m = min(_KNOWN_PER_SOLVED * n, n_items)
    turned = sparse.csr_matrix(matrix.T)
    squares = np.asarray(turned.multiply(turned).sum(1), np.float32).ravel()
    found = Neighbourhoods(
        np.empty((n_items, m), np.int32),
        np.empty((n_items, m), np.float32),
        np.empty((n_items, m), np.float32),
        squares,
    )
    blocks = gram_blocks(turned, np.diff(matrix.indptr))
    parts = Parts(blocks, lambda block: (block.start, turned[block]))
    with engine.share(_Columns(matrix, np.sqrt(squares), shrink, m)) as columns:
        for block, nearest in zip(blocks, engine.map(_nearest, parts, columns), strict=True):
            found.items[block], found.overlaps[block], found.cosines[block] = nearest
            on_progress(block.stop, n_items)
    return found


def _nearest(part: tuple[int, sparse.csr_matrix], columns: _Columns) -> tuple[Ints, Floats, Floats]:
    """Return the neighbours (b, m) of a block of items, their overlaps and cosines, padded as in `Neighbourhoods`."""
    first, rows = part
    n_rows, m, lengths = rows.shape[0], columns.m, columns.lengths
    items = np.repeat(np.arange(first, first + n_rows, dtype=np.int32)[:, None], m, 1)
    all_overlaps, all_cosines = np.zeros((n_rows, m), np.float32), np.zeros((n_rows, m), np.float32)
    gram = rows @ columns.matrix
    for row in range(n_rows):
        span = slice(gram.indptr[row], gram.indptr[row + 1])
        others, overlaps = gram.indices[span], gram.data[span]
        cosines = overlaps / (lengths[first + row] * lengths[others] + np.float32(columns.shrink))
        cosines[others == first + row] = 0
        best = np.argpartition(-cosines, m - 1)[:m] if len(cosines) > m else np.arange(len(cosines))
        best = best[np.argsort(-cosines[best], kind="stable")]
        best = best[cosines[best] > 0]
        items[row, : len(best)] = others[best]
        all_overlaps[row, : len(best)] = overlaps[best]
        all_cosines[row, : len(best)] = cosines[best]
    return items, all_overlaps, all_cosines


def gram_blocks(turned: sparse.csr_matrix, n_listened: Ints) -> list[slice]:
    """Return slices of items whose rows of the Gram matrix fit into memory together.

    Args:
        turned: (I, U).
        n_listened: (U,) number of items of each user.
    """
    consumed = sparse.csr_matrix((np.ones(turned.nnz, np.float32), turned.indices, turned.indptr), shape=turned.shape)
    # An upper bound of the entries in each row.
    widths = np.minimum(consumed @ n_listened.astype(np.float64), turned.shape[0])
    return blocks_by_work(widths, _MOST_ENTRIES)


@dataclass(frozen=True, eq=False)
class ItemRegressions:
    """Ridge regressions of each item on its neighbours.

    Attributes:
        weights: (I, n) in the order of `Neighbourhoods.items`.
        inverses: (I,) diagonal of `(X'X + l2)^-1`, approximated within the neighbourhoods.
    """

    weights: Floats
    inverses: Floats


def solve(
    near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress, engine: Engine = IN_PROCESS
) -> ItemRegressions:
    """Solve `(G + l2)^-1 g` for each item within its n neighbours.

    Args:
        near: neighbourhoods, which every worker gets whole, since the neighbours of a block of items are anywhere.
        n: number of neighbours in the regressions.
        l2: regularisation.
        on_progress: called with the number of finished items and of all items.
        engine: solves blocks of items.
    """
    n = min(n, near.items.shape[1])
    weights = np.zeros((near.n_items, n), np.float32)
    inverses = np.zeros(near.n_items, np.float32)
    blocks = blocks_of(near.n_items, _SOLVED_BY_TASK)
    with engine.share(_Regressions(near.items, near.overlaps, near.squares, n, l2)) as shared:
        for block, solved in zip(blocks, engine.map(_solve_block, blocks, shared), strict=True):
            weights[block], inverses[block] = solved
            on_progress(block.stop, near.n_items)
    return ItemRegressions(weights, inverses)


@dataclass(frozen=True, eq=False)
class _Regressions:
    """What the regressions of all items are built from: `Neighbourhoods` without cosines, n and the regularisation."""

    items: Ints
    overlaps: Floats
    squares: Floats
    n: int
    l2: float


def _solve_block(block: slice, near: _Regressions) -> tuple[Floats, Floats]:
    """Return weights (b, n) and inverses (b,) of a block of items."""
    n_items, n = block.stop - block.start, near.n
    index = np.full(len(near.items), -1, np.int16)  # position of an item among the neighbours of the target
    weights, inverses = np.zeros((n_items, n), np.float32), np.zeros(n_items, np.float32)
    for start in range(0, n_items, _SOLVED_AT_ONCE):
        rows = slice(start, min(start + _SOLVED_AT_ONCE, n_items))
        items = slice(block.start + rows.start, block.start + rows.stop)
        wanted = near.overlaps[items, :n]
        grams = np.stack([_gram(near, item, n, near.l2, index) for item in range(items.start, items.stop)])
        weights[rows] = _positive(grams, wanted)
        inverses[rows] = 1 / (near.squares[items] + np.float32(near.l2) - (weights[rows] * wanted).sum(1))
    return weights, inverses


def _gram(near: _Regressions, item: int, n: int, l2: float, index: npt.NDArray[np.int16]) -> Floats:
    """Return the regularised Gram matrix of an item's neighbours (n, n); rows of padding are those of the identity."""
    among = near.items[item, :n]
    among = among[: int(np.count_nonzero(near.overlaps[item, :n]))]
    gram = np.zeros((n, n), np.float32)
    index[among] = np.arange(len(among), dtype=np.int16)
    columns = index[near.items[among]]
    indices = np.flatnonzero(columns.ravel() >= 0)
    rows = indices // near.items.shape[1]
    gram[rows, columns.ravel()[indices]] = near.overlaps[among].ravel()[indices]
    index[among] = -1
    np.maximum(gram, gram.T, out=gram)  # an overlap may be known to one of the two items only
    diagonal = np.ones(n, np.float32)
    diagonal[: len(among)] = near.squares[among] + np.float32(l2)
    gram[np.diag_indices(n)] = diagonal
    return gram


def _positive(grams: Floats, wanted: Floats) -> Floats:
    """Solve (b, n, n) x = (b, n).

    Unknown overlaps may make a matrix indefinite. Its off-diagonal entries are then halved until it is definite.
    """
    if not _is_positive(grams):
        diagonal = np.eye(grams.shape[1], dtype=np.bool_)
        for one in range(len(grams)):
            while not _is_positive(grams[one]):
                grams[one] = np.where(diagonal, grams[one], grams[one] * np.float32(0.5))
    return np.asarray(np.linalg.solve(grams, wanted[:, :, None])[:, :, 0], np.float32)


def _is_positive(grams: Floats) -> bool:
    try:
        np.linalg.cholesky(grams)
    except np.linalg.LinAlgError:
        return False
    return True


def ease_near(
    near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return EASE's weights (I, I)."""
    return near.table(n, solve(near, n, l2, on_progress, engine).weights)


def graph_near(
    near: Neighbourhoods, degrees: Floats, n: int, l2: float, on_progress: OnProgress, *, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return the table of the graph filter (I, I), `-l2 P`, where a column of P is EASE's times its diagonal entry.

    Args:
        near: neighbourhoods by the edges of the graph.
        degrees: (I,) as in `Graph`.
        n: number of neighbours in the regressions.
        l2: regularisation.
        on_progress: called with the number of finished items and of all items.
        engine: solves blocks of items.
    """
    solved = solve(near, n, l2, on_progress, engine)
    roots = np.sqrt(degrees)
    back = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    scale = np.float32(l2) * solved.inverses * roots
    return near.table(n, solved.weights * scale[:, None] * back[near.items[:, : solved.weights.shape[1]]])
