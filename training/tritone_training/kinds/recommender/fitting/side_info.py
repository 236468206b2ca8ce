"""Side information in EASE, and the correction of scores for a user's own tags.

Each tag or metadata word is an additional row of the interaction matrix, so that items without listeners are scored
(collective EASE: Jeunen et al. 2020, doi:10.1145/3383313.3418480). A tag reveals that its user knows the item, so it
may affect the scores of other users but not of that user; otherwise a held-out listen to a tagged item would leak.
Shapes: U users, I items, W words, t items that a user tagged and did not play.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.kinds.recommender.fitting.tables import Ridge

_LEAST_ITEMS: Final = 5  # items with a word; rarer words are left out
_MOST_WORDS: Final = 4_000  # most frequent words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SideInfo:
    """Words of items as additional rows of the interaction matrix.

    Attributes:
        rows: (W, I), each item's column of norm `amount` or 0.
        counts: (I, W) number of occurrences of each word.
        rarity: (W,) inverse item frequency.
        indices: (G,) index of each tag among the W words, -1 for tags that are left out.
        amount: weight relative to listening.
    """

    rows: sparse.csr_matrix
    counts: sparse.csr_matrix
    rarity: Floats
    indices: Ints
    amount: float

    def without(self, item: int, tags: Sequence[int]) -> tuple[Ints, Floats]:
        """Return the words of an item, and the change of its column if each of the given tags occurs once less."""
        span = slice(self.counts.indptr[item], self.counts.indptr[item + 1])
        words, counts = self.counts.indices[span].astype(np.int64), self.counts.data[span].astype(np.float64)
        left = np.maximum(counts - np.isin(words, self.indices[list(tags)]), 0)
        return words, self._column(words, left) - self._column(words, counts)

    def _column(self, words: Ints, counts: Floats) -> Floats:
        column = np.log1p(counts) * self.rarity[words]
        return np.asarray(self.amount * column / max(float(np.linalg.norm(column)), 1e-9))


def side_info_of(dataset: InteractionDataset, amount: float) -> SideInfo:
    """Build the side information from the words of several items."""
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


_AT_ONCE = 256


def ease_ratios(dataset: InteractionDataset, solved: Ridge, side_info: SideInfo) -> Rows:
    """Return the ratios for EASE, exact for each tagged item.

    The weights of an item are a regression of its column on those of the other items. Removing a user's tags of the
    item changes only its own column, not the inverse over the others.
    """
    of_words = (
        solved.spread[dataset.n_users :] if solved.spread is not None else solved.rows(side_info.rows)
    )  # (W, I) R P
    by_pair = _tags_of_pairs(dataset)
    ratios: list[Floats] = []
    for start in range(0, dataset.n_users, _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, dataset.n_users))
        weights = sparse.csr_matrix(dataset.weights[rows])
        through, consumed = solved.rows(weights), np.asarray(weights @ of_words.T, np.float64)  # (b, I), (b, W)
        for local in range(weights.shape[0]):
            user = start + local
            items = _row(dataset.tagged, user)
            if not len(items):
                continue
            before = -through[local, items].astype(np.float64) / solved.diagonal[items]
            after = before.copy()
            for index, item in enumerate(items.tolist()):
                words, change = side_info.without(item, by_pair[user, item])
                pull = consumed[local, words] + before[index] * of_words[words, item]
                after[index] += change @ pull
            ratios.append(_ratio(after, before))
    return _rows(dataset.tagged, ratios)


def item_knn_ratios(
    dataset: InteractionDataset,
    table: sparse.csr_matrix,
    tag_weight: float,
    listening: sparse.csr_matrix,
    shrink: float,
) -> Rows:
    """Return the ratios for item-kNN, by subtraction of the user's own contribution to each overlap."""
    lengths = np.sqrt(np.asarray(listening.multiply(listening).sum(0)).ravel())
    ratios: list[Floats] = []
    for user in range(dataset.n_users):
        items = _row(dataset.tagged, user)
        if not len(items):
            continue
        consumed, weights = _entries(dataset.weights, user)
        strengths = table[consumed][:, items].toarray().astype(np.float64)  # (h, t)
        below = lengths[consumed][:, None] * lengths[items] + shrink
        own = tag_weight * ((weights * weights)[:, None] / below * (strengths != 0)).sum(0)
        before = weights @ strengths
        ratios.append(_ratio(before - own, before))
    return _rows(dataset.tagged, ratios)


def tag_ratios(dataset: InteractionDataset, idf: npt.NDArray[np.float32]) -> Rows:
    """Return the ratios for similarity by tags, without the tags that the user assigned to an item."""
    squares = np.asarray(dataset.tags.multiply(dataset.tags) @ (idf * idf)).ravel().astype(np.float64)
    by_pair = _tags_of_pairs(dataset)
    profiles = dataset.weights @ _unit(dataset.tags @ sparse.diags_array(idf))
    ratios: list[Floats] = []
    for user in range(dataset.n_users):
        items = _row(dataset.tagged, user)
        if not len(items):
            continue
        wanted = np.asarray(profiles[[user]].todense(), np.float64).ravel()
        user_ratios = np.ones(len(items))
        for index, item in enumerate(items.tolist()):
            tags, counts = _entries(dataset.tags, item)
            given = np.isin(tags, by_pair[user, item])
            pulls = wanted[tags] * idf[tags]
            before = float(counts @ pulls)
            left = counts - given
            square = squares[item] - float((idf[tags[given]] ** 2) @ (counts[given] ** 2 - left[given] ** 2))
            if before <= 0 or square <= 1e-9:
                user_ratios[index] = 0
                continue
            user_ratios[index] = float(left @ pulls) / before * np.sqrt(squares[item] / square)
        ratios.append(user_ratios)
    return _rows(dataset.tagged, ratios)


def _tags_of_pairs(dataset: InteractionDataset) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for user, item, tag in zip(*(each.tolist() for each in dataset.given), strict=True):
        found.setdefault((user, item), []).append(tag)
    return found


def _unit(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(matrix)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ matrix, dtype=np.float32)


def _row(matrix: sparse.csr_matrix, row: int) -> npt.NDArray[np.int64]:
    return np.asarray(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]], np.int64)


def _entries(matrix: sparse.csr_matrix, row: int) -> tuple[npt.NDArray[np.int64], Floats]:
    span = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return np.asarray(matrix.indices[span], np.int64), np.asarray(matrix.data[span], np.float64)


def _ratio(after: Floats, before: Floats) -> Floats:
    """Return `after / before`, limited to 0..2 (removing tags may raise a score); 1 where `before` is not positive."""
    safe = np.where(before > 1e-12, before, 1)
    return np.where(before > 1e-12, np.clip(after / safe, 0, 2), 1)


def _rows(tagged: sparse.csr_matrix, ratios: list[Floats]) -> Rows:
    values = np.concatenate([np.zeros(0), *ratios]).astype(np.float32)
    return Rows(tagged.indptr.astype(np.int64), tagged.indices.astype(np.int32), values)
