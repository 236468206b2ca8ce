"""Cleaned listening logs and tags as arrays, the cleaning rules, and the split into a training and a held-out part.

Shapes: E pairs of user and item, A assignments of tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from tritone_training.data.interactions.user_sequences import UserSequences, last_of_users
from tritone_training.exceptions import DataError

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.signedinteger[Any]]
Flags = npt.NDArray[np.bool_]
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

    def pair_keys(self) -> Ints:
        """Return (E,) numbers that tell pairs apart: user * number of items + item."""
        return pair_keys(self.user, self.item, len(self.items))

    def matrix(
        self, users: Mapping[str, int] | None = None, items: Mapping[str, int] | None = None
    ) -> sparse.csr_matrix:
        """Return the plays as a sparse matrix (users, items); pairs without a given index are left out."""
        if users is None:
            users = {name: place for place, name in enumerate(self.users)}
        if items is None:
            items = {name: place for place, name in enumerate(self.items)}
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
        events = pair_keys(self.sequences.user, self.sequences.item, len(self.items))
        return self.sequences.take(~np.isin(events, self.pair_keys()[left_out]))

    def fingerprint(self) -> str:
        """Return the first 16 characters of the SHA-256 of all pairs in a fixed order."""
        users, items = np.array(self.users, object), np.array(self.items, object)
        lines = sorted(
            f"{u}\t{i}\t{p:g}" for u, i, p in zip(users[self.user], items[self.item], self.plays.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


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


def split_log(log: Log, *, fraction: float, seed: int) -> tuple[Log, Log]:
    """Return a training and a held-out log; the held-out log must not be used in training.

    With times, the latest `fraction` of the pairs of all users is held out, so that no listen is predicted from later
    ones; ties, which are common if times are months, are broken at random. The training log then has no events later
    than the held-out ones begin. If only the order is known, the last item of each user is held out, whatever the
    fraction. Without order, that fraction of the items of each user is held out at random. A user with a single item
    keeps it.

    Raises:
        DataError: one of the logs would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"invalid held-out fraction: expected a number between 0 and 1, got {fraction}")
    if log.time is not None:
        held_out = _latest(log, fraction, seed)
    elif log.sequences is not None:
        held_out = last_pairs(log)
    else:
        held_out = _random(log, fraction, seed)
    if held_out.all() or not held_out.any():
        wanted = "users with several items each" if log.time is None else "several listens"
        raise DataError(
            f"{log.source}: {len(log)} listens of {len(np.unique(log.user))} users cannot be split: one side would be "
            f"empty; expected {wanted}"
        )
    train = log.take(~held_out)
    if log.time is not None and train.sequences is not None and train.sequences.time is not None:
        until = float(log.time[held_out].min())
        train = replace(train, sequences=train.sequences.take(train.sequences.time <= until))
    return train, log.take(held_out)


def last_pairs(log: Log, n_back: int = 1) -> npt.NDArray[np.bool_]:
    """Return which pairs (E,) are the n-th last listen of a user, for the leave-one-out protocol.

    Raises:
        DataError: the log has no order.
    """
    if log.sequences is None:
        raise DataError(f"{log.source}: has neither times nor an order; the last item of each user is not known")
    last = log.sequences.take(last_of_users(log.sequences, n_back))
    return np.isin(log.pair_keys(), pair_keys(last.user, last.item, len(log.items)))


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


def _latest(log: Log, fraction: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    assert log.time is not None  # noqa: S101 - checked by the caller
    order = np.lexsort((np.random.default_rng(seed).permutation(len(log)), log.time))
    held_out = np.zeros(len(log), np.bool_)
    held_out[order[int((1 - fraction) * (len(log) - 1)) + 1 :]] = True
    return held_out


def _random(log: Log, fraction: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(log))
    order = shuffled[np.argsort(log.user[shuffled], kind="stable")]  # user by user, each in random order
    counts = np.bincount(log.user, minlength=len(log.users))
    firsts = np.cumsum(counts) - counts
    place = np.arange(len(log)) - np.repeat(firsts, counts)
    # Rounded at random, so that short histories hold out their share on average.
    wanted = np.floor(counts * fraction + rng.random(len(counts))).astype(np.int64)
    wanted = np.minimum(wanted, np.maximum(counts - 1, 0))
    held_out = np.zeros(len(log), np.bool_)
    held_out[order] = place < np.repeat(wanted, counts)
    return held_out


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
