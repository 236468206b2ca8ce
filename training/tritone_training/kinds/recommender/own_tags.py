"""How much of what a user is told comes from the user's own tags: see `members.own` of the recommender.

A tag says that its giver knows the item. Everybody else may learn from that; the giver's own scores must not, or a
held-out listen that was tagged would be found by its own trace.
Shapes: U users, I items, t items that a user tagged and did not play.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.said import Said
from tritone_training.kinds.recommender.tables import Ridge
from tritone_training.kinds.recommender.world import World

Floats = npt.NDArray[np.float64]
_AT_ONCE = 256


def ease_ratios(world: World, solved: Ridge, said: Said) -> Rows:
    """EASE: exactly, for each tagged item by itself.

    An item's weights are a regression on its listeners and words: without a user's tags only what is regressed
    changes, the inverse over all other items stays as it is.
    """
    of_words = solved.spread[world.n_users :] if solved.spread is not None else solved.rows(said.rows)  # (W, I) R P
    by_pair = _tags_of_pairs(world)
    ratios: list[Floats] = []
    for start in range(0, world.n_users, _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, world.n_users))
        weights = sparse.csr_matrix(world.weights[rows])
        through, heard = solved.rows(weights), np.asarray(weights @ of_words.T, np.float64)  # (b, I), (b, W)
        for local in range(weights.shape[0]):
            user = start + local
            items = _row(world.tagged, user)
            if not len(items):
                continue
            before = -through[local, items].astype(np.float64) / solved.diagonal[items]
            after = before.copy()
            for place, item in enumerate(items.tolist()):
                words, change = said.without(item, by_pair[user, item])
                pull = heard[local, words] + before[place] * of_words[words, item]
                after[place] += change @ pull
            ratios.append(_ratio(after, before))
    return _rows(world.tagged, ratios)


def item_knn_ratios(
    world: World, table: sparse.csr_matrix, tag_weight: float, listening: sparse.csr_matrix, shrink: float
) -> Rows:
    """Item-kNN: the user's own share of every overlap is subtracted."""
    lengths = np.sqrt(np.asarray(listening.multiply(listening).sum(0)).ravel())
    ratios: list[Floats] = []
    for user in range(world.n_users):
        items = _row(world.tagged, user)
        if not len(items):
            continue
        heard, weights = _entries(world.weights, user)
        strengths = table[heard][:, items].toarray().astype(np.float64)  # (h, t)
        below = lengths[heard][:, None] * lengths[items] + shrink
        own = tag_weight * ((weights * weights)[:, None] / below * (strengths != 0)).sum(0)
        before = weights @ strengths
        ratios.append(_ratio(before - own, before))
    return _rows(world.tagged, ratios)


def tag_ratios(world: World, idf: npt.NDArray[np.float32]) -> Rows:
    """Likeness by tags: an item's tags without those that the user gave it."""
    squares = np.asarray(world.tags.multiply(world.tags) @ (idf * idf)).ravel().astype(np.float64)
    by_pair = _tags_of_pairs(world)
    profiles = world.weights @ _unit(world.tags @ sparse.diags_array(idf))
    ratios: list[Floats] = []
    for user in range(world.n_users):
        items = _row(world.tagged, user)
        if not len(items):
            continue
        wanted = np.asarray(profiles[[user]].todense(), np.float64).ravel()
        mine = np.ones(len(items))
        for place, item in enumerate(items.tolist()):
            tags, counts = _entries(world.tags, item)
            given = np.isin(tags, by_pair[user, item])
            pulls = wanted[tags] * idf[tags]
            before = float(counts @ pulls)
            left = counts - given
            square = squares[item] - float((idf[tags[given]] ** 2) @ (counts[given] ** 2 - left[given] ** 2))
            if before <= 0 or square <= 1e-9:
                mine[place] = 0
                continue
            mine[place] = float(left @ pulls) / before * np.sqrt(squares[item] / square)
        ratios.append(mine)
    return _rows(world.tagged, ratios)


def _tags_of_pairs(world: World) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for user, item, tag in zip(*(each.tolist() for each in world.given), strict=True):
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
    """`after / before` between 0 and 2 (tags also dilute); 1 where there was nothing good to say before."""
    safe = np.where(before > 1e-12, before, 1)
    return np.where(before > 1e-12, np.clip(after / safe, 0, 2), 1)


def _rows(tagged: sparse.csr_matrix, ratios: list[Floats]) -> Rows:
    values = np.concatenate([np.zeros(0), *ratios]).astype(np.float32)
    return Rows(tagged.indptr.astype(np.int64), tagged.indices.astype(np.int32), values)
