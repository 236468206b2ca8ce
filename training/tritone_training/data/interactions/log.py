"""A cleaned listening log, and tags: plain arrays with the ids beside them.

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

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Log:
    """Who listened to what, each pair once.

    Attributes:
        users: raw ids.
        items: ids.
        user: (E,) place in `users`.
        item: (E,) place in `items`.
        plays: (E,) float32, above 0.
        time: (E,) seconds since 1970 of the first listen, or None if the log has no times.
        report: what cleaning did.
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
        """Plays as (users, items); with other people's places, pairs that have none are left out."""
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
        """Some of the pairs; ids keep their places."""
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
        """SHA-256 over all pairs in a fixed order, 16 characters."""
        users, items = np.array(self.users, object), np.array(self.items, object)
        lines = sorted(
            f"{u}\t{i}\t{p:g}" for u, i, p in zip(users[self.user], items[self.item], self.plays.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class TagTable:
    """Tags of items, and who gave them.

    Attributes:
        items: raw item id of each assignment.
        tags: (A,) tag of each.
        users: raw id of who gave it, empty if unknown.
    """

    items: Sequence[str]
    tags: Sequence[str]
    users: Sequence[str]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class MetadataTable:
    """What is said of items.

    Attributes:
        rows: item id -> column -> text.
    """

    rows: Mapping[str, Mapping[str, str]]
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)
