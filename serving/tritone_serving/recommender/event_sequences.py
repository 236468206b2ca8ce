"""The order of listening in requests: events of several sources as one sequence, and the sequences of a batch.

Shapes: B requests, n events of one request, L events of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.rows import Floats

MOST_SEQUENCE: Final = 200  # latest events of a request that are used
PADDING: Final = -1
UNKNOWN_AGE: Final = -1.0
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EventSequence:
    """Listens and skips of one request or one source, oldest first.

    Attributes:
        items: (n,) index of each item.
        times: (n,) seconds since 1970, 0 where unknown.
        skipped: (n,) whether the item was skipped or disliked; such an event is no listen.
    """

    items: Ints
    times: Seconds
    skipped: Flags

    @classmethod
    def none(cls) -> EventSequence:
        """Return no events."""
        return _NONE

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Ints | slice) -> EventSequence:
        """Return the selected events, in the given order."""
        return EventSequence(self.items[indices], self.times[indices], self.skipped[indices])


_NONE: Final = EventSequence(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.bool_))


def join_events(parts: Sequence[EventSequence]) -> EventSequence:
    """Return the events of several sources in order of time; only the latest `MOST_SEQUENCE` are kept.

    Times decide wherever they are known, also within a source; events at the same time keep the order in which they are
    given, and equal events at the same known time are one event, since a log may hold recorded events too. An event
    without a time stays behind the event before it in its source. If none of a source's events has a time, the first
    source is the oldest and any other one the newest.

    Args:
        parts: the sources, the oldest first: the stored history, later events, the history of the request.
    """
    kept = [(index, part) for index, part in enumerate(parts) if len(part)]
    if not kept:
        return EventSequence.none()
    if len(kept) == 1 and not kept[0][1].times.any():  # as it is; the usual case
        return kept[0][1].take(slice(-MOST_SEQUENCE, None))
    keys = np.concatenate([_sort_keys(part.times, is_first=index == 0) for index, part in kept])
    order = np.argsort(keys, kind="stable")
    whole = [part for _, part in kept]
    joined = EventSequence(
        np.concatenate([part.items for part in whole])[order],
        np.concatenate([part.times for part in whole])[order],
        np.concatenate([part.skipped for part in whole])[order],
    )
    return _without_duplicates(joined).take(slice(-MOST_SEQUENCE, None))


def _without_duplicates(events: EventSequence) -> EventSequence:
    """Return events in order of time without repetitions at the same known time."""
    triples = np.stack([events.times, events.items, events.skipped], 1)
    _, first = np.unique(triples, axis=0, return_index=True)
    is_kept = events.times <= 0
    is_kept[first] = True
    return events if is_kept.all() else events.take(np.flatnonzero(is_kept))


def _sort_keys(times: Seconds, *, is_first: bool) -> Seconds:
    """Return sort keys (n,): the event's time, or that of the nearest earlier event with a time."""
    known = times > 0
    if known.all():
        return times
    if not known.any():
        return np.full(len(times), -np.inf if is_first else np.inf)
    last = np.maximum.accumulate(np.where(known, np.arange(len(times)), -1))
    last[last < 0] = int(np.argmax(known))  # before the first known one
    keys: Seconds = times[last]
    return keys


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """The sequences of a batch of requests, oldest first, padded at the end.

    Attributes:
        items: (B, L) index of each item, -1 for padding; L is at least 1.
        ages: (B, L) float32, seconds between the event and the request, at least 0; -1 where the time is unknown.
        skipped: (B, L) whether the item was skipped or disliked.
    """

    items: Ints
    ages: Floats
    skipped: Flags

    @classmethod
    def of(cls, events: Sequence[EventSequence], at_s: Sequence[float]) -> SequenceBatch:
        """Build from the events of each request.

        Args:
            events: (B,) the joined events of each request.
            at_s: (B,) time of each request in seconds since 1970; events later than that are of age 0.
        """
        longest = max(1, max(map(len, events), default=0))
        items = np.full((len(events), longest), PADDING, np.int64)
        ages = np.full((len(events), longest), UNKNOWN_AGE, np.float32)
        skipped = np.zeros((len(events), longest), np.bool_)
        for row, (each, now_s) in enumerate(zip(events, at_s, strict=True)):
            n = len(each)
            items[row, :n] = each.items
            ages[row, :n] = np.where(each.times > 0, np.maximum(now_s - each.times, 0), UNKNOWN_AGE)
            skipped[row, :n] = each.skipped
        return cls(items, ages, skipped)

    def take(self, rows: Ints) -> SequenceBatch:
        """Return the sequences of some requests."""
        return SequenceBatch(self.items[rows], self.ages[rows], self.skipped[rows])

    @cached_property
    def is_listen(self) -> Flags:
        """(B, L) whether there is an event that is no skip."""
        listens: Flags = (self.items != PADDING) & ~self.skipped
        return listens

    @property
    def has_listens(self) -> Flags:
        """(B,) whether there is any listen."""
        found: Flags = self.is_listen.any(1)
        return found

    @cached_property
    def distances(self) -> Ints:
        """(B, L) number of listens after each event, 0 for the latest listen."""
        listens = self.is_listen.astype(np.int64)
        after: Ints = np.cumsum(listens[:, ::-1], axis=1)[:, ::-1] - listens
        return after
