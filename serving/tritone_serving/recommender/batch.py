"""A batch of resolved requests as arrays, the input of every base model.

Shapes: B requests, I items, U stored users, L entries of all histories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.event_sequences import SequenceBatch
from tritone_serving.recommender.moods import MOODS, AppliedMood
from tritone_serving.recommender.requests import Floats, UnknownInputs
from tritone_serving.recommender.rows import Rows


@dataclass(frozen=True, eq=False)
class RequestBatch:
    """Resolved requests.

    Attributes:
        users: (B,) row of the stored user, -1 if unknown or not given.
        history: (B, I) sparse, weighted as in training; skipped items have negative weights.
        consumed: (B, I) sparse, items listened to, without skipped items and weights of 0; the values have no meaning.
        friends: (B, U) sparse, known friends (stored or in the request), with their closeness.
        social_neighbourhood: (B, U) sparse, the same with friends of friends.
        embeddings: (B, 256) of norm 1, zeros where missing; None if no request has one.
        moods: the mood of each request.
        unknown: by request, inputs that were ignored.
        friend_ids: by request, row of a stored user -> the id by which the request names that friend.
        borrowed: (B,) whether the history is that of friends, because the user has none.
        is_known: (B,) whether the user is stored or has recorded events.
        sequences: the order of listening: stored order and the history of the request; None if no base model of the
            artifact uses it.
        is_session: (B,) whether the weights for sessions apply: the request has an ordered history, or the user's last
            event is recent.
        memo: results shared by base models, such as similarities between users.
        proposal_seconds: by base model, time in which it returned candidates.
    """

    users: npt.NDArray[np.int64]
    history: Rows
    consumed: Rows
    friends: Rows
    social_neighbourhood: Rows
    embeddings: Floats | None
    moods: Sequence[AppliedMood]
    unknown: Sequence[UnknownInputs]
    friend_ids: Sequence[Mapping[int, str]]
    borrowed: npt.NDArray[np.bool_]
    is_known: npt.NDArray[np.bool_]
    sequences: SequenceBatch | None = None
    is_session: npt.NDArray[np.bool_] | None = None
    memo: dict[str, Any] = field(default_factory=dict)
    proposal_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.users)

    def only(self, request: int) -> RequestBatch:
        """Return a batch of one of the requests."""
        row = np.array([request])
        return RequestBatch(
            self.users[row],
            self.history.take(row),
            self.consumed.take(row),
            self.friends.take(row),
            self.social_neighbourhood.take(row),
            None if self.embeddings is None else self.embeddings[row],
            [self.moods[request]],
            [self.unknown[request]],
            [self.friend_ids[request]],
            self.borrowed[row],
            self.is_known[row],
            None if self.sequences is None else self.sequences.take(row),
            None if self.is_session is None else self.is_session[row],
        )

    @property
    def has_history(self) -> npt.NDArray[np.bool_]:
        """(B,) whether there is a history, own or borrowed."""
        return self.history.counts > 0

    @property
    def n_history(self) -> npt.NDArray[np.int64]:
        """(B,) number of known items in each own history, without skipped ones."""
        return self.consumed.counts

    @cached_property
    def mood_vectors(self) -> Floats:
        """(B, 9) strength of each emotion; zeros for requests without a mood."""
        if all(mood.source == "none" for mood in self.moods):
            return np.zeros((self.n, len(MOODS)), np.float32)
        return np.stack([mood.vector for mood in self.moods])

    @property
    def brought(self) -> dict[str, Floats]:
        """Base model -> (B,) how much of its input the request has: 1 for a recording, the weight of a mood."""
        none = np.zeros(self.n, np.float32)
        sound = none if self.embeddings is None else self.embeddings.any(1).astype(np.float32)
        if all(mood.source == "none" for mood in self.moods):
            return {"sound": sound, "mood": none}
        weights = np.array([mood.weight for mood in self.moods], np.float32)
        return {"sound": sound, "mood": weights * np.linalg.norm(self.mood_vectors, axis=1)}


def weigh(plays: npt.NDArray[np.floating[Any]], weighting: Mapping[str, Any]) -> Floats:
    """Convert play counts of one user to weights, `(plays / mean) ** power`.

    Args:
        plays: (n,) of one user, above 0.
        weighting: `power`, 0 to 1; with 0 all items weigh the same.
    """
    power = float(weighting["power"])
    if power == 0 or not len(plays):
        return np.ones(len(plays), np.float32)
    logged = np.asarray(plays, np.float64)
    # Divided by the maximum first, so that very large numbers do not overflow in the mean.
    relative = logged / logged.max()
    weights: Floats = ((relative / relative.mean()) ** power).astype(np.float32)
    return weights


def embedding_rows(embeddings: Sequence[Floats | None]) -> Floats | None:
    """Return embeddings of norm 1 (B, 256), zeros where missing; None if no request has one."""
    if all(embedding is None for embedding in embeddings):
        return None
    size = next(len(embedding) for embedding in embeddings if embedding is not None)
    rows = np.zeros((len(embeddings), size), np.float32)
    for row, embedding in zip(rows, embeddings, strict=True):
        if embedding is not None:
            wide = np.asarray(embedding, np.float64)
            row[:] = wide / np.linalg.norm(wide)
    return rows
