"""Base models of similar users: user-kNN and friends.

Shapes: B requests, I items, U stored users, S candidate neighbours among them, E entries of all histories, n items to
explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import Ints, ScoreParts, TableModel
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.requests import MIN_FRIENDS
from tritone_serving.recommender.rows import Floats, Rows, product


@dataclass(frozen=True, eq=False)
class Listeners:
    """The listening of stored users, and similarities to them.

    Attributes:
        by_user: (U, I) sparse weights.
        by_item: (I, S) sparse weights times `rarity`, each user of norm 1, for similarities.
        rarity: (I,) inverse user frequency.
        people: (S,) rows of the candidate neighbours, ascending: all stored users or a random sample.
    """

    by_user: Rows
    by_item: Rows
    rarity: Floats
    people: npt.NDArray[np.int64]

    @classmethod
    def open(cls, artifact: Artifact, described: Mapping[str, Any]) -> Listeners:
        """Read the arrays; if training sampled the candidates, columns are renumbered from U users to S candidates."""
        by_item = artifact.rows("listeners")
        people = np.arange(artifact.n_users)
        if described.get("drawn"):
            sample = artifact.derive(SAMPLE, sampled_listeners)
            people = sample["people"].astype(np.int64)
            by_item = Rows(by_item.starts, sample["columns"], by_item.values, (0, max(len(people) - 1, 0)))
        return cls(artifact.rows("listening"), by_item, np.asarray(artifact.arrays["listeners.rarity"]), people)

    @property
    def n_people(self) -> int:
        return len(self.people)

    def similarity(self, batch: RequestBatch) -> Floats:
        """Return the cosine similarity of each history to each candidate (B, S), 0 for the user themselves."""
        found = batch.memo.get("similarity")
        if found is None:
            history = batch.history
            found = product(
                Rows(history.starts, history.columns, self._directions(history)), self.by_item, self.n_people
            )
            known = np.flatnonzero(batch.users >= 0)
            indices = np.minimum(np.searchsorted(self.people, batch.users[known]), max(self.n_people - 1, 0))
            is_self = self.people[indices] == batch.users[known] if self.n_people else np.zeros(0, np.bool_)
            found[known[is_self], indices[is_self]] = 0
            batch.memo["similarity"] = found
        return found

    def similarity_to(self, batch: RequestBatch, request: int, who: npt.NDArray[np.int64]) -> Floats:
        """Return the similarities of one request to n given users, who need not be candidates (n,)."""
        if self.n_people == self.by_user.n_rows:
            similarities: Floats = self.similarity(batch)[request, who]
            return similarities
        items, weights = batch.history.row(request)
        vector = np.zeros(len(self.rarity), np.float32)
        rare = weights * self.rarity[items]
        vector[items] = rare / max(float(np.sqrt(rare @ rare)), 1e-9)
        others = self.by_user.take(who)
        values, rows = others.values * self.rarity[others.columns], others.row_numbers()
        lengths = np.sqrt(np.bincount(rows, values * values, len(who)))
        cosines = np.bincount(rows, values * vector[others.columns], len(who)) / np.maximum(lengths, 1e-9)
        found: Floats = np.where(who == batch.users[request], 0, cosines).astype(np.float32)
        return found

    def _directions(self, history: Rows) -> Floats:
        """Return the weights of histories times rarity, each history of norm 1 (E,)."""
        rare = history.values * self.rarity[history.columns]
        rows = history.row_numbers()
        lengths = np.sqrt(np.bincount(rows, rare * rare, history.n_rows))
        unit: Floats = (rare / np.maximum(lengths, 1e-9)[rows]).astype(np.float32)
        return unit


def _of_people(values: Floats, people: npt.NDArray[np.int64]) -> Floats:
    """Return the values (U,) of the candidate neighbours, without a copy if those are all users."""
    return values if len(people) == len(values) else values[people]


SAMPLE: Final = "sample"  # part of the derived arrays


def sampled_listeners(artifact: Artifact) -> dict[str, npt.NDArray[Any]]:
    """Return the sampled candidates `people` (S,), and `columns`: those of `listeners` as indices in them."""
    columns = artifact.rows("listeners").columns
    people = np.unique(columns).astype(np.int32)
    return {"people": people, "columns": np.searchsorted(people, columns).astype(np.int32)}


@dataclass(frozen=True, eq=False)
class UserKnn(TableModel):
    """User-kNN: listening of the most similar users, with a penalty for popular items.

    Attributes:
        metric: `cosine`, `pearson` (cosine of deviations from each user's mean over all items) or `euclidean`.
        n_neighbours: number of neighbours of each user.
        sharpness: exponent of the similarity.
        popularity_penalty: (I,) popularity ** -damping.
        means: (S,) mean of each candidate's vector over all items, for `pearson`.
    """

    listeners: Listeners
    metric: str
    n_neighbours: int
    sharpness: float
    popularity_penalty: Floats
    means: Floats

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> UserKnn:
        listeners = Listeners.open(artifact, described)
        return cls(
            name,
            listeners.by_user,
            artifact.n_items,
            listeners,
            str(described["metric"]),
            int(described["n_neighbours"]),
            float(described["sharpness"]),
            np.asarray(artifact.arrays[f"{name}.popularity_penalty"]),
            _of_people(np.asarray(artifact.arrays[f"{name}.means"]), listeners.people),
        )

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def rows(self, batch: RequestBatch) -> Rows:
        """Return the most similar users of each request and their weights, sparse (B, U)."""
        near = [self._nearest(row) for row in self._strengths(batch)]
        return Rows.from_lists([self.listeners.people[who] for who, _ in near], [strength for _, strength in near])

    def corrected(self, scores: Floats, batch: RequestBatch, items: Ints | None) -> Floats:
        scores *= self.popularity_penalty if items is None else self.popularity_penalty[items]
        return scores

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        return self.product_of(batch).largest(n, first=first, factors=self.popularity_penalty)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        # Neighbours are not disclosed. Contributions are attributed to the items of the history: each neighbour's
        # strength is divided among them in proportion to their contributions to the cosine similarity.
        one = batch.only(request)
        who, strengths = self._nearest(self._strengths(one)[0])
        columns = one.history.columns.astype(np.int64)
        shares = self.listeners.by_item.take(columns).to_csr(self.listeners.n_people)[:, who].toarray()  # (h, k)
        shares *= (one.history.values * self.listeners.rarity[columns])[:, None]
        total = shares.sum(0)
        shares *= np.divide(strengths, total, out=np.zeros_like(total), where=np.abs(total) > 1e-12)
        listening = self.table.take(self.listeners.people[who]).to_csr(self.n_items)[:, items].toarray()  # (k, n)
        amounts = (shares @ listening).T * self.popularity_penalty[items][:, None]
        return [ScoreParts("history", columns, amounts.astype(np.float32))]

    def _nearest(self, strengths: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the users most similar to a history and their weights, from the similarities of all users (S,).

        Returns none if fewer than `MIN_FRIENDS` users are similar at all: the response would disclose their listening.
        """
        who = np.flatnonzero(strengths > 0)  # none is negative; NumPy counts booleans several times as fast as numbers
        if len(who) < MIN_FRIENDS:
            who = who[:0]
        if len(who) > self.n_neighbours:
            who = who[np.argpartition(-strengths[who], self.n_neighbours - 1)[: self.n_neighbours]]
        return who, strengths[who]

    def _strengths(self, batch: RequestBatch) -> Floats:
        """Return the weight of each candidate neighbour by `metric` and `sharpness` (B, S)."""
        cosine = self.listeners.similarity(batch)
        near = cosine > 0
        if self.metric == "euclidean":  # both of norm 1: distance ** 2 = 2 - 2 cosine
            distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
            cosine = np.where(near, 1 / (1 + distance) - 1 / (1 + np.sqrt(2)), 0)
        elif self.metric == "pearson":
            means = self._means(batch)[:, None]
            spread = (1 - self.n_items * means**2) * (1 - self.n_items * self.means**2)
            cosine = np.where(near, (cosine - self.n_items * means * self.means) / np.sqrt(np.maximum(spread, 1e-9)), 0)
        strengths: Floats = np.maximum(cosine, 0).astype(np.float32)
        if self.sharpness != 1:
            np.power(strengths, np.float32(self.sharpness), out=strengths)
        return strengths

    def _means(self, batch: RequestBatch) -> Floats:
        """Return the mean over all items of each history's vector of norm 1 (B,)."""
        history = batch.history
        rare = history.values * self.listeners.rarity[history.columns]
        rows = history.row_numbers()
        lengths = np.sqrt(np.bincount(rows, rare * rare, batch.n))
        means: Floats = (np.bincount(rows, rare, batch.n) / np.maximum(lengths, 1e-9)).astype(np.float32)
        return means / np.float32(self.n_items)


@dataclass(frozen=True, eq=False)
class Social(TableModel):
    """Listening of the social neighbourhood, weighted by closeness and by similarity of listening.

    Attributes:
        base: added to the similarity, so that dissimilar friends count too.
    """

    listeners: Listeners
    base: float

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Social:
        listeners = Listeners.open(artifact, described)
        return cls(name, listeners.by_user, artifact.n_items, listeners, float(described["base"]))

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.friends.counts > 0

    def rows(self, batch: RequestBatch) -> Rows:
        """Return the users around each requesting user and their weights, sparse (B, U)."""
        around = [self._around(batch, request) for request in range(batch.n)]
        return Rows.from_lists([who for who, _ in around], [strength for _, strength in around])

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        who, strengths = self._around(batch, request)
        if not len(who):
            return []
        listening = self.table.take(who).to_csr(self.n_items)[:, items].toarray()  # (people, n)
        return [ScoreParts("friend", who, np.asarray((listening * strengths[:, None]).T, np.float32))]

    def _around(self, batch: RequestBatch, request: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the rows of the users around the requesting user, and their weights."""
        columns, closeness = batch.social_neighbourhood.row(request)
        who = columns.astype(np.int64)
        if not len(who) or not batch.n_history[request]:
            return who, closeness * np.float32(self.base)
        similarity = np.maximum(self.listeners.similarity_to(batch, request, who), 0)
        return who, closeness * (similarity + np.float32(self.base))
