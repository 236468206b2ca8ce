"""Answers that were worked out in training: what a stored user gets who brings nothing new.

Most questions are of that kind, and what they are told changes only when the artifact does. Whoever brings a
history, a skip, a friend or a wish is scored as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.question import Question
from tritone_serving.recommender.ranking import Ranked
from tritone_serving.recommender.rows import Rows


@dataclass(frozen=True, eq=False)
class Lists:
    """Each stored user's best unheard items, best first, by arm: (U, I) rows of scores."""

    by_arm: dict[str, Rows]

    @classmethod
    def open(cls, artifact: Artifact) -> Lists:
        arms = [
            name.split(".")[1] for name in artifact.arrays if name.startswith("lists.") and name.endswith(".starts")
        ]
        return cls({arm: artifact.rows(f"lists.{arm}") for arm in arms})

    def find(self, question: Question, user: int, arm: str, exclude: list[int]) -> Ranked | None:
        """The answer to a plain question, or None if it has to be scored."""
        lists = self.by_arm.get(arm)
        if lists is None or not is_plain(question):
            return None
        items, scores = lists.row(user)
        if exclude:
            kept = ~np.isin(items, exclude)
            items, scores = items[kept], scores[kept]
        if len(items) < question.k:
            return None
        none = np.zeros(question.k, np.float32)
        return Ranked(items[: question.k].astype(np.int64), np.array(scores[: question.k]), none, none)


def is_plain(question: Question) -> bool:
    """Whether nothing but a stored user is asked about."""
    brings = len(question.history) or len(question.skipped) or len(question.friends)
    wishes = question.diversity or question.novelty or question.explain or not question.filter_listened
    return not brings and not wishes and question.embedding is None and question.mood is None
