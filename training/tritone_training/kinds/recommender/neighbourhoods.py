"""Item-item base models for large catalogues: each item is solved among its nearest neighbours only.

The Gram matrix is passed over once, in sparse blocks; of each item the `m` items of the highest cosine are kept with
their exact entries. Item-kNN's table is the best of these, and so what the dense way finds. EASE and the graph filter
become one small ridge regression an item, on the `n` best of its neighbours (Steck 2019b, arXiv:1911.05394, restricts
EASE to a sparsity pattern in the same spirit): exact where the neighbourhood is everything, and where it is not, what
lies outside counts as 0.
Shapes: U users, I items, m neighbours with a known overlap, n that are solved for, b items of a block.
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
_MOST_ENTRIES: Final = 40_000_000  # of the Gram matrix at once: 8 bytes each, and as much again while it is made
_SOLVED_AT_ONCE: Final = 128
_KNOWN_PER_SOLVED: Final = 4  # overlaps are kept for so many times the neighbours that are solved for


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Each item's strongest neighbours, the strongest first, filled up with itself at overlap 0.

    Attributes:
        items: (I, m).
        overlaps: (I, m) entries of the Gram matrix.
        cosines: (I, m) overlap / (lengths + shrink).
        squares: (I,) the Gram matrix's diagonal.
    """

    items: Ints
    overlaps: Floats
    cosines: Floats
    squares: Floats

    @property
    def n_items(self) -> int:
        return len(self.items)

    def table(self, n: int, values: Floats) -> sparse.csr_matrix:
        """(I, I) from a neighbour to the item it speaks for, of values (I, >= n) in the order of `items`."""
        n = min(n, values.shape[1])
        strengths = values[:, :n].ravel()
        targets = np.repeat(np.arange(self.n_items, dtype=np.int32), n)
        stays = strengths != 0
        table = sparse.csr_matrix(
            (strengths[stays], (self.items[:, :n].ravel()[stays], targets[stays])), shape=(self.n_items, self.n_items)
        )
        table.sort_indices()
        return table


def neighbourhoods(matrix: sparse.csr_matrix, n: int, shrink: float, on_progress: OnProgress) -> Neighbourhoods:
    """Every item's neighbours by cosine of their listeners.

    Args:
        matrix: (U, I), nothing below 0.
        n: that will be solved for; overlaps are kept for four times as many.
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
    """Spans of items whose rows of the Gram matrix fit into memory together.

    Args:
        turned: (I, U).
        n_listened: (U,) how many items each user listens to.
    """
    n_items = turned.shape[0]
    consumed = sparse.csr_matrix((np.ones(turned.nnz, np.float32), turned.indices, turned.indptr), shape=turned.shape)
    widths = np.minimum(consumed @ n_listened.astype(np.float64), n_items)  # at most so many entries a row
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
    """One ridge regression an item: what its neighbours count when they predict it.

    Attributes:
        weights: (I, n) in the order of `Neighbourhoods.items`.
        inverses: (I,) the diagonal of `(X'X + l2)^-1`, as far as the neighbours tell.
    """

    weights: Floats
    inverses: Floats


def solve(near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress) -> ItemRegressions:
    """EASE's column of each item, `(G + l2)^-1 g` among its n neighbours."""
    n = min(n, near.items.shape[1])
    index = np.full(near.n_items, -1, np.int16)  # of an item among the target's neighbours
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
    """(n, n) the Gram matrix of an item's neighbours and the ridge; places that are only filled up stand alone."""
    among = near.items[item, :n]
    among = among[: int(np.count_nonzero(near.overlaps[item, :n]))]
    gram = np.zeros((n, n), np.float32)
    index[among] = np.arange(len(among), dtype=np.int16)
    columns = index[near.items[among]]
    indices = np.flatnonzero(columns.ravel() >= 0)
    rows = indices // near.items.shape[1]
    gram[rows, columns.ravel()[indices]] = near.overlaps[among].ravel()[indices]
    index[among] = -1
    np.maximum(gram, gram.T, out=gram)  # each overlap is known to the one, the other or both
    diagonal = np.ones(n, np.float32)
    diagonal[: len(among)] = near.squares[among] + np.float32(l2)
    gram[np.diag_indices(n)] = diagonal
    return gram


def _positive(grams: Floats, wanted: Floats) -> Floats:
    """Solve (b, n, n) x = (b, n).

    Unknown overlaps may leave a matrix indefinite; then its known ones are halved until it is not.
    """
    if not _is_positive(grams):
        alone = np.eye(grams.shape[1], dtype=np.bool_)
        for one in range(len(grams)):
            while not _is_positive(grams[one]):
                grams[one] = np.where(alone, grams[one], grams[one] * np.float32(0.5))
    return np.asarray(np.linalg.solve(grams, wanted[:, :, None])[:, :, 0], np.float32)


def _is_positive(grams: Floats) -> bool:
    try:
        np.linalg.cholesky(grams)
    except np.linalg.LinAlgError:
        return False
    return True


def ease_near(near: Neighbourhoods, n: int, l2: float, on_progress: OnProgress) -> sparse.csr_matrix:
    """EASE's table (I, I)."""
    return near.table(n, solve(near, n, l2, on_progress).weights)


def graph_near(near: Neighbourhoods, degrees: Floats, n: int, l2: float, on_progress: OnProgress) -> sparse.csr_matrix:
    """The graph filter's table (I, I): `-l2 P`, and a column of P is EASE's times its diagonal.

    Args:
        near: of the graph's edges.
        degrees: (I,) as in `Graph`.
    """
    solved = solve(near, n, l2, on_progress)
    roots = np.sqrt(degrees)
    back = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    scale = np.float32(l2) * solved.inverses * roots
    return near.table(n, solved.weights * scale[:, None] * back[near.items[:, : solved.weights.shape[1]]])
