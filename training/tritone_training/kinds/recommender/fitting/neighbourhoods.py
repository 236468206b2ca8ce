"""Item-item base models for large catalogues, with each item's regression restricted to its nearest neighbours.

The Gram matrix is computed once, in sparse blocks. For each item, the exact entries of the `m` items with the highest
cosine are kept. The item-kNN table consists of the best of these, so it equals the dense computation. EASE and the
graph filter are solved by one small ridge regression per item on its `n` best neighbours (cf. Steck 2019,
arXiv:1911.05394, who restricts EASE to a sparsity pattern). Entries outside of the neighbourhood count as
0; the result is exact if the neighbourhood contains all items.
Shapes: U users, I items, m neighbours with a known overlap, n neighbours in the regression, b items of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
OnProgress = Callable[[int, int], None]
_MOST_ENTRIES: Final = (
    40_000_000  # of a block of the Gram matrix: 8 bytes each, and as much again during its computation
)
_SOLVED_AT_ONCE: Final = 128
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


def neighbourhoods(matrix: sparse.csr_matrix, n: int, shrink: float, on_progress: OnProgress) -> Neighbourhoods:
    """Find the neighbours of every item by the cosine similarity of their columns.

    Args:
        matrix: (U, I), not negative.
        n: number of neighbours in the regressions; overlaps are kept for four times as many.
        shrink: added to the denominator of the cosine.
        on_progress: called with the number of finished items and of all items.
    """
    n_items = matrix.shape[1]
    m = min(_KNOWN_PER_SOLVED * n, n_items)
    turned = sparse.csr_matrix(matrix.T)
    squares = np.asarray(turned.multiply(turned).sum(1), np.float32).ravel()
    lengths = np.sqrt(squares)
    found = Neighbourhoods(
        np.repeat(np.arange(n_items, dtype=np.int32)[:, None], m, 1),
        np.zeros((n_items, m), np.float32),
        np.zeros((n_items, m), np.float32),
        squares,
    )
    for block in _blocks(turned, np.diff(matrix.indptr)):
        gram = turned[block] @ matrix
        for row, item in enumerate(range(block.start, block.stop)):
            span = slice(gram.indptr[row], gram.indptr[row + 1])
            others, overlaps = gram.indices[span], gram.data[span]
            cosines = overlaps / (lengths[item] * lengths[others] + np.float32(shrink))
            cosines[others == item] = 0
            best = np.argpartition(-cosines, m - 1)[:m] if len(cosines) > m else np.arange(len(cosines))
            best = best[np.argsort(-cosines[best], kind="stable")]
            best = best[cosines[best] > 0]
            found.items[item, : len(best)] = others[best]
            found.overlaps[item, : len(best)] = overlaps[best]
            found.cosines[item, : len(best)] = cosines[best]
        on_progress(block.stop, n_items)
    return found


def _blocks(turned: sparse.csr_matrix, n_listened: Ints) -> Iterator[slice]:
    """Yield slices of items whose rows of the Gram matrix fit into memory together.

    Args:
        turned: (I, U).
        n_listened: (U,) number of items of each user.
    """
    n_items = turned.shape[0]
    consumed = sparse.csr_matrix((np.ones(turned.nnz, np.float32), turned.indices, turned.indptr), shape=turned.shape)
    widths = np.minimum(consumed @ n_listened.astype(np.float64), n_items)  # upper bound of the entries in each row
    start, total = 0, 0.0
    for item, width in enumerate(widths.tolist()):
        if item > start and total + width > _MOST_ENTRIES:
            yield slice(start, item)
            start, total = item, 0.0
        total += width
    if n_items:
        yield slice(start, n_items)


@dataclass(frozen=True, eq=False)
class ItemRegressions:
    """Ridge regressions of each item on its neighbours.

    Attributes:
        weights: (I, n) in the order of `Neighbourhoods.items`.
        inverses: (I,) diagonal of `(X'X + l2)^-1`, approximated within the neighbourhoods.
    """

    weights: Floats
    inverses: Floats


def solve(near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress) -> ItemRegressions:
    """Solve `(G + l2)^-1 g` for each item within its n neighbours."""
    n = min(n, near.items.shape[1])
    index = np.full(near.n_items, -1, np.int16)  # position of an item among the neighbours of the target
    weights = np.zeros((near.n_items, n), np.float32)
    inverses = np.zeros(near.n_items, np.float32)
    for start in range(0, near.n_items, _SOLVED_AT_ONCE):
        block = slice(start, min(start + _SOLVED_AT_ONCE, near.n_items))
        wanted = near.overlaps[block, :n]
        grams = np.stack([_gram(near, item, n, l2, index) for item in range(block.start, block.stop)])
        weights[block] = _positive(grams, wanted)
        inverses[block] = 1 / (near.squares[block] + np.float32(l2) - (weights[block] * wanted).sum(1))
        on_progress(block.stop, near.n_items)
    return ItemRegressions(weights, inverses)


def _gram(near: Neighbourhoods, item: int, n: int, l2: float, index: npt.NDArray[np.int16]) -> Floats:
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


def ease_near(near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress) -> sparse.csr_matrix:
    """Return EASE's weights (I, I)."""
    return near.table(n, solve(near, n, l2, on_progress).weights)


def graph_near(near: Neighbourhoods, degrees: Floats, n: int, l2: float, on_progress: OnProgress) -> sparse.csr_matrix:
    """Return the table of the graph filter (I, I), `-l2 P`, where a column of P is EASE's times its diagonal entry.

    Args:
        near: neighbourhoods by the edges of the graph.
        degrees: (I,) as in `Graph`.
        n: number of neighbours in the regressions.
        l2: regularisation.
        on_progress: called with the number of finished items and of all items.
    """
    solved = solve(near, n, l2, on_progress)
    roots = np.sqrt(degrees)
    back = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    scale = np.float32(l2) * solved.inverses * roots
    return near.table(n, solved.weights * scale[:, None] * back[near.items[:, : solved.weights.shape[1]]])
