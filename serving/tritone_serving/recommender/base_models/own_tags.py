"""What a stored user's own tags taught a base model is taken back when that very user is scored.

Whoever tags an item knows it, so tags count as (weak) listening for everybody else; for the user themselves they
would only say what they have already told. The ratio of "learned without this user's tags" to "learned with them"
is computed in training, for each item that a user tagged and is not logged to have played.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.rows import Floats, Rows


@dataclass(frozen=True, eq=False)
class OwnTags:
    """Ratios (U, I), 0..1, by stored user; None if nobody is known to have tagged anything."""

    ratios: Rows | None

    @classmethod
    def open(cls, artifact: Artifact, name: str) -> OwnTags:
        found = f"{name}.own_tags.starts" in artifact.arrays
        return cls(artifact.rows(f"{name}.own_tags") if found else None)

    def apply(self, scores: Floats, batch: Batch) -> None:
        """Scale scores (B, I) in place."""
        if self.ratios is None:
            return
        known = np.flatnonzero(batch.users >= 0)
        if len(known):
            taken = self.ratios.take(batch.users[known])
            scores[known[taken.row_numbers()], taken.columns] *= taken.values

    def of(self, batch: Batch, request: int, items: npt.NDArray[np.int64]) -> Floats:
        """(n,) the factors of some items."""
        factors = np.ones(len(items), np.float32)
        user = int(batch.users[request])
        if self.ratios is not None and user >= 0:
            columns, values = self.ratios.row(user)
            for index, item in enumerate(items.tolist()):
                hit = np.flatnonzero(columns == item)
                if len(hit):
                    factors[index] = values[hit[0]]
        return factors
