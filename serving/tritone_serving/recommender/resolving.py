"""Resolution of requests to arrays: the history, friends and events of each, with indices in place of ids.

Shapes: B requests, I items, U stored users.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.ids import normalize_id
from tritone_serving.recommender.artifact import EMBEDDINGS, INFERRED_MOOD, Artifact
from tritone_serving.recommender.batch import RequestBatch, embedding_rows, weigh
from tritone_serving.recommender.event_sequences import EventSequence, SequenceBatch, join_events
from tritone_serving.recommender.exceptions import InvalidRequestError, shown
from tritone_serving.recommender.lookup import NOT_STORED, IdLookup
from tritone_serving.recommender.moods import AppliedMood, MoodInference, mood_vector
from tritone_serving.recommender.pseudonyms import pseudonym
from tritone_serving.recommender.recent_events import NOTHING_RECORDED, EventWeighting, FoldedEvents, RecentEvents
from tritone_serving.recommender.remote_kinds import ORDERED_KINDS
from tritone_serving.recommender.requests import MIN_FRIENDS, RecommendRequest, UnknownInputs
from tritone_serving.recommender.rows import Floats, Rows
from tritone_serving.recommender.social_neighbourhood import SocialNeighbourhood
from tritone_serving.recommender.stored_order import StoredOrder

Ints = npt.NDArray[np.int64]

_MOST_BORROWED: Final = 200  # most shared items of friends that stand in for a history


@dataclass(frozen=True, eq=False)
class _Resolved:
    """One request with ids replaced by indices; see `RequestBatch`."""

    user: int
    history: npt.NDArray[np.int64]
    weights: Floats
    consumed: npt.NDArray[np.int64]
    friends: npt.NDArray[np.int64]
    unknown: UnknownInputs
    friend_ids: Mapping[int, str]
    mood: AppliedMood
    events: EventSequence
    is_session: bool
    is_known: bool


class Resolver(IdLookup):
    """Resolves requests to the arrays that one artifact's base models score."""

    def __init__(self, artifact: Artifact, key: bytes, *, min_friends: int = MIN_FRIENDS) -> None:
        """Open what histories and friends of stored users are read from.

        Args:
            artifact: the opened artifact.
            key: key of the users' pseudonyms.
            min_friends: for a caller with access to one user only, fewer stored friends than this are ignored.
        """
        super().__init__(artifact, key)
        self._min_friends = min_friends
        self._history = artifact.rows("history")
        self._friends = artifact.rows("friends")
        parameters = artifact.manifest.get("social_neighbourhood") or {}
        self._neighbourhood = SocialNeighbourhood.open(self._friends, parameters)
        self._listening = artifact.rows("listening") if "listening.starts" in artifact.arrays else self._history
        self._moods = artifact.arrays.get("items.moods")
        self._mood_inference = MoodInference.from_manifest(artifact.manifest.get(INFERRED_MOOD) or {})
        self._has_embeddings = EMBEDDINGS in artifact.arrays
        self._weighting: Mapping[str, Any] = artifact.manifest["weighting"]
        self._order = StoredOrder.open(artifact)
        self._uses_order = any(each.get("kind") in ORDERED_KINDS for each in artifact.manifest["base_models"].values())
        self.event_weighting = EventWeighting.from_manifest(artifact.manifest)

    def user_of(self, request: RecommendRequest) -> int:
        """Return the row of a request's user; -1 if unknown, or if the caller may not use that user's data.

        In the latter case the id is not looked up, so responses and their timing do not depend on whether it is stored.
        """
        caller = request.caller
        if request.user is None or not caller.may_use(request.user):
            return NOT_STORED
        # A user token is for one spelling; in artifacts of earlier versions another one may be another user.
        return self.user(request.user if caller.is_trusted or caller.user is None else caller.user)

    def pseudonym_of(self, request: RecommendRequest) -> bytes | None:
        """Return the pseudonym under which a request's user has recorded events.

        None without a user, or if the caller may not use that user's data.
        """
        if request.user is None or not request.caller.may_use(request.user):
            return None
        return pseudonym(self._key, normalize_id(request.user))

    def fold(self, requests: Sequence[RecommendRequest], recent: RecentEvents) -> list[FoldedEvents]:
        """Return the events of each request's user as weights of items, by the time of the request."""
        return [
            self.event_weighting.fold(events, self.item, now=now_s)
            for events, now_s in zip(recent.by_request, _times_of(requests), strict=True)
        ]

    def n_stored(self, user: int) -> int:
        """Return the number of items in the history of a stored user."""
        return int(self._history.starts[user + 1] - self._history.starts[user])

    def friends_of(self, raw: str) -> list[int]:
        """Return the rows of a user's stored friends; empty if the user is unknown."""
        row = self.user(raw)
        return [] if row == NOT_STORED else [int(each) for each in self._friends.row(row)[0]]

    def batch(
        self,
        requests: Sequence[RecommendRequest],
        events: Sequence[FoldedEvents] | None = None,
        users: Sequence[int] | None = None,
    ) -> tuple[RequestBatch, dict[int, InvalidRequestError]]:
        """Resolve requests into one batch.

        Args:
            requests: the requests.
            events: (B,) recorded events of their users; none by default.
            users: (B,) their `user_of`; looked up if None.

        Returns:
            the batch of the valid requests, in order, and the errors of the others by their index.
        """
        resolved: list[_Resolved] = []
        kept: list[RecommendRequest] = []
        errors: dict[int, InvalidRequestError] = {}
        for index, request in enumerate(requests):
            try:
                request.check()
                user = self.user_of(request) if users is None else users[index]
                resolved.append(self._resolve(request, user, NOTHING_RECORDED if events is None else events[index]))
                kept.append(request)
            except InvalidRequestError as error:
                errors[index] = error
        friends, social_neighbourhood = self.around(
            [each.friends for each in resolved], [each.user for each in resolved]
        )
        history = Rows.from_lists([r.history for r in resolved], [r.weights for r in resolved])
        history, borrowed = self.borrow(history, friends)
        batch = RequestBatch(
            users=np.array([each.user for each in resolved], np.int64),
            history=history,
            consumed=_ones([each.consumed for each in resolved]),
            friends=friends,
            social_neighbourhood=social_neighbourhood,
            embeddings=embedding_rows([each.embedding if self._can_compare(each) else None for each in kept]),
            moods=[each.mood for each in resolved],
            unknown=[each.unknown for each in resolved],
            friend_ids=[each.friend_ids for each in resolved],
            borrowed=borrowed,
            sequences=self._sequences(kept, resolved),
            is_session=np.array([each.is_session for each in resolved], np.bool_) if self._uses_order else None,
            is_known=np.array([each.is_known for each in resolved], np.bool_),
        )
        return batch, errors

    def _sequences(self, requests: Sequence[RecommendRequest], resolved: Sequence[_Resolved]) -> SequenceBatch | None:
        """Return the order of listening of each request; None if no base model uses it."""
        if not self._uses_order:
            return None
        return SequenceBatch.of([each.events for each in resolved], _times_of(requests))

    def ordered_events(
        self, request: RecommendRequest, user: int, recorded: FoldedEvents = NOTHING_RECORDED
    ) -> EventSequence:
        """Return what a user listened to and skipped, oldest first: stored order, recorded events and the request.

        Rejected items of the request are the latest events. Items of weight 0 and unknown ids are left out.
        """
        if not self._uses_order and not self._mood_inference.strength:
            return EventSequence.none()
        stored = EventSequence.none() if user == NOT_STORED else self._order.of(user)
        later = EventSequence(recorded.order, recorded.times, recorded.is_rejection)
        return join_events([stored, later, self._events_of(request)])

    def _events_of(self, request: RecommendRequest) -> EventSequence:
        """Return the history and the skipped items of a request as events."""
        if not len(request.history) and not len(request.skipped):
            return EventSequence.none()
        times = np.zeros(len(request.history)) if request.times is None else np.asarray(request.times, np.float64)
        weights = None if request.weights is None else np.asarray(request.weights, np.float64)
        positions, items = [], []
        for position, name in enumerate(request.history):
            index = self.item(name)
            if index is not None and (weights is None or weights[position] > 0):
                positions.append(position)
                items.append(index)
        rejected, _ = self.items(request.skipped)
        # A request does not say when items were skipped: they follow the history, at the time of its latest item.
        latest = float(times[positions].max(initial=0))
        return join_events(
            [
                EventSequence(np.array(items, np.int64), times[positions], np.zeros(len(items), np.bool_)),
                EventSequence(
                    np.array(rejected, np.int64), np.full(len(rejected), latest), np.ones(len(rejected), np.bool_)
                ),
            ]
        )

    def around(self, friends: Sequence[npt.NDArray[np.int64]], users: Sequence[int]) -> tuple[Rows, Rows]:
        """Return the friends of each user and their social neighbourhoods, sparse (B, U) with closeness as values.

        Args:
            friends: rows of each user's friends.
            users: (B,) row of each user, -1 if not stored.
        """
        closeness = [self._neighbourhood.step_weights(direct) for direct in friends]
        people = [
            self._neighbourhood.around(direct, weights, exclude=user)
            for direct, weights, user in zip(friends, closeness, users, strict=True)
        ]
        return (
            Rows.from_lists(friends, closeness),
            Rows.from_lists([who for who, _ in people], [weights for _, weights in people]),
        )

    def borrow(self, history: Rows, friends: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Replace the empty histories of users with friends by what their friends listen to, weighted by closeness.

        Args:
            history: (B, I).
            friends: (B, U), closeness as values.

        Returns:
            histories (B, I), and whether each was replaced (B,).
        """
        borrowed = (history.counts == 0) & (friends.counts > 0)
        if not borrowed.any():
            return history, borrowed
        columns, values = [], []
        for row, is_borrowed in enumerate(borrowed.tolist()):
            items, weights = history.row(row)
            if is_borrowed:
                people, closeness = friends.row(row)
                listening = self._listening.take(people.astype(np.int64))
                items, index = np.unique(listening.columns, return_inverse=True)
                shared = listening.values * np.repeat(closeness, listening.counts)
                weights = np.bincount(index, shared, len(items)).astype(np.float32)
                if len(items) > _MOST_BORROWED:
                    best = np.sort(np.argpartition(-weights, _MOST_BORROWED - 1)[:_MOST_BORROWED])
                    items, weights = items[best], weights[best]
                weights = weights / max(float(weights.mean()), 1e-9) if len(weights) else weights
            columns.append(items)
            values.append(weights)
        return Rows.from_lists(columns, values), borrowed

    def listening_of(self, people: npt.NDArray[np.int64]) -> Rows:
        """Return the items that n stored users listen to, sparse (n, I)."""
        return self._listening.take(people)

    def _can_compare(self, request: RecommendRequest) -> bool:
        """Return whether a request contains a recording that can be compared with the items."""
        return request.embedding is not None and request.embedding_fits and self._has_embeddings

    def _resolve(self, request: RecommendRequest, user: int, events: FoldedEvents) -> _Resolved:
        is_known = user != NOT_STORED or events.n_events > 0
        consumed, plays, unknown_history = self._plays(request, user)
        skipped, unknown_skipped = self.items(request.skipped)
        friends, friend_ids, unknown_friends = self._friends_of(request, user)
        _, unknown_exclude = self.items(request.exclude)
        unknown = UnknownInputs(
            user=request.user is not None and not is_known,
            history=unknown_history,
            skipped=unknown_skipped,
            friends=unknown_friends,
            exclude=unknown_exclude,
            mood=request.mood is not None and self._moods is None,
            audio=request.embedding is not None and not self._can_compare(request),
        )
        by_mood = request.mood is not None and self._moods is not None
        known = bool(len(consumed) or skipped or len(friends) or request.embedding is not None or by_mood)
        if not known and not is_known and (unknown_history or unknown_friends):
            named = [*unknown_history, *unknown_friends]
            some = ", ".join(map(shown, named[:3])) + " ..." * (len(named) > 3)
            raise InvalidRequestError(
                f"none of the ids is known ({some}), and nothing else is given; leave them out for what is popular"
            )
        if not known and not is_known and unknown.mood:
            raise InvalidRequestError(
                "nothing is known by mood: this recommender was trained without recordings, or with a genre_cnn that "
                "was trained without emotions, and nothing else is given"
            )
        history, weights = events.add_to(consumed, weigh(plays, self._weighting))
        if len(events.items):
            consumed = np.array(sorted({*consumed.tolist(), *events.items[events.is_consumed].tolist()}), np.int64)
        if skipped:
            rejected = np.unique(np.array(skipped, np.int64))
            kept = ~np.isin(history, rejected)
            negative = np.full(len(rejected), -float(self._weighting["skip"]), np.float32)
            history, weights = np.concatenate([history[kept], rejected]), np.concatenate([weights[kept], negative])
            order = np.argsort(history, kind="stable")
            history, weights = history[order], weights[order]
            consumed = np.setdiff1d(consumed, rejected)
        ordered = self.ordered_events(request, user, events)
        return _Resolved(
            user=user,
            history=history,
            weights=weights,
            consumed=consumed,
            friends=friends,
            unknown=unknown,
            friend_ids=friend_ids,
            mood=self._mood_of(request, ordered),
            events=ordered,
            is_session=request.has_ordered_history or events.is_session,
            is_known=is_known,
        )

    def given_mood(self, request: RecommendRequest) -> AppliedMood:
        """Return the mood that a request gives; none if the artifact has no moods."""
        if self._moods is None or request.mood is None:
            return AppliedMood()
        return AppliedMood.of("given", mood_vector(request.mood))

    def _mood_of(self, request: RecommendRequest, events: EventSequence) -> AppliedMood:
        """Return the mood of a request: the given one, else that of the last plays."""
        if self._moods is None or request.mood is not None or not self._mood_inference.strength:
            return self.given_mood(request)
        return self._mood_inference.infer(events, self._moods, time.time() if request.at_s is None else request.at_s)

    def _plays(
        self, request: RecommendRequest, user: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], tuple[str, ...]]:
        """Return the items of the stored and the given history, ascending, their play counts, and unknown ids."""
        stored, plays = np.zeros(0, np.int64), np.zeros(0, np.float64)
        if user != NOT_STORED:
            columns, values = self._history.row(user)
            stored, plays = columns.astype(np.int64), values.astype(np.float64)
        if not len(request.history):
            return stored, plays, ()
        # A dict, because `np.unique` takes several times as long for histories of usual lengths.
        total: dict[int, float] = dict(zip(stored.tolist(), plays.tolist(), strict=True))
        unknown = []
        weights = itertools.repeat(1.0) if request.weights is None else np.asarray(request.weights, np.float64).tolist()
        for name, weight in zip(request.history, weights, strict=False):
            index = self.item(name)
            if index is None:
                unknown.append(name)
            elif weight > 0:
                total[index] = total.get(index, 0.0) + weight
        items = np.fromiter(total, np.int64, len(total))
        counts = np.fromiter(total.values(), np.float64, len(total))
        order = np.argsort(items)
        return items[order], counts[order], tuple(dict.fromkeys(unknown))

    def _friends_of(
        self, request: RecommendRequest, user: int
    ) -> tuple[npt.NDArray[np.int64], dict[int, str], tuple[str, ...]]:
        """Return the rows of stored and given friends, the ids of given ones by row, and unknown ids."""
        rows: set[int] = set()
        if user != NOT_STORED:
            rows.update(self._friends.row(user)[0].tolist())
        if not request.caller.is_trusted:
            # Friends in the request are ids of users whose data this caller may not use. And recommendations based on
            # the listening of one or two stored friends would disclose it.
            if len(rows) < self._min_friends:
                rows = set()
            return np.array(sorted(rows), np.int64), {}, tuple(dict.fromkeys(request.friends))
        names: dict[int, str] = {}
        unknown: list[str] = []
        for name in dict.fromkeys(request.friends):
            row = self.user(name)
            if row == NOT_STORED:
                unknown.append(name)
            else:
                names[row] = name
        rows.update(names)
        rows.discard(user)  # users may list themselves
        return np.array(sorted(rows), np.int64), names, tuple(unknown)


def _times_of(requests: Sequence[RecommendRequest]) -> list[float]:
    """Return the time of each request in seconds since 1970."""
    now_s = time.time()
    return [now_s if request.at_s is None else request.at_s for request in requests]


def _ones(columns: Sequence[npt.NDArray[np.int64]]) -> Rows:
    """Return sparse rows with values of 1 at the given columns."""
    return Rows.from_lists(columns, [np.ones(len(each), np.float32) for each in columns])
