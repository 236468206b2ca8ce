"""How much each base model counts: other weights for long, short and no histories.

Shapes: B requests, M base models, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats

SEGMENTS: Final = ("cold", "short", "warm")


BIAS: Final = "bias"  # in a manifest's weights for cold items: a constant


@dataclass(frozen=True, eq=False)
class Weights:
    """What each base model counts for each request.

    Attributes:
        listened: (B, M) for items that somebody listens to.
        cold: (B, M) for items that nobody listens to yet: most base models are silent about them, and the others
            would be outvoted.
        bias: (B,) added to cold items, so that the two kinds can be compared.
    """

    listened: Floats
    cold: Floats
    bias: Floats

    @classmethod
    def zeros(cls, n: int, n_base_models: int) -> Weights:
        """Nobody counts."""
        shape = (n, n_base_models)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(n, np.float32))

    def put(self, rows: npt.NDArray[np.bool_], others: Weights) -> None:
        """Take some requests' weights from others."""
        for mine, theirs in ((self.listened, others.listened), (self.cold, others.cold), (self.bias, others.bias)):
            mine[rows] = theirs[rows]

    def of(self, row: int) -> Weights:
        """One request's, as a batch of its own."""
        one = slice(row, row + 1)
        return Weights(self.listened[one], self.cold[one], self.bias[one])


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One set of weights, learned on validation data.

    Attributes:
        warm_from: own histories of at least so many items are warm, those of at least one item short.
        weights: segment -> base model -> weight; a base model that is not named has none.
        cold_items: the same for items that nobody listens to yet, `bias` among them.
        minimum_weights: segment -> base model -> least weight for requests with that base model's input (a
            recording or a mood); cannot be fitted, since listening logs do not hold such inputs.
    """

    warm_from: int
    weights: Mapping[str, Mapping[str, float]]
    cold_items: Mapping[str, Mapping[str, float]]
    minimum_weights: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_manifest(cls, described: Mapping[str, Any]) -> Ensemble:
        return cls(
            int(described["warm_from"]),
            described["weights"],
            described.get("cold_items") or described["weights"],
            described.get("minimum_weights") or {},
        )

    def segments(self, batch: RequestBatch) -> npt.NDArray[np.int64]:
        """(B,) place in `SEGMENTS`."""
        n_history = batch.n_history
        return np.where(n_history >= self.warm_from, 2, np.where(n_history > 0, 1, 0))

    def weights_of(self, base_models: Sequence[str], batch: RequestBatch) -> Weights:
        """Weights by each request's segment, and by what it brings."""
        segments = self.segments(batch)
        listened, cold = (
            np.array([[table[s].get(name, 0.0) for name in base_models] for s in SEGMENTS], np.float32)
            for table in (self.weights, self.cold_items)
        )
        bias = np.array([self.cold_items[s].get(BIAS, 0.0) for s in SEGMENTS], np.float32)
        found = Weights(listened[segments], cold[segments], bias[segments])
        for name, brought in batch.brought.items():
            if name in base_models and brought.any():
                least = np.array([self.minimum_weights.get(s, {}).get(name, 0.0) for s in SEGMENTS], np.float32)[
                    segments
                ]
                for table in (found.listened, found.cold):
                    column = table[:, base_models.index(name)]
                    np.maximum(column, least, out=column, where=brought)
        return found


def log_scaled(scores: Floats, scale: float) -> Floats:
    """`log(1 + score / scale)`, 0 where a base model has nothing good to say: the blend is nearly a product.

    Args:
        scale: the base model's own unit, from training; 0 leaves its scores as they are.
    """
    if scale == 0:
        return scores
    logs: Floats = scores * np.float32(1 / scale)
    np.maximum(logs, 0, out=logs)
    logs += np.float32(1)
    return np.log(logs, out=logs)


class Blend:
    """A weighted sum of base models' scores, added up as they come."""

    def __init__(self, weights: Weights, n_listened: int, n_items: int) -> None:
        """Begin with nothing.

        Args:
            n_listened: the first items of that number are those that somebody listens to.
        """
        self._weights = weights
        self._n_listened = n_listened
        self._total = np.zeros((len(weights.bias), n_items), np.float32)

    def add(self, base_model: int, scores: Floats) -> None:
        """Add a base model's.

        Args:
            base model: its place in the weights.
            scores: (B, I), as `log_scaled` made them.
        """
        listened, cold = slice(self._n_listened), slice(self._n_listened, None)
        for part, table in ((listened, self._weights.listened), (cold, self._weights.cold)):
            if table[:, base_model].any():
                self._total[:, part] += table[:, base_model, None] * scores[:, part]

    def total(self) -> Floats:
        """(B, I)."""
        self._total[:, self._n_listened :] += self._weights.bias[:, None]
        return self._total
