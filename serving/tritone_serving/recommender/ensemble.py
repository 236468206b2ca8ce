"""The ensemble: a weighted sum of base models, with separate weights for long, short and empty histories and sessions.

Shapes: B requests, M base models, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats

SEGMENTS: Final = ("cold", "short", "warm")
SESSION: Final = "session"  # a further segment of ensembles whose log has an order
_ALL_SEGMENTS: Final = (*SEGMENTS, SESSION)
BIAS: Final = "bias"  # key of the constant in a manifest's weights for cold items


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the base models for each request.

    Attributes:
        listened: (B, M) for items with listeners.
        cold: (B, M) for items without listeners, which collaborative base models cannot score.
        bias: (B,) added to the scores of cold items, which makes them comparable with other items.
    """

    listened: Floats
    cold: Floats
    bias: Floats

    @classmethod
    def zeros(cls, n: int, n_base_models: int) -> Weights:
        """Return weights of 0."""
        shape = (n, n_base_models)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(n, np.float32))

    def put(self, rows: npt.NDArray[np.bool_], others: Weights) -> None:
        """Overwrite the weights of the selected requests (B,) with those of `others`."""
        for target, source in ((self.listened, others.listened), (self.cold, others.cold), (self.bias, others.bias)):
            target[rows] = source[rows]

    def of(self, row: int) -> Weights:
        """Return the weights of one request, with a batch axis of 1."""
        one = slice(row, row + 1)
        return Weights(self.listened[one], self.cold[one], self.bias[one])


@dataclass(frozen=True, eq=False)
class Ensemble:
    """One set of weights, fitted on the validation split.

    Attributes:
        warm_from: histories of at least this many items are warm, those with 1 or more short, others cold.
        weights: segment -> base model -> weight; 0 for base models that are not listed.
        cold_items: the same for items without listeners, including `bias`.
        minimum_weights: segment -> base model -> smallest weight for requests with that base model's input (a
            recording or a mood), times the strength of that input; not fitted, because listening logs do not contain
            such inputs.
        tables: the weights as arrays, by the names of the base models for which they were requested.
    """

    warm_from: int
    weights: Mapping[str, Mapping[str, float]]
    cold_items: Mapping[str, Mapping[str, float]]
    minimum_weights: Mapping[str, Mapping[str, float]]
    tables: dict[tuple[str, ...], Weights] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, described: Mapping[str, Any]) -> Ensemble:
        return cls(
            int(described["warm_from"]),
            described["weights"],
            described.get("cold_items") or described["weights"],
            described.get("minimum_weights") or {},
        )

    def segments(self, batch: RequestBatch) -> npt.NDArray[np.int64]:
        """Return the index (B,) of each request's segment in `_ALL_SEGMENTS`.

        A session is a request that brings an ordered history with a known item, if the ensemble has weights for it.
        """
        n_history = batch.n_history
        by_length = np.where(n_history >= self.warm_from, 2, np.where(n_history > 0, 1, 0))
        if batch.is_session is None or SESSION not in self.weights:
            return by_length
        return np.where(batch.is_session & (n_history > 0), len(SEGMENTS), by_length)

    def weights_of(self, base_models: Sequence[str], batch: RequestBatch) -> Weights:
        """Return each request's weights, by its segment and its inputs."""
        segments = self.segments(batch)
        table = self._table(tuple(base_models))
        found = Weights(table.listened[segments], table.cold[segments], table.bias[segments])
        for name, brought in batch.brought.items():
            if name in base_models and brought.any():
                least = np.array([self.minimum_weights.get(s, {}).get(name, 0.0) for s in _ALL_SEGMENTS], np.float32)[
                    segments
                ]
                for weights in (found.listened, found.cold):
                    column = weights[:, base_models.index(name)]
                    np.maximum(column, least * brought, out=column, where=brought > 0)
        return found

    def _table(self, base_models: tuple[str, ...]) -> Weights:
        """Return the weights by segment, with the segments in place of requests."""
        found = self.tables.get(base_models)
        if found is None:
            listened, cold = (
                np.array([[table.get(s, {}).get(name, 0.0) for name in base_models] for s in _ALL_SEGMENTS], np.float32)
                for table in (self.weights, self.cold_items)
            )
            bias = np.array([self.cold_items.get(s, {}).get(BIAS, 0.0) for s in _ALL_SEGMENTS], np.float32)
            found = self.tables[base_models] = Weights(listened, cold, bias)
        return found


def log_scaled(scores: Floats, scale: float) -> Floats:
    """Return `log(1 + score / scale)`, with negative scores as 0; the ensemble is then close to a product of scores.

    Args:
        scale: unit of the base model's scores, from training; 0 returns the scores unchanged.
    """
    if scale == 0:
        return scores
    logs: Floats = scores * np.float32(1 / scale)
    np.maximum(logs, 0, out=logs)
    logs += np.float32(1)
    return np.log(logs, out=logs)


class Blend:
    """Accumulates the weighted sum of base models' scores."""

    def __init__(self, n_requests: int, n_listened: int, n_items: int) -> None:
        """Start with scores of 0.

        Args:
            n_requests: B.
            n_listened: number of the scored items with listeners, which come first.
            n_items: number of scored items.
        """
        self._n_listened = n_listened
        self._total = np.zeros((n_requests, n_items), np.float32)

    def add(self, scores: Floats, weights: Weights, column: int) -> None:
        """Add the scores of one base model.

        Args:
            scores: (B, I), as returned by `log_scaled`.
            weights: of the base models for each request.
            column: index of the base model in the weights.
        """
        listened, cold = slice(self._n_listened), slice(self._n_listened, None)
        for part, table in ((listened, weights.listened), (cold, weights.cold)):
            if table[:, column].any():
                self._total[:, part] += table[:, column, None] * scores[:, part]

    def total(self, bias: Floats) -> Floats:
        """Return the scores of the ensemble (B, I); call it once, as the last.

        Args:
            bias: (B,) added to the scores of items without listeners.
        """
        self._total[:, self._n_listened :] += bias[:, None]
        return self._total
