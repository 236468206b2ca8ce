"""Training and validation data of `taste_sequence`: ordered histories and the items that follow.

The target of an event is the next item that the user listens to for the first time. The last target of each user is the
validation item; nothing from there on is trained on while the epoch is selected.
Shapes: N events of all users, B histories, L events of the longest, T items, W words.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tritone_training.data.interactions import (
    CleaningRules,
    ListeningData,
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
    words_matrix,
)
from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.taste_sequence.declaration import PADDING, UNKNOWN_AGE

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_NO_TARGET: Final = -1
_LENGTH_NOISE: Final = 10  # events by which lengths in a batch differ at random, so that batches differ between epochs
_MEAN_EVENTS: Final = 60  # a batch has at most `batch_size` times as many events, padding included
_SEPARATORS: Final = ("\t", ",", ";", "|", "::", "{", "[")


class SequenceBatch(NamedTuple):
    """Padded histories.

    Attributes:
        items: (B, L) int64, -1 for padding.
        gaps: (B, L) seconds to the next event, -1 if unknown.
        skipped: (B, L) 0 or 1.
        targets: (B, L) int64 the item to predict after each event, -1 for none.
        avoided: (B, L) int64 the item that is skipped next, -1 if the next event is no skip.
    """

    items: Tensor
    gaps: Tensor
    skipped: Tensor
    targets: Tensor
    avoided: Tensor


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

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (first, end) of each user's events."""
        return itertools.pairwise(self.starts.tolist())

    def last_new(self) -> Ints:
        """Return the index of each user's last new item (U,), -1 for users who listen to fewer than two items."""
        found = np.full(self.n_users, _NO_TARGET, np.int64)
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
        user = np.repeat(np.arange(self.n_users), np.diff(self.starts))[~self.skipped]
        counts = (np.ones(len(user), np.float32), (user, self.item[~self.skipped]))
        return sparse.csr_matrix(counts, shape=(self.n_users, n_items))

    def targets(self) -> Ints:
        """Return the index of the event that each event predicts (N,), the user's next new item; -1 for none."""
        found = np.full(len(self.item), _NO_TARGET, np.int64)
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


def load_ordered_log(request: TrainRequest | EvaluateRequest) -> Log:
    """Return the log of a request, in which all events of each user are in order.

    Raises:
        DataError: no log is given, it cannot be read, or it has neither times nor an order.
    """
    files = files_of(request.data)
    if files.interactions is None:
        raise DataError(
            "no listening log: expected --data or --interactions with a file of sequences or a log with times, got "
            "none; this kind has no simulated listening"
        )
    log = read_ordered(files.interactions, files)
    if log.sequences is None:
        raise DataError(
            f"{log.source}: has neither times nor an order: expected a column of times, or lines `user item item ...` "
            f"in order of time; name the column with --time-column"
        )
    return log


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
        head = file.read(65_536)
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
    files = files_of(request.data)
    log = load_ordered_log(request)
    assert log.sequences is not None  # noqa: S101 - checked by load_ordered_log
    if files.tag_names is not None and files.item_tags is None:
        raise DataError("--tag-names holds the names of --item-tags: give these too, or leave it out")
    columns = columns_of(files)
    tags = load_tags(files.item_tags, columns, names=files.tag_names) if files.item_tags else TagTable((), (), ())
    metadata = load_metadata(files.metadata, item=files.item_column) if files.metadata else MetadataTable({})
    everything = Events.of(log.sequences, len(log.users), np.arange(len(log.items)))
    held_out = everything.last_new()
    trained = everything.until(held_out)
    popularity = np.bincount(trained.item[trained.is_new], minlength=len(log.items))
    order = np.lexsort((np.arange(len(popularity)), -popularity))
    listened = [log.items[index] for index in order.tolist()]
    unheard = sorted(({*tags.items} | {*metadata.rows}) - set(listened))
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    events = Events.of(log.sequences, len(log.users), position)
    user = np.repeat(np.arange(len(log.users)), np.diff(trained.starts))[~trained.skipped]
    pairs = np.unique(user * len(log.items) + trained.item[~trained.skipped])
    train = log.take(np.isin(log.user * len(log.items) + log.item, pairs))
    items = [*listened, *unheard]
    words = words_matrix(ListeningData(train, train, None, [], tags, metadata.rows), items)
    if not (held_out >= 0).any():
        raise DataError(f"{log.source}: no user has two different items; train on a larger log")
    report = {
        **log.report,
        "fingerprint": log.fingerprint(),
        "licence": log.report.get("licence", "unknown: the user's own data"),
        "valid": {"n_used": int((held_out >= 0).sum()), "how": "the last item of each user"},
        "n_skips": int(events.skipped.sum()),
        "n_items_without_listeners": len(unheard),
        "n_words": int(words.shape[1]),
        "parts": {"tags": dict(tags.report), "metadata": dict(metadata.report)},
    }
    return SequenceData(items, events, held_out, words, report)


def cut_items(data: SequenceData, n_items: int) -> SequenceData:
    """Return the data with the first items only; events of the others are left out."""
    if n_items >= len(data.items):
        return data
    kept = data.events.item < n_items
    user = np.repeat(np.arange(data.events.n_users), np.diff(data.events.starts))[kept]
    starts = np.searchsorted(user, np.arange(data.events.n_users + 1)).astype(np.int64)
    old = data.events
    events = Events(starts, old.item[kept], old.time[kept], old.skipped[kept], old.is_new[kept])
    return SequenceData(
        data.items[:n_items], events, events.last_new(), sparse.csr_matrix(data.words[:n_items]), data.report
    )


class TrainingHistories(Dataset[tuple[Tensor, ...]]):
    """Histories for training; a long one gives several, drawn from it at random each time.

    The random numbers are torch's.
    """

    def __init__(self, events: Events, max_length: int) -> None:
        self.max_length = max_length
        targets = events.targets()
        following = np.append(events.item[1:], 0)
        is_followed = np.append(events.skipped[1:], False)
        is_followed[events.starts[1:][events.starts[1:] > 0] - 1] = False  # the next event is of another user
        gaps = np.append(np.diff(events.time), np.nan)
        self._item = torch.from_numpy(events.item)
        self._gap = torch.from_numpy(np.nan_to_num(gaps, nan=UNKNOWN_AGE).astype(np.float32))
        self._skipped = torch.from_numpy(events.skipped.astype(np.float32))
        self._target = torch.from_numpy(np.where(targets >= 0, events.item[targets], _NO_TARGET))
        self._avoided = torch.from_numpy(np.where(is_followed, following, _NO_TARGET))
        useful = (self._target.numpy() >= 0) | (self._avoided.numpy() >= 0)
        spans = []
        for start, end in events.spans():
            places = np.flatnonzero(useful[start:end])
            if len(places):
                spans.append((start, start + int(places[-1]) + 1))
        self._spans = [span for span in spans for _ in range(-(-(span[1] - span[0]) // max_length))]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        start, end = self._spans[index]
        if end - start > self.max_length:
            start += int(torch.randint(end - start - self.max_length + 1, ()))
            end = start + self.max_length
        return tuple(part[start:end] for part in (self._item, self._gap, self._skipped, self._target, self._avoided))

    def lengths(self) -> Ints:
        """Return the number of events of each history."""
        return np.array([min(end - start, self.max_length) for start, end in self._spans], np.int64)


class LengthBatches(Sampler[list[int]]):
    """Random batches of histories of similar lengths, with a bound on their events; drawn by torch's random numbers."""

    def __init__(self, lengths: Ints, batch_size: int) -> None:
        self._lengths = torch.from_numpy(lengths)
        self._batch_size = batch_size
        self._n_batches = len(self._batches(torch.zeros(len(lengths))))

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches(torch.rand(len(self._lengths)) * _LENGTH_NOISE)
        for index in torch.randperm(len(batches)).tolist():
            yield batches[index]

    def _batches(self, noise: Tensor) -> list[list[int]]:
        batches: list[list[int]] = []
        current: list[int] = []
        longest = 0
        for index in (self._lengths + noise).argsort(stable=True).tolist():
            longest = max(longest, int(self._lengths[index]))
            if current and longest * (len(current) + 1) > self._batch_size * _MEAN_EVENTS:
                batches.append(current)
                current, longest = [], int(self._lengths[index])
            current.append(index)
            if len(current) == self._batch_size:
                batches.append(current)
                current, longest = [], 0
        return [*batches, current] if current else batches


def collate(entries: Sequence[tuple[Tensor, ...]]) -> SequenceBatch:
    """Return a batch padded on the right to its longest history."""
    values = (PADDING, UNKNOWN_AGE, 0, _NO_TARGET, _NO_TARGET)
    return SequenceBatch(
        *(
            torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)
            for parts, value in zip(zip(*entries, strict=True), values, strict=True)
        )
    )


class Query(NamedTuple):
    """Padded histories as they are sent to the served network, and what follows them.

    Attributes:
        items: (B, L) int64, -1 for padding on the right.
        ages: (B, L) seconds from each event to the target, -1 if unknown.
        skipped: (B, L).
        targets: (B,) int64 item that follows.
        users: (B,) int64.
    """

    items: Tensor
    ages: Tensor
    skipped: Tensor
    targets: Tensor
    users: Tensor


class Queries(Dataset[Query]):
    """Batches of histories before a target, sorted by length; every user with a target is in one of them.

    Args:
        events: histories; those at and after the target are not used.
        targets: (U,) item to predict, -1 for none.
        ends: (U,) index of the event at which each history ends.
        times: (U,) time of the request, NaN if unknown.
        max_length: latest events of a history that are used.
        batch_size: histories in a batch.
    """

    def __init__(
        self, events: Events, targets: Ints, ends: Ints, times: Floats, *, max_length: int, batch_size: int
    ) -> None:
        self._events = events
        self._targets, self._ends, self._times = targets, ends, times
        self._starts = np.maximum(events.starts[:-1], ends - max_length)
        self._max_length = max_length
        users = np.flatnonzero(targets >= 0)
        users = users[np.argsort((ends - self._starts)[users], kind="stable")]
        self._users = [users[start : start + batch_size] for start in range(0, len(users), batch_size)]

    def __len__(self) -> int:
        return len(self._users)

    def __getitem__(self, index: int) -> Query:
        users = self._users[index]
        longest = max(1, int((self._ends - self._starts)[users].max()))
        items = np.full((len(users), longest), PADDING, np.int64)
        ages = np.full((len(users), longest), UNKNOWN_AGE, np.float32)
        skipped = np.zeros((len(users), longest), np.float32)
        for row, user in enumerate(users.tolist()):
            span = slice(int(self._starts[user]), int(self._ends[user]))
            n = span.stop - span.start
            items[row, :n] = self._events.item[span]
            age = np.maximum(self._times[user] - self._events.time[span], 0)
            ages[row, :n] = np.nan_to_num(age, nan=UNKNOWN_AGE)
            skipped[row, :n] = self._events.skipped[span]
        targets = torch.from_numpy(self._targets[users])
        return Query(*map(torch.from_numpy, (items, ages, skipped)), targets, torch.from_numpy(users))


def validation_queries(data: SequenceData, *, max_length: int, batch_size: int) -> Queries:
    """Return the histories before each user's validation item."""
    has = data.held_out >= 0
    targets = np.where(has, data.events.item[data.held_out], _NO_TARGET)
    times = np.where(has, data.events.time[data.held_out], np.nan)
    ends = np.where(has, data.held_out, data.events.starts[1:])
    return Queries(data.events, targets, ends, times, max_length=max_length, batch_size=batch_size)
