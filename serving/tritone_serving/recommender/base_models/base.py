"""What a base model is to the ensemble.

Shapes: B requests, I items, n items of interest, C causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.rows import Floats


@dataclass(frozen=True, eq=False)
class Part:
    """Why some items got their scores: summands by cause.

    Attributes:
        because: as `Reason.because`.
        causes: (C,) item rows for `history`, user rows for `friend`, tag rows for `tag`; a single -1 otherwise.
        amounts: (n, C) summands of the n items' scores.
    """

    because: str
    causes: npt.NDArray[np.int64]
    amounts: Floats


class Member(Protocol):
    """One way to score."""

    @property
    def name(self) -> str:
        """As the manifest calls it."""
        ...

    def knows(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """(B,) whether it has anything to say; where not, its scores are all 0."""
        ...

    def score(self, batch: Batch) -> Floats:
        """(B, I)."""
        ...

    def parts(self, batch: Batch, request: int, items: npt.NDArray[np.int64]) -> Sequence[Part]:
        """The summands of one request's scores of some items; they add up to `score`'s."""
        ...


def whole(because: str, scores: Floats) -> Part:
    """Scores with a single cause that has no name."""
    return Part(because, np.array([-1]), scores[:, None])
