"""Items that go with the items of a history: EASE, item-kNN, a graph filter. One table of neighbours each.

Letters: B questions, I items, N neighbours of an item, L entries of all histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.members.base import Part
from tritone_serving.recommender.members.own import OwnTags
from tritone_serving.recommender.rows import Floats, Rows, scatter


@dataclass(frozen=True, eq=False)
class ItemItem:
    """score = (sum of weight x neighbours' strength) / (number of history items) ** `damping`.

    Attributes:
        neighbours: (I, N) int32, what listeners of the item are to be shown.
        strengths: (I, N) float32, 0 where there are fewer neighbours.
        damping: keeps the scale of long and short histories alike.
    """

    name: str
    neighbours: npt.NDArray[np.int32]
    strengths: Floats
    damping: float
    own: OwnTags

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> ItemItem:
        return cls(
            name,
            artifact.arrays[f"{name}.neighbours"],
            artifact.arrays[f"{name}.strengths"],
            float(described["damping"]),
            OwnTags.open(artifact, name),
        )

    def knows(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return batch.n_history > 0

    def score(self, batch: Batch) -> Floats:
        history = batch.history
        weights = history.values * np.repeat(self._scale(history), np.diff(history.starts))
        scores = scatter(
            np.broadcast_to(history.row_numbers()[:, None], (len(weights), self.neighbours.shape[1])),
            self.neighbours[history.columns],
            self.strengths[history.columns] * weights[:, None],
            (batch.n, len(self.neighbours)),
        )
        self.own.apply(scores, batch)
        return scores

    def parts(self, batch: Batch, question: int, items: npt.NDArray[np.int64]) -> Sequence[Part]:
        columns, values = batch.history.row(question)
        scale = float(self._scale(batch.history)[question])
        amounts = np.zeros((len(items), len(columns)), np.float32)
        for cause, (column, value) in enumerate(zip(columns, values, strict=True)):
            hits = self.neighbours[column][None, :] == items[:, None]
            amounts[:, cause] = (hits * self.strengths[column]).sum(1) * value * scale
        amounts *= self.own.of(batch, question, items)[:, None]
        return [Part("history", columns.astype(np.int64), amounts)]

    def _scale(self, history: Rows) -> Floats:
        """(B,)."""
        n_items = np.maximum(np.diff(history.starts), 1)
        return (n_items.astype(np.float32) ** -self.damping).astype(np.float32)
