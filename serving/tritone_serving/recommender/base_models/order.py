"""A base model of the order of listening: transitions from the latest items to the next one.

Shapes: B requests, I items, L events of the longest sequence, n items to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import ScoreParts, TableModel
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.rows import Floats, Rows

_NEGLIGIBLE: Final = 1e-3  # weight of a listen relative to the latest one


@dataclass(frozen=True, eq=False)
class Transitions(TableModel):
    """score = sum over the latest listens of `decay` ** (number of later listens) x table entry.

    With a decay of 0 only the last listen counts, as in a first-order Markov chain.

    Attributes:
        table: (I, I) sparse, from an item to those that follow it.
        decay: 0 to 1.
    """

    decay: float

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Transitions:
        decay = float(described["decay"])
        if not 0 <= decay <= 1:
            raise ArtifactError(f"{artifact.folder}: base model {name!r} has the decay {decay}; expected 0 to 1")
        return cls(name, artifact.rows(name), artifact.n_items, decay)

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return np.zeros(batch.n, np.bool_) if batch.sequences is None else batch.sequences.has_listens

    def rows(self, batch: RequestBatch) -> Rows:
        """Return the weights of the listens in each sequence (B, I); those of repeated items are added."""
        columns: list[npt.NDArray[np.int64]] = []
        weights: list[Floats] = []
        sequences = batch.sequences
        for row in range(batch.n):
            if sequences is None:
                columns.append(np.zeros(0, np.int64))
                weights.append(np.zeros(0, np.float32))
                continue
            listens = sequences.is_listen[row]
            items, index = np.unique(sequences.items[row, listens], return_inverse=True)
            decayed = np.float64(self.decay) ** sequences.distances[row, listens]
            total = np.bincount(index, decayed, len(items)).astype(np.float32)
            kept = total > _NEGLIGIBLE
            columns.append(items[kept])
            weights.append(total[kept])
        return Rows.from_lists(columns, weights)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        columns, values = self.rows(batch.only(request)).row(0)
        if not len(columns):
            return []
        amounts = self.table.take(columns.astype(np.int64)).to_csr(self.n_items)[:, items].toarray()
        return [ScoreParts("history", columns.astype(np.int64), np.asarray((amounts * values[:, None]).T, np.float32))]
