"""Select the best items of a row of scores, with optional diversity and novelty, or from a precomputed ranking.

Rankings of stored users are computed in training for each ensemble of an A/B test. They serve requests that contain
nothing but a stored user; all other requests are scored.
Shapes: U stored users, I items, k requested items, D size of an item vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.requests import RecommendRequest
from tritone_serving.recommender.rows import Floats, Rows

_POOL_PER_ITEM: Final = 10  # candidates for re-ranking, per requested item
_SMALLEST_POOL: Final = 100
_LARGEST_POOL: Final = 2_000
_GROUPS_PER_ITEM: Final = 16
_SMALLEST_GROUP: Final = 4
_MOST_SORTED: Final = 8  # candidates per requested item that are sorted without a partition first

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Selected items, best first.

    Attributes:
        items: (k,) indices.
        scores: (k,) relevance + novelty + diversity.
        novelty: (k,) bonus for novelty.
        diversity: (k,) penalty for similarity to higher-ranked items, 0 or less.
    """

    items: Places
    scores: Floats
    novelty: Floats
    diversity: Floats


def top(scores: Floats, k: int) -> Places:
    """Return the indices of the k largest scores other than -inf, best first; ties are broken by popularity.

    Items are in descending order of popularity, so ties go to the lower index.

    Args:
        scores: (I,).
    """
    k = min(k, len(scores))
    # Includes all items that tie with the k-th, so that the selection among them is deterministic.
    candidates = _promising(scores, k) if k < len(scores) else np.arange(len(scores))
    found = scores[candidates]
    if len(found) > _MOST_SORTED * k:
        is_best = found >= np.partition(found, len(found) - k)[len(found) - k]
        candidates, found = candidates[is_best], found[is_best]
    order = np.argsort(-found, kind="stable")[:k]
    kept: Places = candidates[order][found[order] > -np.inf]
    return kept


def _promising(scores: Floats, k: int) -> Places:
    """Return a small superset of the k best items, ascending; partitioning a large catalogue would take longer.

    Items are divided into groups. At least k items reach the k-th largest maximum of the groups, so the k best do.
    """
    n_groups = _GROUPS_PER_ITEM * k
    size = len(scores) // n_groups
    if size < _SMALLEST_GROUP:
        return np.arange(len(scores))
    best = scores[: size * n_groups].reshape(size, n_groups).max(0)
    return np.flatnonzero(scores >= np.partition(best, n_groups - k)[n_groups - k])


def pool_size(k: int) -> int:
    """Return how many items are re-ranked to select k of them."""
    return min(max(k * _POOL_PER_ITEM, _SMALLEST_POOL), max(k, _LARGEST_POOL))


def rank(
    scores: Floats,
    k: int,
    *,
    diversity: float,
    novelty: float,
    popularity: Floats,
    vectors: Floats | None,
    scored: Places | None = None,
) -> Ranked:
    """Select k items by maximal marginal relevance (Carbonell & Goldstein 1998) with a bonus for unpopular items.

    Args:
        scores: (I,) relevance, -inf for excluded items; or (n,) of some items.
        k: number of items.
        diversity: 0..1, weight of the similarity to items selected before.
        novelty: 0..1, weight of the bonus.
        popularity: (I,) 0..1.
        vectors: (I, D) of norm 1; without them diversity has no effect.
        scored: (n,) the items that have scores, ascending; None for all.
    """
    places = top(scores, k if diversity == 0 and novelty == 0 else pool_size(k))
    pool, relevance = places if scored is None else scored[places], scores[places]
    if diversity == 0 and novelty == 0:
        none = np.zeros(len(pool), np.float32)
        return Ranked(pool, relevance, none, none)
    spread = float(relevance[0] - relevance[-1]) if len(pool) else 0.0  # the unit of both bonuses
    bonus = (novelty * spread * (1 - popularity[pool])).astype(np.float32)
    if diversity == 0 or vectors is None:
        order = np.argsort(-(relevance + bonus), kind="stable")[:k]
        return Ranked(pool[order], (relevance + bonus)[order], bonus[order], np.zeros(len(order), np.float32))
    order, penalty = _marginal(relevance + bonus, np.asarray(vectors[pool], np.float32), k, diversity * spread)
    return Ranked(pool[order], (relevance + bonus)[order] + penalty, bonus[order], penalty)


def _marginal(values: Floats, vectors: Floats, k: int, unit: float) -> tuple[Places, Floats]:
    """Select greedily by value minus similarity to the most similar item selected before.

    Returns:
        (k,) indices, and the (k,) penalties for similarity.
    """
    nearest = np.zeros(len(values), np.float32)
    open_ = values.astype(np.float32).copy()
    chosen: list[int] = []
    penalties: list[float] = []
    for _ in range(min(k, len(values))):
        best = int(np.argmax(open_ - unit * nearest))
        chosen.append(best)
        penalties.append(-unit * float(nearest[best]))
        open_[best] = -np.inf
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return np.array(chosen, np.int64), np.array(penalties, np.float32)


@dataclass(frozen=True, eq=False)
class PrecomputedRankings:
    """Precomputed recommendations of stored users.

    Attributes:
        by_arm: arm -> (U, I) sparse scores of each user's best new items, best first.
    """

    by_arm: dict[str, Rows]

    @classmethod
    def open(cls, artifact: Artifact) -> PrecomputedRankings:
        arms = [
            name.split(".")[1] for name in artifact.arrays if name.startswith("lists.") and name.endswith(".starts")
        ]
        return cls({arm: artifact.rows(f"lists.{arm}") for arm in arms})

    def find(self, request: RecommendRequest, user: int, arm: str, exclude: list[int]) -> Ranked | None:
        """Return the ranking for a request that `is_plain`, or None if it has to be scored."""
        lists = self.by_arm.get(arm)
        if lists is None:
            return None
        items, scores = lists.row(user)
        if exclude:
            kept = ~np.isin(items, exclude)
            items, scores = items[kept], scores[kept]
        if len(items) < request.k:
            return None
        none = np.zeros(request.k, np.float32)
        return Ranked(items[: request.k].astype(np.int64), np.array(scores[: request.k]), none, none)


def is_plain(request: RecommendRequest) -> bool:
    """Return whether a request contains nothing but a user, `k` and `exclude`."""
    has_inputs = len(request.history) or len(request.skipped) or len(request.friends)
    has_options = request.diversity or request.novelty or request.explain or not request.filter_listened
    return not has_inputs and not has_options and request.embedding is None and request.mood is None
