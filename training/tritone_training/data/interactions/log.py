"""Cleaned listening logs, tags and metadata in memory.

Shapes: E pairs of user and item, A assignments of tags.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from tritone_training.data.interactions.user_sequences import UserSequences

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.signedinteger[Any]]
Flags = npt.NDArray[np.bool_]
_LINES_AT_ONCE: Final = 200_000
_EVENTS_AT_ONCE: Final = 1_000_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Log:
    """A cleaned listening log; each pair of user and item occurs once.

    Attributes:
        users: raw ids.
        items: ids.
        user: (E,) index in `users`, of 32 bits in large logs: multiply by `pair_keys`, which do not overflow.
        item: (E,) index in `items`.
        plays: (E,) float32, above 0.
        time: (E,) seconds since 1970 of the first listen, or None if the log has no times.
        report: counts of the cleaning.
        last_time: (E,) seconds since 1970 of the last listen, or None if the log has no times.
        sequences: the latest listens and skips of each user in order; None if the log has neither times nor an order.
    """

    source: str
    users: Sequence[str]
    items: Sequence[str]
    user: Codes
    item: Codes
    plays: npt.NDArray[np.float32]
    time: npt.NDArray[np.float64] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    last_time: npt.NDArray[np.float64] | None = None
    sequences: UserSequences | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def has_times(self) -> bool:
        """Whether the pairs have times."""
        return self.time is not None

    @property
    def has_events(self) -> bool:
        """Whether the order of listening is known."""
        return self.sequences is not None

    def pair_keys(self) -> Ints:
        """Return (E,) numbers that tell pairs apart: user * number of items + item."""
        return pair_keys(self.user, self.item, len(self.items))

    def matrix(
        self, users: Mapping[str, int] | None = None, items: Mapping[str, int] | None = None
    ) -> sparse.csr_matrix:
        """Return the plays as a sparse matrix (users, items); pairs without a given index are left out."""
        if users is None:
            users = {name: position for position, name in enumerate(self.users)}
        if items is None:
            items = {name: position for position, name in enumerate(self.items)}
        rows = np.array([users.get(name, -1) for name in self.users], np.int64)[self.user]
        columns = np.array([items.get(name, -1) for name in self.items], np.int64)[self.item]
        known = (rows >= 0) & (columns >= 0)
        return sparse.csr_matrix(
            (self.plays[known], (rows[known], columns[known])), shape=(len(users), len(items)), dtype=np.float32
        )

    def take(self, pairs: npt.NDArray[np.bool_] | Ints) -> Log:
        """Return the log with some of the pairs and without the events of the others; indices of ids do not change."""
        return Log(
            self.source,
            self.users,
            self.items,
            self.user[pairs],
            self.item[pairs],
            self.plays[pairs],
            None if self.time is None else self.time[pairs],
            self.report,
            None if self.last_time is None else self.last_time[pairs],
            None if self.sequences is None else self._sequences_of(pairs),
        )

    def _sequences_of(self, pairs: npt.NDArray[np.bool_] | Ints) -> UserSequences | None:
        """Return the events of the given pairs, and the skips of pairs that are not in the log."""
        if self.sequences is None:
            return None
        left_out = np.ones(len(self), np.bool_)
        left_out[pairs] = False
        events = self.sequences
        index = pair_of_events(self.user, self.item, events.user, events.item, len(self.items))
        return events.take((index < 0) | ~left_out[index])

    def column(self, name: str, chosen: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[Any] | None:
        """Return the chosen values of a column by its name, all by default; None if the log does not have it.

        The names of the columns of the events begin with `event_`.
        """
        owner = self if (plain := name.removeprefix("event_")) == name else self.sequences
        found: npt.NDArray[Any] | None = None if owner is None else getattr(owner, plain)
        return found if found is None or chosen is None else found[chosen]

    def fingerprint(self) -> str:
        """Return the first 16 characters of the SHA-256 of all pairs in a fixed order."""
        if any(min(name) <= "\t" for ids in (self.users, self.items) for name in ids):  # sorts before the tab
            lines = [line for piece in self._lines(np.arange(len(self))) for line in piece]
            return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        order = None
        user_rank, item_rank = _ranks(self.users), _ranks(self.items)
        if user_rank is not None or item_rank is not None or not _are_sorted(self.user, self.item):
            user = self.user if user_rank is None else user_rank[self.user]
            order = np.lexsort((self.item if item_rank is None else item_rank[self.item], user))
        digest = hashlib.sha256()
        for number, lines in enumerate(self._lines(order)):
            digest.update(("\n" * bool(number) + "\n".join(lines)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def _lines(self, order: Ints | None) -> Iterator[list[str]]:
        """Yield the pairs as lines of text, in an order, some at a time."""
        users, items = self.users, self.items
        for first in range(0, len(self), _LINES_AT_ONCE):
            span = slice(first, first + _LINES_AT_ONCE)
            chosen = span if order is None else order[span]
            plays, index = np.unique(self.plays[chosen], return_inverse=True)
            shown = [f"{each:g}" for each in plays.tolist()]
            columns = (self.user[chosen].tolist(), self.item[chosen].tolist(), index.tolist())
            yield [f"{users[user]}\t{items[item]}\t{shown[count]}" for user, item, count in zip(*columns, strict=True)]


def _are_sorted(user: Codes, item: Codes) -> bool:
    """Return whether pairs are in order of user and item, each once."""
    return bool(((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (item[1:] > item[:-1]))).all())


def _ranks(ids: Sequence[str]) -> Ints | None:
    """Return the position of each id among the sorted ids; None if they are sorted."""
    if all(one < other for one, other in itertools.pairwise(ids)):
        return None
    ranks = np.empty(len(ids), np.int64)
    ranks[np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)] = np.arange(len(ids))
    return ranks


def pair_of_events(
    user: Codes, item: Codes, event_user: Codes, event_item: Codes, n_items: int
) -> npt.NDArray[np.int32]:
    """Return the index of each event's pair (N,), -1 for events without a pair in the log.

    Args:
        user: (E,) of the pairs.
        item: (E,) of the pairs.
        event_user: (N,) ascending.
        event_item: (N,).
    """
    order = None
    if not _are_sorted(user, item):
        order = np.lexsort((item, user)).astype(np.int32)
        user, item = user[order], item[order]
    found = np.full(len(event_user), -1, np.int32)
    for first in range(0, len(event_user), _EVENTS_AT_ONCE):
        span = slice(first, first + _EVENTS_AT_ONCE)
        wanted = pair_keys(event_user[span], event_item[span], n_items)
        begin = int(np.searchsorted(user, event_user[span][0], "left"))
        end = int(np.searchsorted(user, event_user[span][-1], "right"))
        keys = pair_keys(user[begin:end], item[begin:end], n_items)
        if len(keys):
            index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found[span] = np.where(keys[index] == wanted, begin + index, -1)
    return found if order is None else np.where(found >= 0, order[found], -1).astype(np.int32)


def pair_keys(user: Codes, item: Codes, n_items: int) -> Ints:
    """Return user * n_items + item in 64 bits, whatever the type of the indices."""
    keys = user.astype(np.int64)
    keys *= n_items
    keys += item
    return keys


@dataclass(frozen=True, eq=False)
class TagTable:
    """Tags of items, and the users who gave them.

    Attributes:
        items: raw item id of each assignment.
        tags: (A,) tag of each.
        users: raw id of the user who gave it, empty if unknown.
    """

    items: Sequence[str]
    tags: Sequence[str]
    users: Sequence[str]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class MetadataTable:
    """Metadata of items.

    Attributes:
        rows: item id -> column -> text.
    """

    rows: Mapping[str, Mapping[str, str]]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def merge_logs(logs: Sequence[Log]) -> Log:
    """Return one log with the listens of several; plays of the same user and item are added.

    Times and sequences are kept if all logs have them; without times, the events of a later log follow those of an
    earlier one. Source and report are those of the first log.
    """
    users = sorted({log.users[index] for log in logs for index in np.unique(log.user).tolist()})
    items = sorted({log.items[index] for log in logs for index in np.unique(log.item).tolist()})
    tables = [_renumbered(log, users, items) for log in logs]
    has_times = all("time" in pairs for pairs, _ in tables)
    how = {"plays": "sum", **({"time": "min", "last_time": "max"} if has_times else {})}
    table = pd.concat([pairs for pairs, _ in tables]).groupby(["user", "item"], sort=True, as_index=False).agg(how)
    events = [each for _, each in tables if each is not None]
    sequences = None
    if len(events) == len(logs):
        event = pd.concat(events)
        user, item, skipped = (event[name].to_numpy() for name in ("user", "item", "skipped"))
        times = event["time"].to_numpy(np.float64) if has_times and "time" in event else None
        sequences = UserSequences.ordered(user, item, times, skipped)
    return Log(
        logs[0].source,
        users,
        items,
        table["user"].to_numpy(np.int64),
        table["item"].to_numpy(np.int64),
        table["plays"].to_numpy(np.float32),
        table["time"].to_numpy(np.float64) if has_times else None,
        logs[0].report,
        table["last_time"].to_numpy(np.float64) if has_times else None,
        sequences,
    )


def _renumbered(log: Log, users: Sequence[str], items: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the pairs and the events of a log with the indices of other lists of ids."""
    user_index = {name: index for index, name in enumerate(users)}
    item_index = {name: index for index, name in enumerate(items)}
    of_user = np.array([user_index.get(name, -1) for name in log.users], np.int64)
    of_item = np.array([item_index.get(name, -1) for name in log.items], np.int64)
    pairs = pd.DataFrame({"user": of_user[log.user], "item": of_item[log.item], "plays": log.plays})
    if log.time is not None:
        pairs["time"] = log.time
        pairs["last_time"] = log.time if log.last_time is None else log.last_time
    found = log.sequences
    if found is None:
        return pairs, None
    events = pd.DataFrame({"user": of_user[found.user], "item": of_item[found.item], "skipped": found.skipped})
    if found.time is not None:
        events["time"] = found.time
    return pairs, events[(events["user"] >= 0) & (events["item"] >= 0)]


def held_out_counts(held_out: Log, users: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the number of held-out listens of each user (n,), including those of unknown items."""
    counts = dict(zip(held_out.users, np.bincount(held_out.user, minlength=len(held_out.users)).tolist(), strict=True))
    return np.array([counts.get(name, 0) for name in users], np.int64)


def is_text(column: pd.Series[Any]) -> Flags:
    """Return whether each value is a string that can be encoded as UTF-8."""

    def ok(value: object) -> bool:
        if not isinstance(value, str) or not value:
            return False
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    return np.fromiter((ok(value) for value in column), np.bool_, len(column))
