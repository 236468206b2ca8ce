"""The order of listening: the listens and skips of each user, oldest first, and files that hold one user a line.

Shapes: N events of all users, U users.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.exceptions import DataError

MOST_EVENTS: Final = 200  # latest events of each user that are kept by default
_SNIFFED_BYTES: Final = 1 << 16
_SNIFFED_LINES: Final = 100
_EVENTS_AT_ONCE: Final = 200_000
_SEPARATORS: Final = ("\t", ",", ";", "|", "::")  # of tables
_HEADER_WORDS: Final = frozenset({"user", "userid", "user_id", "uid"})
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.signedinteger[Any]]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UserSequences:
    """Listens and skips of all users, user by user, oldest first.

    Attributes:
        user: (N,) index of the user in the log, ascending; of 32 bits in large logs.
        item: (N,) index of the item in the log, likewise.
        time: (N,) seconds since 1970, ascending for each user; None if only the order is known.
        skipped: (N,) whether the item was skipped or disliked; such an event is no listen.
    """

    user: Codes
    item: Codes
    time: Floats | None
    skipped: Flags

    def __len__(self) -> int:
        return len(self.user)

    def take(self, kept: Flags) -> UserSequences:
        """Return the selected events (N,)."""
        time = None if self.time is None else self.time[kept]
        return UserSequences(self.user[kept], self.item[kept], time, self.skipped[kept])

    def starts(self, n_users: int) -> Ints:
        """Return the index of each user's first event, and the number of events (U + 1,)."""
        return np.searchsorted(self.user, np.arange(n_users + 1)).astype(np.int64)

    def items_of(self, n_users: int) -> list[Codes]:
        """Return the items that each user listened to, oldest first, without skipped ones."""
        listened = self.take(~self.skipped)
        starts = listened.starts(n_users)
        return [listened.item[a:b] for a, b in itertools.pairwise(starts.tolist())]

    @classmethod
    def ordered(
        cls, user: Codes, item: Codes, time: Floats | None, skipped: Flags, *, most_events: int = MOST_EVENTS
    ) -> UserSequences:
        """Return events in order of users and times; events at one time keep the order in which they are given.

        Only the latest `most_events` of each user are kept, all if it is 0.
        """
        order = np.argsort(user, kind="stable") if time is None else np.lexsort((time, user))
        user, item, skipped = user[order], item[order], skipped[order]
        counts = np.bincount(user) if len(user) else np.zeros(0, np.int64)
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(user))
        found = cls(user, item, None if time is None else time[order], skipped)
        if not most_events or counts.max(initial=0) <= most_events:
            return found
        return found.take(from_end <= most_events)


def last_of_users(sequences: UserSequences, n_back: int = 1) -> Flags:
    """Return which events (N,) are the n-th last listen of a user who has more than n."""
    rank = np.zeros(len(sequences), np.int64)  # from the end, 1 for the last listen
    listens = np.flatnonzero(~sequences.skipped)
    users = sequences.user[listens]
    counts = np.bincount(users) if len(users) else np.zeros(0, np.int64)
    rank[listens] = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))
    enough = np.zeros(len(sequences), np.bool_)
    enough[listens] = counts[users] > n_back
    found: Flags = (rank == n_back) & enough
    return found


def is_sequence_file(path: Path) -> bool:
    """Return whether a file holds lines `user item item ...`, separated by blanks, and is no table."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character was cut
            return False
        text = head[: error.start].decode("utf-8")
    lines = text.splitlines()
    whole = [line for line in (lines if len(head) < _SNIFFED_BYTES else lines[:-1]) if line.strip()][:_SNIFFED_LINES]
    if len(head) == _SNIFFED_BYTES and not whole:
        whole = lines  # one line longer than what was read
    if not whole or any(mark in line for line in whole for mark in _SEPARATORS):
        return False
    parts = [line.split() for line in whole]
    users = [each[0] for each in parts]
    counts = {len(each) for each in parts}
    return min(counts) >= 2 and len(counts) > 1 and len(set(users)) == len(users)


def read_sequences(path: Path) -> Iterator[pd.DataFrame]:
    """Yield the events of a file with lines `user item item ...` as columns `user` and `item`, in order of the file.

    A user may have several lines, which follow one another. A first line that names the columns is left out.

    Raises:
        DataError: the file is missing or not UTF-8, or a line has no item.
    """
    users: list[str] = []
    items: list[str] = []
    is_empty = True
    for number, words in _lines(path):
        if number == 1 and words[0].lower() in _HEADER_WORDS:
            continue
        if len(words) < 2:
            raise DataError(
                f"{path}: line {number} has no item: expected `user item item ...`, got {words[0][:80]!r}; add its "
                f"items or remove the line"
            )
        users += [words[0]] * (len(words) - 1)
        items += words[1:]
        if len(users) >= _EVENTS_AT_ONCE:
            yield _frame(users, items)
            users, items, is_empty = [], [], False
    if users:
        yield _frame(users, items)
    elif is_empty:
        raise DataError(f"{path}: is empty; expected lines of `user item item ...`")


def _frame(users: list[str], items: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"user": pd.Series(users, dtype=object), "item": pd.Series(items, dtype=object)})


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                words = line.replace(",", " ").split()
                if words:
                    yield number, words
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 text ({error.reason}); expected lines of `user item item ...`"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a file of sequences") from error
