"""Interface of local base models, and the correction of their scores for a user's own tags.

Tags count as weak listening for all other users, since whoever tags an item knows it. For the user who gave them, their
effect is removed. The ratio of "fitted without the tags of this user" to "fitted with them" is computed in training,
for each item that a user tagged and is not logged to have played.
Shapes: B requests, U stored users, I items, n items of interest, C causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, Rows


@dataclass(frozen=True, eq=False)
class ScoreParts:
    """Why some items got their scores: summands by cause.

    Attributes:
        because: as `ScoreReason.because`.
        causes: (C,) item rows for `history`, user rows for `friend`, tag rows for `tag`; a single -1 otherwise.
        amounts: (n, C) summands of the n items' scores.
    """

    because: str
    causes: npt.NDArray[np.int64]
    amounts: Floats


class LocalBaseModel(Protocol):
    """A base model that scores in this process; see `RemoteBaseModel` for the other kind."""

    @property
    def name(self) -> str:
        """As the manifest calls it."""
        ...

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        """(B,) whether it has anything to say; where not, its scores are all 0."""
        ...

    def score(self, batch: RequestBatch) -> Floats:
        """(B, I)."""
        ...

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        """The summands of one request's scores of some items; they add up to `score`'s."""
        ...


def whole(because: str, scores: Floats) -> ScoreParts:
    """Scores with a single cause that has no name."""
    return ScoreParts(because, np.array([-1]), scores[:, None])


@dataclass(frozen=True, eq=False)
class OwnTags:
    """Ratios (U, I), 0..1, by stored user; None if nobody is known to have tagged anything."""

    ratios: Rows | None

    @classmethod
    def open(cls, artifact: Artifact, name: str) -> OwnTags:
        found = f"{name}.own_tags.starts" in artifact.arrays
        return cls(artifact.rows(f"{name}.own_tags") if found else None)

    def apply(self, scores: Floats, batch: RequestBatch) -> None:
        """Scale scores (B, I) in place."""
        if self.ratios is None:
            return
        known = np.flatnonzero(batch.users >= 0)
        if len(known):
            taken = self.ratios.take(batch.users[known])
            scores[known[taken.row_numbers()], taken.columns] *= taken.values

    def of(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Floats:
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
