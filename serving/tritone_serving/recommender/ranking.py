"""Select the best items of a row of scores, with optional diversity and novelty, or from a precomputed ranking.

Rankings of stored users are computed in training for each ensemble of an A/B test. They serve requests that contain
nothing but a stored user; all other requests are scored.
Shapes: U stored users, I items, k of them wanted, P in the pool that is re-ranked, D size of an item vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.requests import RecommendRequest
from tritone_serving.recommender.rows import Floats, Rows

_POOL_PER_ITEM: Final = 10  # so many candidates for each wanted item are re-ranked
_SMALLEST_POOL: Final = 100
_LARGEST_POOL: Final = 2_000
_GROUPS_PER_ITEM: Final = 16
_SMALLEST_GROUP: Final = 4

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Chosen items, best first.

    Attributes:
        items: (k,).
        scores: (k,) what they were ranked by: relevance + novelty + diversity.
        novelty: (k,) what novelty gave.
        diversity: (k,) what similarity to items above took away, 0 or less.
    """

    items: Places
    scores: Floats
    novelty: Floats
    diversity: Floats


def top(scores: Floats, k: int) -> Places:
    """The k best items that are not -inf, best first; ties go to the better known item, which comes first.

    Args:
        scores: (I,).
    """
    k = min(k, len(scores))
    if k < len(scores):
        # Everything that ties with the k-th, so that ties are not cut at random.
        candidates = _promising(scores, k)
        found = scores[candidates]
        candidates = candidates[found >= np.partition(found, len(found) - k)[len(found) - k]]
    else:
        candidates = np.arange(len(scores))
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    kept: Places = order[scores[order] > -np.inf]
    return kept


def _promising(scores: Floats, k: int) -> Places:
    """The k best and a few more, ascending: sorting out all of a large catalogue takes longer than scoring it.

    Of groups of items at least k have a best one that is no worse than the k-th best of these best ones.
    """
    n_groups = _GROUPS_PER_ITEM * k
    size = len(scores) // n_groups
    if size < _SMALLEST_GROUP:
        return np.arange(len(scores))
    best = scores[: size * n_groups].reshape(size, n_groups).max(0)
    return np.flatnonzero(scores >= np.partition(best, n_groups - k)[n_groups - k])


def rank(
    scores: Floats, k: int, *, diversity: float, novelty: float, popularity: Floats, vectors: Floats | None
) -> Ranked:
    """Choose k items: maximal marginal relevance (Carbonell & Goldstein 1998) with a bonus for the little known.

    Args:
        scores: (I,) relevance, -inf for what must not come.
        popularity: (I,) 0..1.
        vectors: (I, D) of length 1; without them diversity has no effect.
    """
    if diversity == 0 and novelty == 0:
        items = top(scores, k)
        none = np.zeros(len(items), np.float32)
        return Ranked(items, scores[items], none, none)
    pool = top(scores, min(max(k * _POOL_PER_ITEM, _SMALLEST_POOL), max(k, _LARGEST_POOL)))
    relevance = scores[pool]
    spread = float(relevance[0] - relevance[-1]) if len(pool) else 0.0  # the unit of both bonuses
    bonus = (novelty * spread * (1 - popularity[pool])).astype(np.float32)
    if diversity == 0 or vectors is None:
        order = np.argsort(-(relevance + bonus), kind="stable")[:k]
        return Ranked(pool[order], (relevance + bonus)[order], bonus[order], np.zeros(len(order), np.float32))
    order, penalty = _marginal(relevance + bonus, np.asarray(vectors[pool], np.float32), k, diversity * spread)
    return Ranked(pool[order], (relevance + bonus)[order] + penalty, bonus[order], penalty)


def _marginal(values: Floats, vectors: Floats, k: int, unit: float) -> tuple[Places, Floats]:
    """Greedy: the best value less the similarity to the most alike item chosen before.

    Returns:
        (k,) places, and (k,) what similarity took away from each.
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
    """Each stored user's best items not yet listened to, best first, by arm: (U, I) rows of scores."""

    by_arm: dict[str, Rows]

    @classmethod
    def open(cls, artifact: Artifact) -> PrecomputedRankings:
        arms = [
            name.split(".")[1] for name in artifact.arrays if name.startswith("lists.") and name.endswith(".starts")
        ]
        return cls({arm: artifact.rows(f"lists.{arm}") for arm in arms})

    def find(self, request: RecommendRequest, user: int, arm: str, exclude: list[int]) -> Ranked | None:
        """The answer to a plain request, or None if it has to be scored."""
        lists = self.by_arm.get(arm)
        if lists is None or not is_plain(request):
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
    """Whether nothing but a stored user is asked about."""
    brings = len(request.history) or len(request.skipped) or len(request.friends)
    wishes = request.diversity or request.novelty or request.explain or not request.filter_listened
    return not brings and not wishes and request.embedding is None and request.mood is None
