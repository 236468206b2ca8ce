"""People who listen alike: user-kNN, and friends. Both read what other people listen to.

Shapes: B requests, I items, U stored users, S of them who may be neighbours, E entries of all histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import ScoreParts
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.requests import MIN_FRIENDS
from tritone_serving.recommender.rows import Floats, Rows, product


@dataclass(frozen=True, eq=False)
class Listeners:
    """What stored users listen to.

    Attributes:
        by_user: (U, I) weights.
        by_item: (I, S) the same by item, as similarity sees it: weighted by rarity, each user of length 1.
        rarity: (I,) how much an item tells about taste.
        people: (S,) the users who may be neighbours, ascending: all of them, or those that were drawn.
    """

    by_user: Rows
    by_item: Rows
    rarity: Floats
    people: npt.NDArray[np.int64]

    @classmethod
    def open(cls, artifact: Artifact, described: Mapping[str, Any]) -> Listeners:
        """Map what training wrote; where it drew people, they are numbered anew, so that nobody counts up to U."""
        by_item = artifact.rows("listeners")
        people = np.arange(artifact.n_users)
        if described.get("drawn"):
            people = np.unique(by_item.columns).astype(np.int64)
            indices = np.searchsorted(people, by_item.columns).astype(np.int32)
            by_item = Rows(by_item.starts, indices, by_item.values)
        return cls(artifact.rows("listening"), by_item, np.asarray(artifact.arrays["listeners.rarity"]), people)

    @property
    def n_people(self) -> int:
        return len(self.people)

    def similarity(self, batch: RequestBatch) -> Floats:
        """(B, S) cosine with each request's history; oneself 0."""
        found = batch.memo.get("similarity")
        if found is None:
            history = batch.history
            found = product(
                Rows(history.starts, history.columns, self._directions(history)), self.by_item, self.n_people
            )
            known = np.flatnonzero(batch.users >= 0)
            indices = np.minimum(np.searchsorted(self.people, batch.users[known]), max(self.n_people - 1, 0))
            drawn = self.people[indices] == batch.users[known] if self.n_people else np.zeros(0, np.bool_)
            found[known[drawn], indices[drawn]] = 0
            batch.memo["similarity"] = found
        return found

    def similarity_to(self, batch: RequestBatch, request: int, who: npt.NDArray[np.int64]) -> Floats:
        """(n,) the same for one request and given users (n,), whether they may be neighbours or not."""
        if self.n_people == self.by_user.n_rows:
            everybody: Floats = self.similarity(batch)[request, who]
            return everybody
        items, weights = batch.history.row(request)
        mine = np.zeros(len(self.rarity), np.float32)
        rare = weights * self.rarity[items]
        mine[items] = rare / max(float(np.sqrt(rare @ rare)), 1e-9)
        theirs = self.by_user.take(who)
        values, rows = theirs.values * self.rarity[theirs.columns], theirs.row_numbers()
        lengths = np.sqrt(np.bincount(rows, values * values, len(who)))
        cosines = np.bincount(rows, values * mine[theirs.columns], len(who)) / np.maximum(lengths, 1e-9)
        found: Floats = np.where(who == batch.users[request], 0, cosines).astype(np.float32)
        return found

    def _directions(self, history: Rows) -> Floats:
        """(E,) weights of histories by rarity, each row of length 1."""
        rare = history.values * self.rarity[history.columns]
        rows = history.row_numbers()
        lengths = np.sqrt(np.bincount(rows, rare * rare, history.n_rows))
        unit: Floats = (rare / np.maximum(lengths, 1e-9)[rows]).astype(np.float32)
        return unit

    def add_up(self, people: Sequence[npt.NDArray[np.int64]], strengths: Sequence[Floats], n_items: int) -> Floats:
        """(B, I) what given people listen to, weighted."""
        return product(Rows.from_lists(people, strengths), self.by_user, n_items)


@dataclass(frozen=True, eq=False)
class UserKnn:
    """What the most alike people listen to; the well-known is held back by `popularity ** -damping`.

    Attributes:
        metric: `cosine`, `pearson` (cosine of deviations from each user's mean over all items) or `euclidean`.
        n_neighbours: of each user.
        sharpness: similarity to this power.
        popularity_penalty: (I,).
        means: (S,) mean of each user's vector over all items, for `pearson`.
    """

    name: str
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
            listeners,
            str(described["metric"]),
            int(described["n_neighbours"]),
            float(described["sharpness"]),
            np.asarray(artifact.arrays[f"{name}.popularity_penalty"]),
            np.asarray(artifact.arrays[f"{name}.means"])[listeners.people],
        )

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def score(self, batch: RequestBatch) -> Floats:
        near = [self._nearest(row) for row in self._strengths(batch)]
        people, strengths = [self.listeners.people[who] for who, _ in near], [strength for _, strength in near]
        return self.listeners.add_up(people, strengths, len(self.popularity_penalty)) * self.popularity_penalty

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        # Whose listening it was stays unsaid: they did not agree to be named. What is said is which items of the
        # history made them alike; each neighbour's strength is divided as its cosine is.
        one = batch.only(request)
        who, strengths = self._nearest(self._strengths(one)[0])
        columns = one.history.columns.astype(np.int64)
        shares = self.listeners.by_item.take(columns).to_csr(self.listeners.n_people)[:, who].toarray()  # (h, k)
        shares *= (one.history.values * self.listeners.rarity[columns])[:, None]
        total = shares.sum(0)
        shares *= np.divide(strengths, total, out=np.zeros_like(total), where=np.abs(total) > 1e-12)
        theirs = (
            self.listeners.by_user.take(self.listeners.people[who])
            .to_csr(len(self.popularity_penalty))[:, items]
            .toarray()
        )  # (k, n)
        amounts = (shares @ theirs).T * self.popularity_penalty[items][:, None]
        return [ScoreParts("history", columns, amounts.astype(np.float32))]

    def _nearest(self, strengths: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the users most similar to a history and their weights, from the similarities of all users (S,).

        Returns none if fewer than `MIN_FRIENDS` users are similar at all: the response would disclose their listening.
        """
        who = np.flatnonzero(strengths)
        if len(who) < MIN_FRIENDS:
            who = who[:0]
        if len(who) > self.n_neighbours:
            who = who[np.argpartition(-strengths[who], self.n_neighbours - 1)[: self.n_neighbours]]
        return who, strengths[who]

    def _strengths(self, batch: RequestBatch) -> Floats:
        """(B, S)."""
        cosine = self.listeners.similarity(batch)
        near = cosine > 0
        if self.metric == "euclidean":  # both of length 1: distance ** 2 = 2 - 2 cosine
            distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
            cosine = np.where(near, 1 / (1 + distance) - 1 / (1 + np.sqrt(2)), 0)
        elif self.metric == "pearson":
            n_items = len(self.popularity_penalty)
            means = self._means(batch)[:, None]
            spread = (1 - n_items * means**2) * (1 - n_items * self.means**2)
            cosine = np.where(near, (cosine - n_items * means * self.means) / np.sqrt(np.maximum(spread, 1e-9)), 0)
        strengths: Floats = np.maximum(cosine, 0).astype(np.float32)
        if self.sharpness != 1:
            np.power(strengths, np.float32(self.sharpness), out=strengths)
        return strengths

    def _means(self, batch: RequestBatch) -> Floats:
        """(B,) mean over all items of each history's vector of length 1."""
        history = batch.history
        rare = history.values * self.listeners.rarity[history.columns]
        rows = history.row_numbers()
        lengths = np.sqrt(np.bincount(rows, rare * rare, batch.n))
        means: Floats = (np.bincount(rows, rare, batch.n) / np.maximum(lengths, 1e-9)).astype(np.float32)
        return means / np.float32(len(self.popularity_penalty))


@dataclass(frozen=True, eq=False)
class Social:
    """What friends and their friends listen to; the closer and those of like taste count more.

    Attributes:
        base: what a friend counts whose taste is not alike at all.
    """

    name: str
    listeners: Listeners
    base: float
    n_items: int

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Social:
        return cls(name, Listeners.open(artifact, described), float(described["base"]), artifact.n_items)

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.friends.counts > 0

    def score(self, batch: RequestBatch) -> Floats:
        around = [self._around(batch, request) for request in range(batch.n)]
        return self.listeners.add_up([who for who, _ in around], [strength for _, strength in around], self.n_items)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        who, strengths = self._around(batch, request)
        if not len(who):
            return []
        theirs = self.listeners.by_user.take(who).to_csr(self.n_items)[:, items].toarray()  # (people, n)
        return [ScoreParts("friend", who, np.asarray((theirs * strengths[:, None]).T, np.float32))]

    def _around(self, batch: RequestBatch, request: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """People, and how much each counts."""
        columns, closeness = batch.social_neighbourhood.row(request)
        who = columns.astype(np.int64)
        if not len(who) or not batch.n_history[request]:
            return who, closeness * np.float32(self.base)
        similarity = np.maximum(self.listeners.similarity_to(batch, request, who), 0)
        return who, closeness * (similarity + np.float32(self.base))
