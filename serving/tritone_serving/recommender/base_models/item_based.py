"""Base models of items by all that is listened to: popularity and item-item matrices.

Shapes: B requests, I items, n items to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import Ints, OwnTags, ScoreParts, TableModel, whole
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, Rows


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

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        shares = self.shares if items is None else self.shares[items]
        return np.broadcast_to(shares, (batch.n, len(shares)))

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        return np.arange(first, min(first + n, len(self.shares)))  # items are in descending order of popularity

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        return [whole("popularity", self.shares[items])]


@dataclass(frozen=True, eq=False)
class Mainstream:
    """Popularity of each item times how far the popularity of the history is above the average.

    The other base models favour popular items too much for histories of popular items, or too little for others. The
    weight of this one, which may be negative, corrects that.

    Attributes:
        shares: (I,) as those of `Popularity`.
        average: mean over stored users of the mean share of their items.
    """

    name: str
    shares: Floats
    average: float

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Mainstream:
        return cls(name, artifact.arrays["popularity.shares"], float(described["average"]))

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        return self._excess(batch)[:, None] * (self.shares if items is None else self.shares[items])

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        return np.zeros(0, np.int64)  # corrects the popularity of what others propose

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        return [whole("popularity", self._excess(batch.only(request)) * self.shares[items])]

    def _excess(self, batch: RequestBatch) -> Floats:
        """Return the mean share of each history's items minus the average (B,), 0 without a history."""
        history = batch.history
        liked = history.values > 0
        rows = history.row_numbers()[liked]
        counts = np.bincount(rows, minlength=batch.n)
        totals = np.bincount(rows, self.shares[history.columns[liked]], batch.n)
        excess: Floats = np.where(counts > 0, totals / np.maximum(counts, 1) - self.average, 0).astype(np.float32)
        return excess


@dataclass(frozen=True, eq=False)
class ItemItem(TableModel):
    """score = sum over the history of (weight x table entry) / (length of the history) ** `damping`.

    Attributes:
        table: (I, I) sparse, from an item of the history to the scored item.
        damping: exponent that makes the scores of long and short histories comparable.
        own: correction for the user's own tags.
    """

    damping: float
    own: OwnTags

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> ItemItem:
        own = OwnTags.open(artifact, name)
        return cls(name, artifact.rows(name), artifact.n_items, float(described["damping"]), own)

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def rows(self, batch: RequestBatch) -> Rows:
        """Return the histories, normalised by their lengths."""
        history = batch.history
        weights = history.values * np.repeat(self._scale(history), history.counts)
        return Rows(history.starts, history.columns, weights)

    def corrected(self, scores: Floats, batch: RequestBatch, items: Ints | None) -> Floats:
        self.own.apply(scores, batch, items)
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
