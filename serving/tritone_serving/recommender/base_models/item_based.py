"""Popularity, and base models with an item-item matrix (EASE, item-kNN, graph filter).

Shapes: B requests, I items, n items to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import OwnTags, ScoreParts, whole
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, Rows, product


@dataclass(frozen=True, eq=False)
class Popularity:
    """Logarithm of the number of listeners of each item.

    Attributes:
        shares: (I,) relative to the most popular item.
    """

    name: str
    shares: Floats

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Popularity:
        return cls(name, artifact.arrays[f"{name}.shares"])

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return np.ones(batch.n, np.bool_)

    def score(self, batch: RequestBatch) -> Floats:
        return np.broadcast_to(self.shares, (batch.n, len(self.shares)))

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        return [whole("popularity", self.shares[items])]


@dataclass(frozen=True, eq=False)
class ItemItem:
    """score = sum over the history of (weight x table entry) / (length of the history) ** `damping`.

    Attributes:
        table: (I, I) sparse, from an item of the history to the scored item.
        damping: exponent that makes the scores of long and short histories comparable.
        own: correction for the user's own tags.
    """

    name: str
    table: Rows
    damping: float
    own: OwnTags

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> ItemItem:
        return cls(name, artifact.rows(name), float(described["damping"]), OwnTags.open(artifact, name))

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def score(self, batch: RequestBatch) -> Floats:
        history = batch.history
        weights = history.values * np.repeat(self._scale(history), history.counts)
        scores = product(Rows(history.starts, history.columns, weights), self.table, self.table.n_rows)
        self.own.apply(scores, batch)
        return scores

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        columns, values = batch.history.row(request)
        scale = float(self._scale(batch.history)[request])
        amounts = np.zeros((len(items), len(columns)), np.float32)
        for cause, (column, value) in enumerate(zip(columns.tolist(), values.tolist(), strict=True)):
            targets, strengths = self.table.row(column)
            index = np.minimum(np.searchsorted(targets, items), max(len(targets) - 1, 0))
            if len(targets):
                amounts[:, cause] = np.where(targets[index] == items, strengths[index], 0) * value * scale
        amounts *= self.own.of(batch, request, items)[:, None]
        return [ScoreParts("history", columns.astype(np.int64), amounts)]

    def _scale(self, history: Rows) -> Floats:
        """Return the normalisation by the length of each history (B,)."""
        n_items = np.maximum(history.counts, 1)
        return (n_items.astype(np.float32) ** -self.damping).astype(np.float32)
