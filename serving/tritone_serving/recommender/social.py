"""Whose listening stands for someone: friends, and more faintly the friends of friends.

A friend of everybody's tells less about each of them, so closeness is divided by how many friends someone has, and a
way over a friend counts less than a direct one: two steps of a walk over the graph of friends.
Shapes: U stored users, n people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.rows import Floats, Rows

_MOST: Final = 300  # people, the closest

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SocialNeighbourhood:
    """The graph of friends, and what a way through it is worth.

    Attributes:
        friends: (U, U).
        say: (U,) what one step to someone is worth.
        second: what a way of two steps is worth beside one of a single step; 0 for friends alone.
    """

    friends: Rows
    say: Floats
    second: float

    @classmethod
    def open(cls, friends: Rows, described: Mapping[str, Any]) -> SocialNeighbourhood:
        """Of an artifact; one that says nothing about it has friends of equal worth alone."""
        damping = float(described.get("damping", 0.0))
        say = np.maximum(friends.counts, 1).astype(np.float32) ** np.float32(-damping)
        return cls(friends, say, float(described.get("second", 0.0)))

    def around(self, direct: Ints, *, but: int) -> tuple[Ints, Floats]:
        """People around someone, ascending, and how close they are.

        Args:
            direct: (n,) friends, each once.
            but: row of whom is asked for, who is no friend of their own; -1 if not stored.
        """
        closeness = self.say[direct]
        if not self.second or not len(direct):
            return direct, closeness
        theirs = self.friends.take(direct)
        ways = np.float32(self.second) * np.repeat(closeness, theirs.counts) * self.say[theirs.columns]
        people, index = np.unique(np.concatenate([direct, theirs.columns]), return_inverse=True)
        total = np.bincount(index, np.concatenate([closeness, ways]), len(people)).astype(np.float32)
        kept = people != but
        people, total = people[kept], total[kept]
        if len(people) > _MOST:
            best = np.sort(np.argpartition(-total, _MOST - 1)[:_MOST])
            people, total = people[best], total[best]
        return people.astype(np.int64), total
