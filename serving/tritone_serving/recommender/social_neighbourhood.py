"""The graph of friends, and the users around a user in it.

Shapes: U stored users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.requests import Ints
from tritone_serving.recommender.rows import Floats, Rows

_MOST_NEIGHBOURS: Final = 300  # closest users that are kept


@dataclass(frozen=True, eq=False)
class SocialNeighbourhood:
    """The graph of friends and the weights of its walks.

    Attributes:
        friends: (U, U) sparse adjacency.
        damping: exponent of the weight of a step to a user, degree ** -damping.
        second: weight of walks of two steps relative to those of one; 0 ignores friends of friends.
    """

    friends: Rows
    damping: float
    second: float

    @classmethod
    def open(cls, friends: Rows, described: Mapping[str, Any]) -> SocialNeighbourhood:
        """Read the parameters from a manifest; by default all friends count the same and their friends not at all."""
        return cls(friends, float(described.get("damping", 0.0)), float(described.get("second", 0.0)))

    def step_weights(self, users: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return the weights of steps to some users (n,)."""
        if not self.damping or not len(users):
            return np.ones(len(users), np.float32)
        degrees = self.friends.starts[users + 1] - self.friends.starts[users]
        weights: Floats = np.maximum(degrees, 1).astype(np.float32) ** np.float32(-self.damping)
        return weights

    def around(self, direct: Ints, closeness: Floats, *, exclude: int) -> tuple[Ints, Floats]:
        """Return the rows of the users around a user, ascending, and their closeness.

        Args:
            direct: rows of the user's friends, without duplicates.
            closeness: their `step_weights`.
            exclude: row of the user, -1 if not stored.
        """
        if not self.second or not len(direct):
            return direct, closeness
        second = self.friends.take(direct)
        walks = (
            np.float32(self.second)
            * np.repeat(closeness, second.counts)
            * self.step_weights(second.columns.astype(np.int64))
        )
        people, index = np.unique(np.concatenate([direct, second.columns]), return_inverse=True)
        total = np.bincount(index, np.concatenate([closeness, walks]), len(people)).astype(np.float32)
        kept = people != exclude
        people, total = people[kept], total[kept]
        if len(people) > _MOST_NEIGHBOURS:
            best = np.sort(np.argpartition(-total, _MOST_NEIGHBOURS - 1)[:_MOST_NEIGHBOURS])
            people, total = people[best], total[best]
        return people.astype(np.int64), total
