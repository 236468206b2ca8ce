"""Requests and responses of the recommender, and their limits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.exceptions import InvalidRequestError
from tritone_serving.recommender.moods import AppliedMood, GivenMood, mood_vector
from tritone_serving.security.callers import TRUSTED, Caller

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EMBEDDING_SIZE: Final = 256
MOST_ITEMS: Final = 10_000  # in one response
# In one response with reasons. Explaining 200 items takes 14 ms for a history of 50 and 0.35 s for one of 19,000 (one
# core, 20,000 items).
MOST_EXPLAINED: Final = 200
MOST_DIVERSE: Final = 1_000  # in one response with diversity, whose cost grows with the square of the number
MOST_HISTORY: Final = 100_000  # ids in each list of a request, duplicates included
# Limits of all rows of a Triton request together.
MOST_IDS_IN_ALL: Final = 100_000  # in each list
MOST_ID_BYTES_IN_ALL: Final = 8 << 20  # of all lists; unknown ids come back in the response
MOST_ITEMS_IN_ALL: Final = 100_000
MOST_EXPLAINED_IN_ALL: Final = 2_000
LARGEST_EMBEDDING: Final = 1e6  # of each number
LONGEST_ID_BYTES: Final = 4_096  # in UTF-8
MOST_SKEW_S: Final = (
    86_400.0  # how far ahead of the clock the times of a history may be: clocks and zones of logs differ
)
MIN_FRIENDS: Final = 3  # data of fewer users is not disclosed, because it could be attributed to one of them
MOST_FRIENDS: Final = 1_000  # distinct ids; the cost grows with the listening of all of them and their friends

Source = Literal["user", "history", "friends", "audio", "mood", "popularity"]
SOURCES: Final[tuple[Source, ...]] = ("user", "history", "friends", "audio", "mood", "popularity")


@dataclass(frozen=True, eq=False)
class RecommendRequest:
    """A request for recommendations. All fields are optional and can be combined.

    Attributes:
        user: raw user id; the stored history and friends are used if the user is known.
        history: item ids in order of listening, oldest first; weights of duplicates are summed.
        weights: play counts of the items in `history`; all 1 if None. Counts describe a taste rather than an order, see
            `has_ordered_history`.
        times: when each item in `history` was listened to, in seconds since 1970, 0 where unknown; None if no time is
            known. Known times decide the order.
        skipped: ids of items that the user skipped or disliked; they are not recommended, and similar ones rank lower.
        friends: raw user ids, at most 1,000 distinct ones.
        embedding: (256,) embedding of a recording by `genre_cnn`, of any norm but 0.
        mood: one of `moods.MOODS`, or the strength (0..1) of some or all of them.
        k: number of items to return, 1 to 10,000 (1,000 with diversity, 200 with reasons); fewer are returned only if
            the catalogue has no more.
        exclude: ids of items that must not be recommended.
        filter_listened: exclude items that the user has listened to (stored history and `history`).
        diversity: 0..1, penalty for similarity between the items.
        novelty: 0..1, preference for less popular items.
        explain: return reasons.
        embedding_fits: whether `embedding` is from the network that embedded the artifact's items; if not, it is
            ignored and reported as unknown.
        caller: whose stored data may be used. Ids of other users are never looked up and count as unknown.
        at_s: time of the request in seconds since 1970; None for the clock of this machine.
    """

    user: str | None = None
    history: Sequence[str] = ()
    weights: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None
    times: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None
    skipped: Sequence[str] = ()
    friends: Sequence[str] = ()
    embedding: Floats | None = None
    mood: GivenMood | None = None
    k: int = 10
    exclude: Sequence[str] = ()
    filter_listened: bool = True
    diversity: float = 0.0
    novelty: float = 0.0
    explain: bool = False
    embedding_fits: bool = True
    caller: Caller = TRUSTED
    at_s: float | None = None

    @property
    def has_ordered_history(self) -> bool:
        """Whether the history is what was just listened to, in order: it has times, or no play counts."""
        return len(self.history) > 0 and (self.times is not None or self.weights is None)

    def check(self) -> None:
        """Validate the fields.

        Raises:
            InvalidRequestError: a field is out of range.
        """
        check_k(self.k)
        for most, option in ((MOST_EXPLAINED, "explain"), (MOST_DIVERSE, "diversity")):
            # NaN is rejected below.
            if self.k > most and getattr(self, option):
                raise InvalidRequestError(
                    f"invalid k: expected a whole number from 1 to {most} with {option}, got {self.k}"
                )
        for name in ("diversity", "novelty"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # false for NaN
                raise InvalidRequestError(f"invalid {name}: expected a number from 0 to 1, got {np.float32(value)!s}")
        for name in ("history", "skipped", "friends", "exclude"):
            if len(getattr(self, name)) > MOST_HISTORY:
                raise InvalidRequestError(f"invalid {name}: expected at most {MOST_HISTORY:,} ids, got more")
        if len(self.friends) > MOST_FRIENDS and (n_friends := len(set(self.friends))) > MOST_FRIENDS:
            raise InvalidRequestError(
                f"invalid friends: expected at most {MOST_FRIENDS:,} different ids, got {n_friends:,}"
            )
        if self.mood is not None:
            mood_vector(self.mood)
        self._check_weights()
        if self.times is not None:
            check_times(self.times, len(self.history), time.time() if self.at_s is None else self.at_s)
        if self.embedding is not None:
            check_embedding(self.embedding)

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.history):
            raise InvalidRequestError(weights_problem(len(self.weights), len(self.history)))
        weights = np.asarray(self.weights, np.float64)
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(wrong):
            raise InvalidRequestError(
                f"invalid weights[{wrong[0]}]: expected a number, 0 or more, for each track of history, got "
                f"{np.float32(weights[wrong[0]])!s}; use skipped for tracks that the user skipped or disliked"
            )


def weights_problem(n_weights: int, n_history: int) -> str:
    """Return the error message for weights that do not fit the history."""
    return (
        f"invalid weights: expected a number, 0 or more, for each track of history, got {n_weights:,} for "
        f"{n_history:,} ids"
    )


def times_problem(n_times: int, n_history: int) -> str:
    """Return the error message for times that do not fit the history."""
    return (
        f"invalid times: expected seconds since 1970, or 0 if unknown, for each track of history, got {n_times:,} for "
        f"{n_history:,} ids"
    )


def check_times(times: npt.ArrayLike, n_history: int, now_s: float) -> None:
    """Validate the times of a history.

    Args:
        times: seconds since 1970, 0 where unknown.
        n_history: number of ids in the history.
        now_s: time of the request; times may be up to a day later, because clocks differ.

    Raises:
        InvalidRequestError: there are more or fewer than ids, or one is negative, not finite or in the future.
    """
    values = np.asarray(times, np.float64)
    if values.shape != (n_history,):
        raise InvalidRequestError(times_problem(values.size, n_history))
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        raise InvalidRequestError(
            f"invalid times[{wrong[0]}]: expected seconds since 1970, or 0 if unknown, got {values[wrong[0]]!s}"
        )
    late = np.flatnonzero(values > now_s + MOST_SKEW_S)
    if len(late):
        raise InvalidRequestError(
            f"invalid times[{late[0]}]: expected seconds since 1970 in the past, got {values[late[0]]:.0f}, "
            f"which is {values[late[0]] - now_s:.0f} s in the future; pass seconds (divide milliseconds by 1,000)"
        )


def check_embedding(embedding: npt.ArrayLike) -> None:
    """Validate the embedding of a recording.

    Raises:
        InvalidRequestError: it has another shape, holds NaN, infinity or too large a number, or only zeros.
    """
    values = np.asarray(embedding)
    if values.shape != (EMBEDDING_SIZE,):
        raise InvalidRequestError(f"invalid embedding: expected shape ({EMBEDDING_SIZE},), got {values.shape}")
    wrong = np.flatnonzero(~(np.abs(values) <= LARGEST_EMBEDDING))  # also true for NaN
    if len(wrong):
        most = f"{LARGEST_EMBEDDING:.0f}"
        raise InvalidRequestError(
            f"invalid embedding[{wrong[0]}]: expected a number from -{most} to {most}, got {values[wrong[0]]!s}"
        )
    if not values.any():
        raise InvalidRequestError("invalid embedding: expected the embedding of a recording, got only zeros")


def check_k(k: int) -> None:
    """Validate the number of requested items.

    Raises:
        InvalidRequestError: it is out of range.
    """
    if isinstance(k, bool) or not 1 <= k <= MOST_ITEMS:
        raise InvalidRequestError(f"invalid k: expected a whole number from 1 to {MOST_ITEMS}, got {k}")


def check_lists(n_rows: int, lengths: Mapping[str, int]) -> None:
    """Validate the total number of ids in the rows of a Triton request, before any of them is decoded.

    Args:
        n_rows: number of rows.
        lengths: length of a row by list input, padding included.

    Raises:
        InvalidRequestError: a list is too long.
    """
    for name, length in lengths.items():
        if length > MOST_HISTORY:
            raise InvalidRequestError(f"invalid {name}: expected at most {MOST_HISTORY:,} ids, got more")
        if n_rows * length > MOST_IDS_IN_ALL:
            raise InvalidRequestError(
                f"invalid {name}: expected at most {MOST_IDS_IN_ALL:,} ids in one request, got {n_rows} rows of "
                f"{length:,}; send fewer rows at a time"
            )


def check_id_lengths(lists: Mapping[str, Sequence[bytes]]) -> None:
    """Validate the lengths of the ids in a Triton request, before any of them is decoded.

    Args:
        lists: ids in UTF-8 of all rows, by input name.

    Raises:
        InvalidRequestError: an id is too long, or the total length is too large.
    """
    total = 0
    for name, ids in lists.items():
        longest = max(map(len, ids), default=0)
        if longest > LONGEST_ID_BYTES:
            raise InvalidRequestError(
                f"invalid id in {name}: expected at most {LONGEST_ID_BYTES:,} bytes, got {longest:,}"
            )
        total += sum(map(len, ids))
    if total > MOST_ID_BYTES_IN_ALL:
        raise InvalidRequestError(
            f"invalid ids: expected at most {MOST_ID_BYTES_IN_ALL:,} bytes in one request, got {total:,}"
        )


def check_answers(wanted: Sequence[tuple[int, bool]]) -> None:
    """Validate the total number of items that the rows of a Triton request ask for.

    Args:
        wanted: (k, whether with reasons) of each row.

    Raises:
        InvalidRequestError: the total is too large.
    """
    for most, what, n_items in (
        (MOST_ITEMS_IN_ALL, "items", sum(k for k, _ in wanted)),
        (MOST_EXPLAINED_IN_ALL, "items with reasons", sum(k for k, explain in wanted if explain)),
    ):
        if n_items > most:
            raise InvalidRequestError(
                f"invalid k: expected at most {most:,} {what} in all rows of a request, got {n_items:,} in "
                f"{len(wanted)} rows; send fewer rows at a time"
            )


@dataclass(frozen=True)
class ScoreReason:
    """One contribution to the score of an item.

    Attributes:
        base_model: name of the base model, or `ensemble`.
        because: the part of the request it is based on: `history`, `friend`, `tag`, `audio` or `mood`;
            `friends_listening`: an item that friends listen to, used in place of a history; `listeners`: friends who
            are too few to be disclosed; `popularity`; `cold_item`: a constant for items without listeners;
            `diversity` and `novelty`: penalty and bonus of re-ranking.
        id: item id, friend's id as given in the request, or tag; empty if there is none that may be named.
        amount: contribution to the score.
        title: title of the item `id`, empty if `id` is not an item or the title is unknown.
        artist: as `title`.
    """

    base_model: str
    because: str
    id: str
    amount: float
    title: str = ""
    artist: str = ""


@dataclass(frozen=True)
class UnknownInputs:
    """The inputs of a request that were ignored.

    These are unknown ids, a mood or a recording that cannot be used, and the user's recorded events if the event store
    could not be read.
    """

    user: bool = False
    history: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mood: bool = False
    audio: bool = False
    events: bool = False


@dataclass(frozen=True, eq=False)
class RecommendResponse:
    """Recommendations.

    Attributes:
        items: item ids, best first.
        scores: (k,) in the order of `items`, descending.
        source: the most specific input that the recommendations are based on.
        reasons: reasons of each item; the amounts of an item add up to its score (to 1e-4 of the largest). Empty unless
            requested.
        unknown: inputs that were ignored.
        arm: arm of the A/B test.
        n_consumed: number of items excluded because the user has listened to them.
        mood: the mood that was taken into account.
    """

    items: tuple[str, ...]
    scores: Floats
    source: Source
    reasons: tuple[tuple[ScoreReason, ...], ...]
    unknown: UnknownInputs
    arm: str
    n_consumed: int = 0
    mood: AppliedMood = field(default_factory=AppliedMood)
