"""People who listen alike: user-kNN, and friends. Both read what other people listen to.

Letters: B questions, I items, U stored users, E entries of all listening.
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
from tritone_serving.recommender.rows import Floats, Rows, product


@dataclass(frozen=True, eq=False)
class Listeners:
    """What stored users listen to.

    Attributes:
        by_user: (U, I) weights.
        by_item: (I, U) the same by item, as likeness sees it: weighted by rarity, each user of length 1.
        rarity: (I,) how much an item tells about taste.
    """

    by_user: Rows
    by_item: Rows
    rarity: Floats

    @classmethod
    def open(cls, artifact: Artifact) -> Listeners:
        return cls(
            artifact.rows("listening"), artifact.rows("listeners"), np.asarray(artifact.arrays["listeners.rarity"])
        )

    @property
    def n_users(self) -> int:
        return self.by_user.n_rows

    def likeness(self, batch: Batch) -> Floats:
        """(B, U) cosine with each question's history; oneself 0."""
        found = batch.memo.get("likeness")
        if found is None:
            history = batch.history
            rare = history.values * self.rarity[history.columns]
            rows = history.row_numbers()
            lengths = np.sqrt(np.bincount(rows, rare * rare, batch.n))
            rare = (rare / np.maximum(lengths, 1e-9)[rows]).astype(np.float32)
            found = product(Rows(history.starts, history.columns, rare), self.by_item, self.n_users)
            known = np.flatnonzero(batch.users >= 0)
            found[known, batch.users[known]] = 0
            batch.memo["likeness"] = found
        return found

    def add_up(self, people: Sequence[npt.NDArray[np.int64]], strengths: Sequence[Floats], n_items: int) -> Floats:
        """(B, I) what given people listen to, weighted."""
        return product(Rows.from_lists(people, strengths), self.by_user, n_items)


@dataclass(frozen=True, eq=False)
class UserKnn:
    """What the most alike people listen to; the well-known is held back by `popularity ** -damping`.

    Attributes:
        metric: `cosine`, `pearson` (cosine of deviations from each user's mean over all items) or `euclidean`.
        n_neighbours: of each user.
        sharpness: likeness to this power.
        held_back: (I,).
        means: (U,) mean of each user's vector over all items, for `pearson`.
    """

    name: str
    listeners: Listeners
    metric: str
    n_neighbours: int
    sharpness: float
    held_back: Floats
    means: Floats

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> UserKnn:
        return cls(
            name,
            Listeners.open(artifact),
            str(described["metric"]),
            int(described["n_neighbours"]),
            float(described["sharpness"]),
            np.asarray(artifact.arrays[f"{name}.held_back"]),
            np.asarray(artifact.arrays[f"{name}.means"]),
        )

    def knows(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def score(self, batch: Batch) -> Floats:
        near = [self._nearest(row) for row in self._strengths(batch)]
        people, strengths = [who for who, _ in near], [strength for _, strength in near]
        return self.listeners.add_up(people, strengths, len(self.held_back)) * self.held_back

    def parts(self, batch: Batch, question: int, items: npt.NDArray[np.int64]) -> Sequence[Part]:
        # Whose listening it was stays unsaid: they did not agree to be named. What is said is which items of the
        # history made them alike; each neighbour's strength is divided as its cosine is.
        one = batch.only(question)
        who, strengths = self._nearest(self._strengths(one)[0])
        columns = one.history.columns.astype(np.int64)
        shares = self.listeners.by_item.take(columns).to_csr(self.listeners.n_users)[:, who].toarray()  # (h, k)
        shares *= (one.history.values * self.listeners.rarity[columns])[:, None]
        total = shares.sum(0)
        shares *= np.divide(strengths, total, out=np.zeros_like(total), where=np.abs(total) > 1e-12)
        theirs = self.listeners.by_user.take(who).to_csr(len(self.held_back))[:, items].toarray()  # (k, n)
        amounts = (shares @ theirs).T * self.held_back[items][:, None]
        return [Part("history", columns, amounts.astype(np.float32))]

    def _nearest(self, strengths: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """The most alike of all (U,), and how much each counts."""
        who = np.flatnonzero(strengths)
        if len(who) > self.n_neighbours:
            who = who[np.argpartition(-strengths[who], self.n_neighbours - 1)[: self.n_neighbours]]
        return who, strengths[who]

    def _strengths(self, batch: Batch) -> Floats:
        """(B, U)."""
        cosine = self.listeners.likeness(batch)
        near = cosine > 0
        if self.metric == "euclidean":  # both of length 1: distance ** 2 = 2 - 2 cosine
            distance = np.sqrt(np.maximum(2 - 2 * cosine, 0))
            cosine = np.where(near, 1 / (1 + distance) - 1 / (1 + np.sqrt(2)), 0)
        elif self.metric == "pearson":
            n_items = len(self.held_back)
            means = self._means(batch)[:, None]
            spread = (1 - n_items * means**2) * (1 - n_items * self.means**2)
            cosine = np.where(near, (cosine - n_items * means * self.means) / np.sqrt(np.maximum(spread, 1e-9)), 0)
        strengths: Floats = np.maximum(cosine, 0).astype(np.float32)
        if self.sharpness != 1:
            np.power(strengths, np.float32(self.sharpness), out=strengths)
        return strengths

    def _means(self, batch: Batch) -> Floats:
        """(B,) mean over all items of each history's vector of length 1."""
        history = batch.history
        rare = history.values * self.listeners.rarity[history.columns]
        rows = history.row_numbers()
        lengths = np.sqrt(np.bincount(rows, rare * rare, batch.n))
        means: Floats = (np.bincount(rows, rare, batch.n) / np.maximum(lengths, 1e-9)).astype(np.float32)
        return means / np.float32(len(self.held_back))


@dataclass(frozen=True, eq=False)
class Social:
    """What friends listen to; friends of like taste count more.

    Attributes:
        base: what a friend counts whose taste is not alike at all.
    """

    name: str
    listeners: Listeners
    base: float
    n_items: int

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Social:
        return cls(name, Listeners.open(artifact), float(described["base"]), artifact.n_items)

    def knows(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.diff(batch.friends.starts) > 0

    def score(self, batch: Batch) -> Floats:
        people = [batch.friends.row(question)[0].astype(np.int64) for question in range(batch.n)]
        strengths = [self._strengths(batch, question, who) for question, who in enumerate(people)]
        return self.listeners.add_up(people, strengths, self.n_items)

    def parts(self, batch: Batch, question: int, items: npt.NDArray[np.int64]) -> Sequence[Part]:
        who = batch.friends.row(question)[0].astype(np.int64)
        if not len(who):
            return []
        strengths = self._strengths(batch, question, who)
        each = self.listeners.add_up(list(who[:, None]), list(strengths[:, None]), self.n_items)
        return [Part("friend", who, each[:, items].T)]

    def _strengths(self, batch: Batch, question: int, who: npt.NDArray[np.int64]) -> Floats:
        if not len(who) or not batch.n_history[question]:
            return np.full(len(who), self.base, np.float32)
        strengths: Floats = np.maximum(self.listeners.likeness(batch)[question, who], 0) + np.float32(self.base)
        return strengths
