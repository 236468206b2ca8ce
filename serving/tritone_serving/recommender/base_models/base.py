"""Interface of local base models, base class of those with a sparse table, and correction for a user's own tags.

Tags count as weak listening for all other users, since whoever tags an item knows it. For the user who gave them, their
effect is removed. The ratio of "fitted without the tags of this user" to "fitted with them" is computed in training,
for each item that a user tagged and is not logged to have played.
Shapes: B requests, U stored users, I items, R rows of a table, n items to explain, C causes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, RowProduct, Rows, product

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoreParts:
    """Contributions of causes to the scores of n items.

    Attributes:
        because: as in `ScoreReason.because`.
        causes: (C,) indices of items for `history`, of users for `friend`, of tags for `tag`; a single -1 otherwise.
        amounts: (n, C) contributions.
    """

    because: str
    causes: npt.NDArray[np.int64]
    amounts: Floats


class LocalBaseModel(Protocol):
    """Interface of base models that score in this process; see also `RemoteBaseModel`."""

    @property
    def name(self) -> str:
        """Name in the manifest."""
        ...

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        """Return for which requests the base model can score items (B,); the scores of others are 0."""
        ...

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        """Return the scores (B, I), or only those of the given items (B, n).

        Args:
            batch: the requests; a single one if `items` are given.
            items: (n,) ascending.
        """
        ...

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        """Return the items that this base model scores highest, about n or fewer, in any order.

        Args:
            batch: a single request.
            n: number of items.
            first: only items from this index on.
        """
        ...

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        """Return the contributions to one request's scores of some items; they add up to the scores of `score`."""
        ...


def best_of(scores: Floats, n: int, first: int = 0) -> Ints:
    """Return the indices of the n largest scores (I,) from `first` on, in any order."""
    rest = scores[first:]
    if n >= len(rest):
        return np.arange(first, len(scores))
    return np.argpartition(-rest, n - 1)[:n] + first


@dataclass(frozen=True, eq=False)
class TableModel(ABC):
    """Base class of base models whose scores are the product of a sparse row for each request and a sparse table.

    Attributes:
        name: name in the manifest.
        table: (R, I) sparse.
        n_items: I.
    """

    name: str
    table: Rows
    n_items: int

    @abstractmethod
    def rows(self, batch: RequestBatch) -> Rows:
        """Return the row of each request by which the table is multiplied, sparse (B, R)."""

    def corrected(self, scores: Floats, batch: RequestBatch, items: Ints | None) -> Floats:
        """Return the scores for a product (B, I), or for its entries of the given items (1, n); may change them."""
        return scores

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        """Return scores, see `LocalBaseModel`."""
        if items is None:
            scores = product(self.rows(batch), self.table, self.n_items)
        else:
            scores = self.product_of(batch).at(items)[None]
        return self.corrected(scores, batch, items)

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        """Return the items of the largest entries of the product, see `LocalBaseModel`."""
        return self.product_of(batch).largest(n, first=first)

    def product_of(self, batch: RequestBatch) -> RowProduct:
        """Return the product for a single request, computed once for each batch.

        Raises:
            ValueError: there are several requests.
        """
        if batch.n != 1:
            raise ValueError(f"cannot score some items: expected a batch of 1 request, got {batch.n}; use `batch.only`")
        key = f"product of {self.name}"
        if key not in batch.memo:
            batch.memo[key] = RowProduct.of(self.rows(batch), self.table, self.n_items)
        found: RowProduct = batch.memo[key]
        return found


def whole(because: str, scores: Floats) -> ScoreParts:
    """Return a part with a single unnamed cause for scores (n,)."""
    return ScoreParts(because, np.array([-1]), scores[:, None])


@dataclass(frozen=True, eq=False)
class OwnTags:
    """Correction of scores for a user's own tags.

    Attributes:
        ratios: (U, I) sparse factors by stored user; None if the artifact has no tags by users.
    """

    ratios: Rows | None

    @classmethod
    def open(cls, artifact: Artifact, name: str) -> OwnTags:
        found = f"{name}.own_tags.starts" in artifact.arrays
        return cls(artifact.rows(f"{name}.own_tags") if found else None)

    def apply(self, scores: Floats, batch: RequestBatch, items: Ints | None = None) -> None:
        """Multiply scores (B, I), or those of the given items (1, n), by the ratios in place."""
        if self.ratios is None:
            return
        if items is not None:
            if batch.users[0] >= 0:
                self._apply_to(scores[0], *self.ratios.row(int(batch.users[0])), items)
            return
        known = np.flatnonzero(batch.users >= 0)
        if len(known):
            taken = self.ratios.take(batch.users[known])
            scores[known[taken.row_numbers()], taken.columns] *= taken.values

    @staticmethod
    def _apply_to(scores: Floats, columns: npt.NDArray[np.int32], values: Floats, items: Ints) -> None:
        if len(items) and len(columns):
            index = np.minimum(np.searchsorted(items, columns), len(items) - 1)
            hits = items[index] == columns
            scores[index[hits]] *= values[hits]

    def of(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Floats:
        """Return the factors of some items for one request (n,)."""
        factors = np.ones(len(items), np.float32)
        user = int(batch.users[request])
        if self.ratios is not None and user >= 0:
            columns, values = self.ratios.row(user)
            for index, item in enumerate(items.tolist()):
                hit = np.flatnonzero(columns == item)
                if len(hit):
                    factors[index] = values[hit[0]]
        return factors
