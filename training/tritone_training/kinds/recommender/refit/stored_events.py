"""Recorded events as a table, and their merge with a listening log.

A play counts as a play, a like as three. A skip takes one play away, and a user's pair with an item of which nothing is
left, or whose last opinion is a dislike, is left out of the fit. At request time events count differently, by their age
and the seconds played (`tritone_serving.recommender.recent_events`): a log has counts of plays only.
Shapes: N events.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone.atomic import PRIVATE_FILE, write_atomically
from tritone_serving.events import EVENT_KINDS, EventStore
from tritone_serving.recommender.forgotten import mark_of
from tritone_serving.recommender.pseudonyms import Pseudonym, pseudonym
from tritone_training.data.interactions import ListeningData, Log, UserSequences
from tritone_training.data.interactions.log import merge_logs
from tritone_training.exceptions import DataError

LIKE_PLAYS: Final = 3.0  # number of plays as which a like counts
_AT_ONCE: Final = 10_000
_PLAY, _SKIP, _LIKE, _DISLIKE = (EVENT_KINDS.index(kind) for kind in ("play", "skip", "like", "dislike"))


@dataclass(frozen=True, eq=False)
class StoredEvents:
    """Events of a store.

    Attributes:
        users: (N,) pseudonyms as hexadecimal digits.
        tracks: (N,) ids.
        kinds: (N,) index in `EVENT_KINDS`.
        at: (N,) seconds since 1970.
        received: (N,) when the server stored them, in seconds since 1970.
    """

    users: npt.NDArray[np.object_]
    tracks: npt.NDArray[np.object_]
    kinds: npt.NDArray[np.int8]
    at: npt.NDArray[np.float64]
    received: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at)

    def take(self, kept: npt.NDArray[np.bool_]) -> StoredEvents:
        """Return the selected events (N,)."""
        return StoredEvents(*(getattr(self, each.name)[kept] for each in fields(self)))

    def counts(self) -> dict[str, int]:
        """Return the number of events of each kind."""
        found = np.bincount(self.kinds, minlength=len(EVENT_KINDS)).tolist()
        return dict(zip(EVENT_KINDS, found, strict=True))

    def save(self, path: Path) -> None:
        """Write the table to a file that only its owner can read; it appears when it is complete."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            users=self.users.astype(np.str_),
            tracks=self.tracks.astype(np.str_),
            kinds=self.kinds,
            at=self.at,
            received=self.received,
        )
        write_atomically(path, content.getvalue(), mode=PRIVATE_FILE)

    @classmethod
    def load(cls, path: Path) -> StoredEvents | None:
        """Read a saved table; None if there is none, or it is damaged."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                users, tracks = (found[name].astype(object) for name in ("users", "tracks"))
                return cls(users, tracks, found["kinds"], found["at"], found["received"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    @classmethod
    def empty(cls) -> StoredEvents:
        """Return a table without events."""
        return cls(np.zeros(0, object), np.zeros(0, object), np.zeros(0, np.int8), np.zeros(0), np.zeros(0))

    @classmethod
    def of_store(cls, store: EventStore, *, after: float | None = None, received_by: float) -> StoredEvents:
        """Read the events of a store.

        The scan is in order of users, and events that arrive while it runs are read for some users only: `received_by`
        leaves them to the next refit.

        Args:
            store: the open store.
            after: only events that happened later, in seconds since 1970.
            received_by: only events that were stored until then, in seconds since 1970.

        Raises:
            EventStoreError: the store is down or damaged.
        """
        users: list[str] = []
        tracks: list[str] = []
        kinds: list[int] = []
        times: list[float] = []
        received: list[float] = []
        cursor = ""
        while events := store.scan(cursor, _AT_ONCE):
            for event in events:
                if event.received <= received_by and (after is None or event.at > after):
                    users.append(event.user)
                    tracks.append(event.track)
                    kinds.append(EVENT_KINDS.index(event.kind))
                    times.append(event.at)
                    received.append(event.received)
            cursor = events[-1].cursor
        return cls(
            np.array(users, object),
            np.array(tracks, object),
            np.array(kinds, np.int8),
            np.array(times, np.float64),
            np.array(received, np.float64),
        )


def user_names(log: Log, key: bytes) -> dict[str, str]:
    """Return pseudonym -> raw id of the users of a log."""
    return {pseudonym(key, user).hex(): user for user in log.users}


def without_forgotten(log: Log, key: bytes, marks: Collection[str]) -> tuple[Log, int]:
    """Return a log without the users who were removed from the recommender, and their number.

    Args:
        log: the log, with raw ids.
        key: key of the users' pseudonyms.
        marks: see `tritone_serving.recommender.forgotten`.

    Raises:
        DataError: no user is left.
    """
    if not marks:
        return log, 0
    gone = np.array([mark_of(key, pseudonym(key, user)) in marks for user in log.users], np.bool_)
    kept = ~gone[log.user]
    if not kept.any():
        raise DataError(f"{log.source}: all of its users were removed by `tritone forget`; expected a log of others")
    return log.take(kept), int(gone[np.unique(log.user)].sum())


def known_events(
    events: StoredEvents, tracks: Collection[str], key: bytes, marks: Collection[str]
) -> tuple[StoredEvents, dict[str, int]]:
    """Return the events of known tracks and users who were not removed, and the numbers of the others."""
    is_known = np.fromiter((track in tracks for track in events.tracks), np.bool_, len(events))
    gone = (
        {user for user in set(events.users.tolist()) if mark_of(key, bytes.fromhex(user)) in marks} if marks else set()
    )
    is_gone = np.fromiter((user in gone for user in events.users), np.bool_, len(events))
    return events.take(is_known & ~is_gone), {
        "n_of_unknown_tracks": int((~is_known).sum()),
        "n_of_forgotten_users": int(is_gone.sum()),
    }


def merged_log(log: Log, events: StoredEvents, names: Mapping[str, str]) -> Log:
    """Return a log with the events added.

    Args:
        log: the log, with raw ids.
        events: of known tracks.
        names: pseudonym -> raw id of the log's users; other users keep their pseudonym.
    """
    if not len(events):
        return log
    frame = pd.DataFrame({"user": events.users, "item": events.tracks, "kind": events.kinds, "at": events.at})
    frame["user"] = [names.get(user) or Pseudonym(user) for user in events.users.tolist()]
    frame = frame.sort_values("at", kind="stable")
    listened = frame[frame["kind"].isin([_PLAY, _LIKE])]
    merged = log
    if len(listened):
        plays = np.where(listened["kind"] == _LIKE, LIKE_PLAYS, 1.0)
        merged = merge_logs([log, _as_log(log, listened, frame, plays)])
    return _without_rejected(merged, frame)


def _as_log(log: Log, listened: pd.DataFrame, frame: pd.DataFrame, plays: npt.NDArray[np.float64]) -> Log:
    users = sorted(set(listened["user"]))
    items = sorted(set(listened["item"]))
    user_index = {name: index for index, name in enumerate(users)}
    item_index = {name: index for index, name in enumerate(items)}
    pairs = pd.DataFrame(
        {
            "user": listened["user"].map(user_index).to_numpy(np.int64),
            "item": listened["item"].map(item_index).to_numpy(np.int64),
            "plays": plays,
            "at": listened["at"].to_numpy(np.float64),
        }
    )
    pairs = pairs.groupby(["user", "item"], as_index=False).agg(
        plays=("plays", "sum"), at=("at", "min"), last=("at", "max")
    )
    sequences = None
    if log.sequences is not None:
        known = frame[frame["user"].isin(user_index) & frame["item"].isin(item_index)]
        sequences = UserSequences.ordered(
            known["user"].map(user_index).to_numpy(np.int64),
            known["item"].map(item_index).to_numpy(np.int64),
            known["at"].to_numpy(np.float64),
            known["kind"].isin([_SKIP, _DISLIKE]).to_numpy(np.bool_),
        )
    return Log(
        log.source,
        users,
        items,
        pairs["user"].to_numpy(np.int64),
        pairs["item"].to_numpy(np.int64),
        pairs["plays"].to_numpy(np.float32),
        pairs["at"].to_numpy(np.float64),
        log.report,
        pairs["last"].to_numpy(np.float64),
        sequences,
    )


def _without_rejected(log: Log, frame: pd.DataFrame) -> Log:
    """Take skips from the plays of a log, and remove pairs of which nothing is left or that were disliked."""
    skips: dict[Any, int] = frame[frame["kind"] == _SKIP].groupby(["user", "item"]).size().to_dict()
    opinions: dict[Any, int] = (
        frame[frame["kind"].isin([_LIKE, _DISLIKE])].groupby(["user", "item"])["kind"].last().to_dict()
    )
    disliked = {pair for pair, kind in opinions.items() if kind == _DISLIKE}
    if not skips and not disliked:
        return log
    plays = log.plays.copy()
    kept = np.ones(len(log), np.bool_)
    rejected = skips.keys() | disliked
    users = {pair[0] for pair in rejected}
    is_concerned = np.fromiter((name in users for name in log.users), np.bool_, len(log.users))
    for index in np.flatnonzero(is_concerned[log.user]).tolist():
        pair = (log.users[log.user[index]], log.items[log.item[index]])
        if pair in rejected:
            plays[index] -= skips.get(pair, 0)
            kept[index] = pair not in disliked and plays[index] > 0
    return replace(log, plays=plays).take(kept)


def new_listens(
    events: StoredEvents, log: Log, names: Mapping[str, str], *, last_s: float, least: int
) -> tuple[float, int]:
    """Return the time that splits off the latest new listens for validation, and their number.

    New listens are pairs of user and item that the log does not have. The split is the last `last_s` seconds of the
    events, or the latest tenth of the new listens if these are fewer than `least`.

    Args:
        events: of known tracks.
        log: the log, with raw ids.
        names: pseudonym -> raw id of the log's users.
        last_s: length of the period, in seconds.
        least: number of listens that are enough.
    """
    listened = events.take(np.isin(events.kinds, [_PLAY, _LIKE]))
    if not len(listened):
        return float("inf"), 0
    logged = {
        (log.users[user], log.items[item]) for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True)
    }
    pairs = zip(listened.users.tolist(), listened.tracks.tolist(), listened.at.tolist(), strict=True)
    first: dict[tuple[str, str], float] = {}
    for user, track, at in pairs:
        pair = (names.get(user, user), track)
        if pair not in logged:
            first[pair] = min(at, first.get(pair, at))
    times = np.sort(np.array(list(first.values()), np.float64))
    if not len(times):
        return float("inf"), 0
    until = float(events.at.max()) - last_s
    if (times > until).sum() < least:
        until = float(times[max(len(times) - max(len(times) // 10, least) - 1, 0)])
    return until, int((times > until).sum())


def split_by_time(
    listening: ListeningData, log: Log, events: StoredEvents, names: Mapping[str, str], until: float
) -> ListeningData:
    """Return data split at a time: the log and the events up to then, and the new listens after it.

    Args:
        listening: tags, metadata and friends.
        log: the whole log, with raw ids.
        events: of known tracks.
        names: pseudonym -> raw id of the log's users.
        until: in seconds since 1970.
    """
    train = merged_log(log, events.take(events.at <= until), names)
    later = merged_log(log, events, names)
    known = _pairs(train)
    fresh = np.fromiter((pair not in known for pair in _pair_list(later)), np.bool_, len(later))
    valid = replace(later.take(fresh), time=None, last_time=None, sequences=None)
    return replace(listening, train=train, valid=valid, test=None, whole_log=later)


def _pair_list(log: Log) -> Sequence[tuple[str, str]]:
    return [(log.users[user], log.items[item]) for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True)]


def _pairs(log: Log) -> set[tuple[str, str]]:
    return set(_pair_list(log))


def describe(events: StoredEvents, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Return a description of the events for reports."""
    return {
        "n": len(events),
        **events.counts(),
        "n_users": len(set(events.users.tolist())),
        "first_at": float(events.at.min()) if len(events) else None,
        "last_at": float(events.at.max()) if len(events) else None,
        **left_out,
    }
