"""Ordered listening for `taste_sequence`: the events of all users as arrays, read from a log with tags and metadata.

The target of an event is the next item that the user listens to for the first time. The last target of each user is the
validation item; nothing from there on is trained on while the epoch is selected.
Shapes: N events of all users, U users, T items, W words.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_training.data.interactions import (
    SESSIONS,
    CleaningRules,
    ListeningData,
    ListeningFiles,
    ListenSequences,
    Log,
    MetadataTable,
    TagTable,
    columns_of,
    files_of,
    is_sequence_file,
    load_log,
    load_metadata,
    load_sequences,
    load_tags,
    simulated_sessions,
    words_matrix,
)
from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest, TrainRequest

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NO_TARGET: Final = -1
_HEAD_BYTES: Final = 65_536
_SEPARATORS: Final = ("\t", ",", ";", "|", "::", "{", "[")  # of tables


@dataclass(frozen=True, eq=False)
class Events:
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
    def of(cls, sequences: ListenSequences, n_users: int, index: Ints) -> Events:
        """Return the events of known items.

        Args:
            sequences: of a log.
            n_users: of that log.
            index: (items of the log,) index of each item here, -1 for unknown ones.
        """
        known = sequences.take(index[sequences.item] >= 0)
        item = index[known.item]
        listened = np.flatnonzero(~known.skipped)
        pairs = known.user[listened] * (int(index.max(initial=0)) + 1) + item[listened]
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

    def until(self, ends: Ints) -> Events:
        """Return the events before index `ends` (U,) of each user; -1 keeps all of a user's."""
        stop = np.where(ends >= 0, ends, self.starts[1:])
        kept = np.arange(len(self.item)) < np.repeat(stop, np.diff(self.starts))
        starts = np.concatenate([[0], np.cumsum(stop - self.starts[:-1])]).astype(np.int64)
        return Events(starts, self.item[kept], self.time[kept], self.skipped[kept], self.is_new[kept])

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
    events: Events
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


@dataclass(frozen=True, eq=False)
class OrderedListening:
    """A log in order, and the tables that describe its items.

    Attributes:
        sequences: all events of each user; those of `log`.
    """

    log: Log
    sequences: ListenSequences
    tags: TagTable
    metadata: MetadataTable


def load_ordered(request: TrainRequest | EvaluateRequest, *, seed: int) -> OrderedListening:
    """Return the log of a request, or simulated sessions with `seed`, in which all events of each user are in order.

    Raises:
        DataError: a table cannot be read, or the log has neither times nor an order.
    """
    files = files_of(request.data)
    if files.interactions is None or str(files.interactions) == SESSIONS:
        world = simulated_sessions(seed=seed, progress=request.progress).world
        log, tags, metadata = world.log, world.tags, MetadataTable(world.metadata)
    else:
        if files.tag_names is not None and files.item_tags is None:
            raise DataError("--tag-names holds the names of --item-tags: give these too, or leave it out")
        columns = columns_of(files)
        log = read_ordered(files.interactions, files)
        tags = load_tags(files.item_tags, columns, names=files.tag_names) if files.item_tags else TagTable((), (), ())
        metadata = load_metadata(files.metadata, item=files.item_column) if files.metadata else MetadataTable({})
    if log.sequences is None:
        raise DataError(
            f"{log.source}: has neither times nor an order: expected a column of times, or lines `user item item ...` "
            f"in order of time; name the column with --time-column"
        )
    return OrderedListening(log, log.sequences, tags, metadata)


def read_ordered(path: Path, files: ListeningFiles) -> Log:
    """Read a table, or a file with lines `user item item ...`, also if each line has one item.

    Raises:
        DataError: as `load_log` and `load_sequences`.
    """
    rules = CleaningRules(most_events=0)
    if is_sequence_file(path) or _is_blank_separated(path):
        return load_sequences(path, rules=rules)
    return load_log(path, columns_of(files), rules=rules)


def _is_blank_separated(path: Path) -> bool:
    """Return whether the first line of text has several words and no separator of tables."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        lines = head.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:  # a table in another encoding, or a character that was cut
        return False
    first = next((line for line in lines if line.strip()), "")
    return len(first.split()) > 1 and not any(mark in first for mark in _SEPARATORS) and "\0" not in first


def load_data(request: TrainRequest) -> SequenceData:
    """Read the log, tags and metadata of a request.

    Raises:
        DataError: a table cannot be read, the log has no order, or no user has two items.
    """
    given = load_ordered(request, seed=request.seed)
    log, n_items = given.log, len(given.log.items)
    everything = Events.of(given.sequences, len(log.users), np.arange(n_items))
    held_out = everything.last_new()
    if not (held_out >= 0).any():
        raise DataError(f"{log.source}: no user listens to two different items; train on a larger log")
    trained = everything.until(held_out)
    popularity = np.bincount(trained.item[trained.is_new], minlength=n_items)
    order = np.lexsort((np.arange(n_items), -popularity))
    index = np.empty(n_items, np.int64)
    index[order] = np.arange(n_items)
    events = Events.of(given.sequences, len(log.users), index)
    listened = [log.items[number] for number in order.tolist()]
    unheard = sorted(({*given.tags.items} | {*given.metadata.rows}) - set(listened))
    items = [*listened, *unheard]
    trained_pairs = np.unique(trained.user_of_events() * n_items + trained.item)
    train = log.take(np.isin(log.user * n_items + log.item, trained_pairs))
    words = words_matrix(ListeningData(train, train, None, [], given.tags, given.metadata.rows), items)
    in_log = set(listened)
    report = {
        "source": log.source,
        "n_in": log.report["n_in"],
        "n_used": log.report["n_used"],
        "n_events": len(events.item),
        "n_skips": int(events.skipped.sum()),
        "n_items_without_listeners": len(unheard),
        "n_words": int(words.shape[1]),
        "fingerprint": log.fingerprint(),
        "licence": log.report.get("licence", "unknown: the user's own data"),
        "parts": {
            "log": log.report,
            "valid": {"n_used": int((held_out >= 0).sum()), "how": "the last item of each user"},
            "tags": {**given.tags.report, "n_in_log": sum(item in in_log for item in given.tags.items)},
            "metadata": {**given.metadata.report, "n_in_log": sum(item in in_log for item in given.metadata.rows)},
        },
    }
    return SequenceData(items, events, held_out, words, report)


def cut_items(data: SequenceData, n_items: int) -> SequenceData:
    """Return the data with the first items only; events of the others are left out."""
    if n_items >= len(data.items):
        return data
    kept = data.events.item < n_items
    user = data.events.user_of_events()[kept]
    starts = np.searchsorted(user, np.arange(data.events.n_users + 1)).astype(np.int64)
    old = data.events
    events = Events(starts, old.item[kept], old.time[kept], old.skipped[kept], old.is_new[kept])
    return SequenceData(
        data.items[:n_items], events, events.last_new(), sparse.csr_matrix(data.words[:n_items]), data.report
    )
