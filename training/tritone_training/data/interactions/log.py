"""Cleaned listening logs and tags as arrays, and the split of a log into a training and a held-out part.

Shapes: E pairs of user and item, A assignments of tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_training.exceptions import DataError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Log:
    """A cleaned listening log; each pair of user and item occurs once.

    Attributes:
        users: raw ids.
        items: ids.
        user: (E,) index in `users`.
        item: (E,) index in `items`.
        plays: (E,) float32, above 0.
        time: (E,) seconds since 1970 of the first listen, or None if the log has no times.
        report: counts of the cleaning.
    """

    source: str
    users: Sequence[str]
    items: Sequence[str]
    user: Ints
    item: Ints
    plays: npt.NDArray[np.float32]
    time: npt.NDArray[np.float64] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

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
        """Return the log with some of the pairs; the indices of ids do not change."""
        return Log(
            self.source,
            self.users,
            self.items,
            self.user[pairs],
            self.item[pairs],
            self.plays[pairs],
            None if self.time is None else self.time[pairs],
            self.report,
        )

    def fingerprint(self) -> str:
        """Return the first 16 characters of the SHA-256 of all pairs in a fixed order."""
        users, items = np.array(self.users, object), np.array(self.items, object)
        lines = sorted(
            f"{u}\t{i}\t{p:g}" for u, i, p in zip(users[self.user], items[self.item], self.plays.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


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
    ones; ties, which are common if times are months, are broken at random. Without times, that fraction of the items
    of each user is held out at random; a user with a single item keeps it.

    Raises:
        DataError: one of the logs would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"invalid held-out fraction: expected a number between 0 and 1, got {fraction}")
    held_out = _latest(log, fraction, seed) if log.time is not None else _random(log, fraction, seed)
    if held_out.all() or not held_out.any():
        wanted = "users with several items each" if log.time is None else "several listens"
        raise DataError(
            f"{log.source}: {len(log)} listens of {len(np.unique(log.user))} users cannot be split: one side would be "
            f"empty; expected {wanted}"
        )
    return log.take(~held_out), log.take(held_out)


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
