"""How much each member counts: other weights for long, short and no histories.

Letters: B questions, M members, I items.
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


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One set of weights, learned on validation data.

    Attributes:
        warm_from: histories of at least so many items are warm, those of at least one item short.
        weights: segment -> member -> weight; a member that is not named has none.
    """

    warm_from: int
    weights: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_manifest(cls, described: Mapping[str, Any]) -> Ensemble:
        return cls(int(described["warm_from"]), described["weights"])

    def segments(self, batch: Batch) -> npt.NDArray[np.int64]:
        """(B,) place in `SEGMENTS`."""
        n_history = batch.n_history
        return np.where(n_history >= self.warm_from, 2, np.where(n_history > 0, 1, 0))

    def table(self, members: Sequence[str]) -> Floats:
        """(3, M) weights by segment."""
        return np.array([[self.weights[s].get(name, 0.0) for name in members] for s in SEGMENTS], np.float32)


def loud(scores: Floats, scale: float) -> Floats:
    """`log(1 + score / scale)`, 0 where a member has nothing good to say: the blend is nearly a product of members.

    Args:
        scale: the member's own unit, from training; 0 leaves its scores as they are.
    """
    if scale == 0:
        return scores
    heard: Floats = np.log(np.maximum(scores, 0) * np.float32(1 / scale) + np.float32(1))
    return heard


def blend(scores: Mapping[str, Floats], weights: Floats, n_items: int) -> Floats:
    """Weighted sum of members' scores.

    Args:
        scores: member -> (B, I).
        weights: (B, M), members in the order of `scores`.

    Returns:
        (B, I), a new array.
    """
    total = np.zeros((len(weights), n_items), np.float32)
    for column, each in enumerate(scores.values()):
        if weights[:, column].any():
            total += weights[:, column, None] * each
    return total
