"""How much each member counts: other weights for long, short and no histories.

Shapes: B questions, M members, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.rows import Floats

SEGMENTS: Final = ("cold", "short", "warm")


BIAS: Final = "bias"  # in a manifest's weights for unheard items: a constant


@dataclass(frozen=True, eq=False)
class Weights:
    """What each member counts for each question.

    Attributes:
        heard: (B, M) for items that somebody listens to.
        unheard: (B, M) for items that nobody listens to yet: most members are silent about them, and the others
            would be outvoted.
        bias: (B,) added to unheard items, so that the two kinds can be compared.
    """

    heard: Floats
    unheard: Floats
    bias: Floats

    @classmethod
    def zeros(cls, n: int, n_members: int) -> Weights:
        """Nobody counts."""
        shape = (n, n_members)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(n, np.float32))

    def put(self, rows: npt.NDArray[np.bool_], others: Weights) -> None:
        """Take some questions' weights from others."""
        for mine, theirs in ((self.heard, others.heard), (self.unheard, others.unheard), (self.bias, others.bias)):
            mine[rows] = theirs[rows]

    def of(self, row: int) -> Weights:
        """One question's, as a batch of its own."""
        one = slice(row, row + 1)
        return Weights(self.heard[one], self.unheard[one], self.bias[one])


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One set of weights, learned on validation data.

    Attributes:
        warm_from: own histories of at least so many items are warm, those of at least one item short.
        weights: segment -> member -> weight; a member that is not named has none.
        unheard: the same for items that nobody listens to yet, `bias` among them.
        asked: segment -> member -> what it counts at least where a question brings what that member goes by, a
            recording or a mood: no log teaches that.
    """

    warm_from: int
    weights: Mapping[str, Mapping[str, float]]
    unheard: Mapping[str, Mapping[str, float]]
    asked: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_manifest(cls, described: Mapping[str, Any]) -> Ensemble:
        return cls(
            int(described["warm_from"]),
            described["weights"],
            described.get("unheard") or described["weights"],
            described.get("asked") or {},
        )

    def segments(self, batch: Batch) -> npt.NDArray[np.int64]:
        """(B,) place in `SEGMENTS`."""
        n_history = batch.n_history
        return np.where(n_history >= self.warm_from, 2, np.where(n_history > 0, 1, 0))

    def weights_of(self, members: Sequence[str], batch: Batch) -> Weights:
        """Weights by each question's segment, and by what it brings."""
        segments = self.segments(batch)
        heard, unheard = (
            np.array([[table[s].get(name, 0.0) for name in members] for s in SEGMENTS], np.float32)
            for table in (self.weights, self.unheard)
        )
        bias = np.array([self.unheard[s].get(BIAS, 0.0) for s in SEGMENTS], np.float32)
        found = Weights(heard[segments], unheard[segments], bias[segments])
        for name, brought in batch.brought.items():
            if name in members and brought.any():
                least = np.array([self.asked.get(s, {}).get(name, 0.0) for s in SEGMENTS], np.float32)[segments]
                for table in (found.heard, found.unheard):
                    column = table[:, members.index(name)]
                    np.maximum(column, least, out=column, where=brought)
        return found


def loud(scores: Floats, scale: float) -> Floats:
    """`log(1 + score / scale)`, 0 where a member has nothing good to say: the blend is nearly a product of members.

    Args:
        scale: the member's own unit, from training; 0 leaves its scores as they are.
    """
    if scale == 0:
        return scores
    heard: Floats = scores * np.float32(1 / scale)
    np.maximum(heard, 0, out=heard)
    heard += np.float32(1)
    return np.log(heard, out=heard)


class Blend:
    """A weighted sum of members' scores, added up as they come."""

    def __init__(self, weights: Weights, n_heard: int, n_items: int) -> None:
        """Begin with nothing.

        Args:
            n_heard: the first items of that number are those that somebody listens to.
        """
        self._weights = weights
        self._n_heard = n_heard
        self._total = np.zeros((len(weights.bias), n_items), np.float32)

    def add(self, member: int, scores: Floats) -> None:
        """Add a member's.

        Args:
            member: its place in the weights.
            scores: (B, I), as `loud` made them.
        """
        heard, unheard = slice(self._n_heard), slice(self._n_heard, None)
        for part, table in ((heard, self._weights.heard), (unheard, self._weights.unheard)):
            if table[:, member].any():
                self._total[:, part] += table[:, member, None] * scores[:, part]

    def total(self) -> Floats:
        """(B, I)."""
        self._total[:, self._n_heard :] += self._weights.bias[:, None]
        return self._total
