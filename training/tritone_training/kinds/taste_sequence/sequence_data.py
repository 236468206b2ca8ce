"""The events of all users as arrays, which `taste_sequence` is trained on and evaluated with.

The target of an event is the next item that the user listens to for the first time. The last target of each user is the
validation item; nothing from there on is trained on while the epoch is selected.
Shapes: N events of all users, U users, T items, W words.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_training.data.interactions import UserSequences
from tritone_training.data.interactions.log import pair_keys

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NO_TARGET: Final = -1


@dataclass(frozen=True, eq=False)
class EventArrays:
    """Events of all users, user by user, oldest first.

    Attributes:
        starts: (U + 1,) index of each user's first event.
        item: (N,) index of the item.
        time: (N,) seconds since 1970, NaN if unknown.
        skipped: (N,) bool.
        is_new: (N,) whether the user listens to the item for the first time.
    """

    starts: Ints
    item: Ints
    time: Floats
    skipped: Flags
    is_new: Flags

    @classmethod
    def of(cls, sequences: UserSequences, n_users: int, index: Ints) -> EventArrays:
        """Return the events of known items.

        Args:
            sequences: of a log.
            n_users: of that log.
            index: (items of the log,) index of each item here, -1 for unknown ones.
        """
        known = sequences.take(index[sequences.item] >= 0)
        item = index[known.item]
        listened = np.flatnonzero(~known.skipped)
        pairs = pair_keys(known.user[listened], item[listened], int(index.max(initial=0)) + 1)
        is_new = np.zeros(len(known), np.bool_)
        is_new[listened[np.unique(pairs, return_index=True)[1]]] = True
        time = np.full(len(known), np.nan) if known.time is None else known.time
        return cls(known.starts(n_users), item, time, known.skipped, is_new)

    @property
    def n_users(self) -> int:
        """Number of users, those without events included."""
        return len(self.starts) - 1

    def user_of_events(self) -> Ints:
        """Return the user of each event (N,)."""
        return np.repeat(np.arange(self.n_users), np.diff(self.starts))

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (first, end) of each user's events."""
        return itertools.pairwise(self.starts.tolist())

    def last_new(self) -> Ints:
        """Return the index of each user's last new item (U,), -1 for users who listen to fewer than two items."""
        found = np.full(self.n_users, NO_TARGET, np.int64)
        for user, (start, end) in enumerate(self.spans()):
            new = np.flatnonzero(self.is_new[start:end])
            if len(new) > 1:
                found[user] = start + new[-1]
        return found

    def until(self, ends: Ints) -> EventArrays:
        """Return the events before index `ends` (U,) of each user; -1 keeps all of a user's."""
        stop = np.where(ends >= 0, ends, self.starts[1:])
        kept = np.arange(len(self.item)) < np.repeat(stop, np.diff(self.starts))
        starts = np.concatenate([[0], np.cumsum(stop - self.starts[:-1])]).astype(np.int64)
        return EventArrays(starts, self.item[kept], self.time[kept], self.skipped[kept], self.is_new[kept])

    def listened(self, n_items: int) -> sparse.csr_matrix:
        """Return how often each user listened to each item (U, T)."""
        user = self.user_of_events()[~self.skipped]
        counts = (np.ones(len(user), np.float32), (user, self.item[~self.skipped]))
        return sparse.csr_matrix(counts, shape=(self.n_users, n_items))

    def targets(self) -> Ints:
        """Return the index of the event that each event predicts (N,), the user's next new item; -1 for none."""
        found = np.full(len(self.item), NO_TARGET, np.int64)
        for start, end in self.spans():
            new = start + np.flatnonzero(self.is_new[start:end])
            following = np.searchsorted(new, np.arange(start, end), side="right")
            has = following < len(new)
            found[start:end][has] = new[following[has]]
        return found


@dataclass(frozen=True, eq=False)
class SequenceData:
    """Data of a training.

    Attributes:
        items: T ids, in descending order of popularity.
        events: of all users and all times.
        held_out: (U,) index in `events` of each user's validation item, -1 for none.
        words: (T, W), see `words_matrix`.
        report: what was read and used.
    """

    items: Sequence[str]
    events: EventArrays
    held_out: Ints
    words: sparse.csr_matrix
    report: dict[str, Any]

    def fingerprint(self) -> str:
        """Return a digest of all data."""
        digest = hashlib.sha256("\n".join(self.items).encode())
        parts = (self.events.starts, self.events.item, self.events.time, self.events.skipped)
        for part in (*parts, self.words.indptr, self.words.indices, self.words.data):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def cut_items(data: SequenceData, n_items: int) -> SequenceData:
    """Return the data with the first items only; events of the others are left out."""
    if n_items >= len(data.items):
        return data
    kept = data.events.item < n_items
    user = data.events.user_of_events()[kept]
    starts = np.searchsorted(user, np.arange(data.events.n_users + 1)).astype(np.int64)
    old = data.events
    events = EventArrays(starts, old.item[kept], old.time[kept], old.skipped[kept], old.is_new[kept])
    return SequenceData(
        data.items[:n_items], events, events.last_new(), sparse.csr_matrix(data.words[:n_items]), data.report
    )
