"""Answers that were worked out in training: what a stored user gets who brings nothing new.

Most requests are of that kind, and what they are told changes only when the artifact does. Whoever brings a
history, a skip, a friend or a wish is scored as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.ranking import Ranked
from tritone_serving.recommender.requests import RecommendRequest
from tritone_serving.recommender.rows import Rows


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
