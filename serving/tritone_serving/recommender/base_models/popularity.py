"""What everybody listens to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import Part, whole
from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.rows import Floats


@dataclass(frozen=True, eq=False)
class Popularity:
    """Log of how many people listen to an item, 1 for the best known one.

    Attributes:
        shares: (I,).
    """

    name: str
    shares: Floats

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Popularity:
        return cls(name, artifact.arrays[f"{name}.shares"])

    def knows(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.ones(batch.n, np.bool_)

    def score(self, batch: Batch) -> Floats:
        return np.broadcast_to(self.shares, (batch.n, len(self.shares)))

    def parts(self, batch: Batch, request: int, items: npt.NDArray[np.int64]) -> Sequence[Part]:
        return [whole("popularity", self.shares[items])]
