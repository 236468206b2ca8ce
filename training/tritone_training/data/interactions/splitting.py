"""Split a log into a training and a held-out part, reading one column at a time to bound memory.

Shapes: E pairs of user and item, N events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tritone_training.data.interactions.log import Log, pair_keys, pair_of_events
from tritone_training.data.interactions.user_sequences import UserSequences, last_of_users
from tritone_training.exceptions import DataError

EVENT_COLUMNS: Final = ("event_user", "event_item", "event_time", "event_skipped")
Flags = npt.NDArray[np.bool_]


class LogColumns(Protocol):
    """A log whose columns are read one at a time: one in memory, or in files."""

    @property
    def source(self) -> str:
        """Name of the log."""

    @property
    def users(self) -> Sequence[str]:
        """Raw ids."""

    @property
    def items(self) -> Sequence[str]:
        """Ids."""

    @property
    def report(self) -> Any:
        """Counts of the cleaning."""

    @property
    def has_times(self) -> bool:
        """Whether pairs and events have times."""

    @property
    def has_events(self) -> bool:
        """Whether the order of listening is known."""

    def __len__(self) -> int:
        """Number of pairs."""

    def column(self, name: str, chosen: Flags | None = None) -> npt.NDArray[Any] | None:
        """Return the chosen values of a column by its name, all by default; None if the log does not have it."""


class LogSelection:
    """Subset of the pairs of a log with their events; id indices are unchanged."""

    def __init__(self, log: LogColumns, *, has_order: bool = True) -> None:
        """Select all pairs and events; without times and order if `has_order` is False."""
        self._log = log
        self._has_order = has_order
        self._pairs = np.ones(len(log), np.bool_)
        self._events: Flags | None = None  # all
        self._pair_of_event: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return int(self._pairs.sum())

    @property
    def source(self) -> str:
        """Name of the log."""
        return self._log.source

    @property
    def has_times(self) -> bool:
        """Whether the pairs have times."""
        return self._has_order and self._log.has_times

    @property
    def has_order(self) -> bool:
        """Whether the order of listening is known."""
        return self._has_order and self._log.has_events

    def column(self, name: str) -> npt.NDArray[Any] | None:
        """Return a column; None if the log does not have it."""
        is_of_order = name in EVENT_COLUMNS or name in ("time", "last_time")
        if is_of_order and not self._has_order:
            return None
        chosen = self._events if name in EVENT_COLUMNS else None if self._pairs.all() else self._pairs
        return self._log.column(name, chosen)

    def required(self, name: str) -> npt.NDArray[Any]:
        """Return a column that every log has."""
        found = self.column(name)
        assert found is not None  # noqa: S101 - users, items and plays
        return found

    def take(self, chosen: Flags) -> LogSelection:
        """Return the chosen ones of the part's pairs, without the events of its other pairs."""
        part = LogSelection(self._log, has_order=self._has_order)
        part._pairs = self._pairs.copy()
        part._pairs[self._pairs] = chosen
        if self.has_order:
            index = self._index()
            kept = (index < 0) | ~(self._pairs & ~part._pairs)[index]  # skips of pairs that are not in the log stay
            part._events = kept if self._events is None else kept & self._events
            part._pair_of_event = index
        return part

    def until(self, time_s: float) -> LogSelection:
        """Return the part without later events."""
        time = self._log.column("event_time") if self._has_order else None
        if time is None:
            return self
        part = LogSelection(self._log, has_order=self._has_order)
        part._pairs, part._pair_of_event = self._pairs, self._pair_of_event
        part._events = time <= time_s if self._events is None else self._events & (time <= time_s)
        return part

    def without_order(self) -> LogSelection:
        """Return the part without times and events."""
        part = LogSelection(self._log, has_order=False)
        part._pairs = self._pairs
        return part

    def sequences(self) -> UserSequences | None:
        """Return the events; None if the log has no order."""
        user, item, skipped = (self.column(f"event_{name}") for name in ("user", "item", "skipped"))
        if user is None or item is None or skipped is None:
            return None
        return UserSequences(user, item, self.column("event_time"), skipped)

    def load(self) -> Log:
        """Return the part in memory."""
        user, item, plays = (self.required(name) for name in ("user", "item", "plays"))
        time, last_time = self.column("time"), self.column("last_time")
        log = self._log
        return Log(
            log.source, log.users, log.items, user, item, plays, time, log.report, last_time, self.sequences()
        )  # fmt: skip

    def _index(self) -> npt.NDArray[np.int32]:
        if self._pair_of_event is None:
            user, item, event_user, event_item = (
                self._log.column(name) for name in ("user", "item", "event_user", "event_item")
            )
            assert user is not None and item is not None  # noqa: PT018, S101 - every log has them
            assert event_user is not None and event_item is not None  # noqa: PT018, S101 - checked by the caller
            self._pair_of_event = pair_of_events(user, item, event_user, event_item, len(self._log.items))
        return self._pair_of_event


def split_log(log: LogColumns, *, fraction: float, seed: int) -> tuple[Log, Log]:
    """Return a training and a held-out log; the held-out log must not be used in training.

    With times, the latest `fraction` of the pairs of all users is held out, so that no listen is predicted from later
    ones; ties, which are common if times are months, are broken at random. The training log then has no events later
    than the held-out ones begin. If only the order is known, the last item of each user is held out, whatever the
    fraction. Without order, that fraction of the items of each user is held out at random. A user with a single item
    keeps it.

    Raises:
        DataError: one of the logs would be empty.
    """
    train, held_out = split_part(LogSelection(log), fraction=fraction, seed=seed)
    return train.load(), held_out.load()


def split_part(log: LogSelection, *, fraction: float, seed: int) -> tuple[LogSelection, LogSelection]:
    """Return a training and a held-out part as `split_log`, of which nothing is in memory yet.

    Raises:
        DataError: one of the parts would be empty.
    """
    if not 0 < fraction < 1:
        raise DataError(f"invalid held-out fraction: expected a number between 0 and 1, got {fraction}")
    time = log.column("time")
    until = None
    if time is not None:
        held_out = _latest(time, fraction, seed)
        until = float(time[held_out].min()) if held_out.any() else None
    elif log.has_order:
        held_out = last_pairs(log)
    else:
        held_out = _random(log.required("user"), fraction, seed)
    if held_out.all() or not held_out.any():
        n_users = len(np.unique(log.required("user")))
        wanted = "users with several items each" if time is None else "several listens"
        raise DataError(
            f"{log.source}: {len(log)} listens of {n_users} users cannot be split: one side would be empty; expected "
            f"{wanted}"
        )
    del time
    train = log.take(~held_out)
    return train if until is None else train.until(until), log.take(held_out)


def last_pairs(log: Log | LogSelection, n_back: int = 1) -> Flags:
    """Return which pairs (E,) are the n-th last listen of a user, for the leave-one-out protocol.

    Raises:
        DataError: the log has no order.
    """
    part = LogSelection(log) if isinstance(log, Log) else log
    sequences = part.sequences()
    if sequences is None:
        raise DataError(f"{part.source}: has neither times nor an order; the last item of each user is not known")
    last = sequences.take(last_of_users(sequences, n_back))
    user, item = part.required("user"), part.required("item")
    n_items = int(max(item.max(initial=0), last.item.max(initial=0))) + 1
    return np.isin(pair_keys(user, item, n_items), pair_keys(last.user, last.item, n_items))


def _latest(time: npt.NDArray[np.float64], fraction: float, seed: int) -> Flags:
    """Return the pairs of the latest times; of those with the earliest of these times, as many as are needed."""
    drawn = np.random.default_rng(seed).permutation(len(time))
    n_earlier = int((1 - fraction) * (len(time) - 1)) + 1
    if n_earlier >= len(time):
        return np.zeros(len(time), np.bool_)
    begin = np.partition(time, n_earlier)[n_earlier]
    held_out: Flags = time > begin
    ties = np.flatnonzero(time == begin)
    n_missing = len(time) - n_earlier - int(held_out.sum())
    held_out[ties[np.argsort(drawn[ties])[len(ties) - n_missing :]]] = True
    return held_out


def _random(user: npt.NDArray[Any], fraction: float, seed: int) -> Flags:
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(user))
    order = shuffled[np.argsort(user[shuffled], kind="stable")]  # user by user, each in random order
    del shuffled
    counts = np.bincount(user)
    firsts = np.cumsum(counts) - counts
    position = np.arange(len(user)) - np.repeat(firsts, counts)
    # Rounded at random, so that short histories hold out their share on average.
    wanted = np.floor(counts * fraction + rng.random(len(counts))).astype(np.int64)
    wanted = np.minimum(wanted, np.maximum(counts - 1, 0))
    held_out = np.zeros(len(user), np.bool_)
    held_out[order] = position < np.repeat(wanted, counts)
    return held_out
