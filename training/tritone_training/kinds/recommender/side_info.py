"""What is said of items, as if each tag or word were one more listener: EASE learns from both together.

An item that nobody listens to yet has words, so it is reached as well (collective EASE: Jeunen et al. 2020,
doi:10.1145/3383313.3418480).
Shapes: I items, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_training.kinds.recommender.interaction_dataset import InteractionDataset

_LEAST_ITEMS: Final = 5  # that a word is said of
_MOST_WORDS: Final = 4_000  # the commonest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SideInfo:
    """Words as rows.

    Attributes:
        rows: (W, I), each item's column of length `amount` or 0.
        counts: (I, W) how often each word is said of each item.
        rarity: (W,).
        places: (tags,) each tag's place among the W, -1 for those that are left out.
        amount: what words count beside listening.
    """

    rows: sparse.csr_matrix
    counts: sparse.csr_matrix
    rarity: Floats
    indices: Ints
    amount: float

    def without(self, item: int, tags: Sequence[int]) -> tuple[Ints, Floats]:
        """(words of an item, change of its column when each of the given tags is said once less)."""
        span = slice(self.counts.indptr[item], self.counts.indptr[item + 1])
        words, counts = self.counts.indices[span].astype(np.int64), self.counts.data[span].astype(np.float64)
        left = np.maximum(counts - np.isin(words, self.indices[list(tags)]), 0)
        return words, self._column(words, left) - self._column(words, counts)

    def _column(self, words: Ints, counts: Floats) -> Floats:
        column = np.log1p(counts) * self.rarity[words]
        return np.asarray(self.amount * column / max(float(np.linalg.norm(column)), 1e-9))


def side_info_of(dataset: InteractionDataset, amount: float) -> SideInfo:
    """Count the words that are said of several items."""
    spread = dataset.tags.getnnz(axis=0)
    kept = np.argsort(-spread, kind="stable")[:_MOST_WORDS]
    kept = np.sort(kept[spread[kept] >= _LEAST_ITEMS])
    indices = np.full(dataset.tags.shape[1], -1, np.int64)
    indices[kept] = np.arange(len(kept))
    counts = sparse.csr_matrix(dataset.tags[:, kept])
    rarity = np.log(dataset.n_items / np.maximum(spread[kept], 1)).astype(np.float64)
    log_scaled = counts.copy()
    log_scaled.data = np.log1p(log_scaled.data)
    weighted = sparse.csr_matrix(log_scaled @ sparse.diags_array(rarity))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    unit = sparse.diags_array(amount / np.maximum(lengths, 1e-9)) @ weighted
    return SideInfo(sparse.csr_matrix(unit.T, dtype=np.float32), counts, rarity, indices, amount)
