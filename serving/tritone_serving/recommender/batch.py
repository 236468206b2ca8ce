"""Questions made into arrays: what every base model scores.

Shapes: B requests, I items, U stored users, L entries of all histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.requests import MOODS, Floats, RecommendRequest, UnknownInputs
from tritone_serving.recommender.rows import Rows


@dataclass(frozen=True, eq=False)
class RequestBatch:
    """Resolved requests.

    Attributes:
        users: (B,) row of the stored user, -1 if unknown or not given.
        history: (B, I) rows, weighted as in training; what was skipped is below 0.
        heard: (B, I) rows of what was heard, skips and weights of 0 left out; the values mean nothing.
        friends: (B, U) rows of friends that are known, stored and given ones; the values are how close they are.
        social neighbourhood: (B, U) the same with the friends' friends.
        embeddings: (B, 256) of length 1, zeros where there is none; None if nobody gave one.
        moods: (B,) place in `MOODS`, -1 without.
        unknown: ids that were passed over.
        borrowed: (B,) whether the history is what friends listen to, for want of one's own.
        friend_ids: by request, stored user row -> the id by which the request named that friend.
    """

    users: npt.NDArray[np.int64]
    history: Rows
    consumed: Rows
    friends: Rows
    social_neighbourhood: Rows
    embeddings: Floats | None
    moods: npt.NDArray[np.int64]
    unknown: Sequence[UnknownInputs]
    friend_ids: Sequence[Mapping[int, str]]
    borrowed: npt.NDArray[np.bool_]
    memo: dict[str, Floats] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.users)

    def only(self, request: int) -> RequestBatch:
        """One request as a batch of its own."""
        row = np.array([request])
        return RequestBatch(
            self.users[row],
            self.history.take(row),
            self.consumed.take(row),
            self.friends.take(row),
            self.social_neighbourhood.take(row),
            None if self.embeddings is None else self.embeddings[row],
            self.moods[row],
            [self.unknown[request]],
            [self.friend_ids[request]],
            self.borrowed[row],
        )

    @property
    def has_history(self) -> npt.NDArray[np.bool_]:
        """(B,) whether there is anything to go by, own or borrowed."""
        return self.history.counts > 0

    @property
    def n_history(self) -> npt.NDArray[np.int64]:
        """(B,) how many known items each own history holds that were not skipped."""
        return self.consumed.counts

    @property
    def brought(self) -> dict[str, npt.NDArray[np.bool_]]:
        """LocalBaseModel -> (B,) whether the request itself brings what that base model goes by."""
        none = np.zeros(self.n, np.bool_)
        return {"sound": none if self.embeddings is None else self.embeddings.any(1), "mood": self.moods >= 0}


def weigh(plays: npt.NDArray[np.floating[Any]], weighting: Mapping[str, Any]) -> Floats:
    """Plays of one user to the weights that base models see: `(plays / mean) ** power`, so a mean listen counts 1.

    Args:
        plays: (n,) of one user, above 0.
        weighting: `power`, 0 to 1: at 0 it only counts that an item was heard.
    """
    power = float(weighting["power"])
    if power == 0 or not len(plays):
        return np.ones(len(plays), np.float32)
    logged = np.asarray(plays, np.float64)
    # The largest first, so that numbers near the end of the float range do not overflow in the mean.
    relative = logged / logged.max()
    weights: Floats = ((relative / relative.mean()) ** power).astype(np.float32)
    return weights


def embedding_rows(embeddings: Sequence[Floats | None]) -> Floats | None:
    """(B, 256) of length 1, or None if no request has one that can be used."""
    if all(embedding is None for embedding in embeddings):
        return None
    size = next(len(embedding) for embedding in embeddings if embedding is not None)
    rows = np.zeros((len(embeddings), size), np.float32)
    for row, embedding in zip(rows, embeddings, strict=True):
        if embedding is not None:
            wide = np.asarray(embedding, np.float64)
            row[:] = wide / np.linalg.norm(wide)
    return rows


def mood_rows(requests: Sequence[RecommendRequest]) -> npt.NDArray[np.int64]:
    """(B,) place in `MOODS`, -1 without."""
    return np.array([-1 if q.mood is None else MOODS.index(q.mood) for q in requests], np.int64)
