"""Batches of `taste_sequence`: histories for training, and histories as they are sent to the served network.

Shapes: B histories, L events of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tritone_training.kinds.taste_sequence.declaration import PADDING, UNKNOWN_AGE
from tritone_training.kinds.taste_sequence.sequence_data import NO_TARGET, EventArrays, Floats, Ints, SequenceData

_LENGTH_NOISE: Final = 10  # events by which lengths in a batch differ at random, so that batches differ between epochs
_MEAN_EVENTS: Final = 60  # a batch has at most `batch_size` times as many events, padding included


class TrainingBatch(NamedTuple):
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


class TrainingHistories(Dataset[tuple[Tensor, ...]]):
    """Histories for training; a long one gives several, drawn from it at random each time.

    The random numbers are torch's.
    """

    def __init__(self, events: EventArrays, max_length: int) -> None:
        self.max_length = max_length
        targets = events.targets()
        following = np.append(events.item[1:], 0)
        is_followed = np.append(events.skipped[1:], False)
        is_followed[events.starts[1:][events.starts[1:] > 0] - 1] = False  # the next event is of another user
        gaps = np.append(np.diff(events.time), np.nan)
        self._item = torch.from_numpy(events.item)
        self._gap = torch.from_numpy(np.nan_to_num(gaps, nan=UNKNOWN_AGE).astype(np.float32))
        self._skipped = torch.from_numpy(events.skipped.astype(np.float32))
        self._target = torch.from_numpy(np.where(targets >= 0, events.item[targets], NO_TARGET))
        self._avoided = torch.from_numpy(np.where(is_followed, following, NO_TARGET))
        useful = (self._target.numpy() >= 0) | (self._avoided.numpy() >= 0)
        spans = []
        for start, end in events.spans():
            useful_indices = np.flatnonzero(useful[start:end])
            if len(useful_indices):
                spans.append((start, start + int(useful_indices[-1]) + 1))
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


def collate(entries: Sequence[tuple[Tensor, ...]]) -> TrainingBatch:
    """Return a batch padded on the right to its longest history."""
    values = (PADDING, UNKNOWN_AGE, 0, NO_TARGET, NO_TARGET)
    return TrainingBatch(
        *(
            torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value)
            for parts, value in zip(zip(*entries, strict=True), values, strict=True)
        )
    )


class EvaluationBatch(NamedTuple):
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


class EvaluationBatches(Dataset[EvaluationBatch]):
    """Batches of histories before a target, sorted by length; every user with a target is in one of them.

    Args:
        events: histories; those at and after the target are not used.
        targets: (U,) item to predict, -1 for none.
        ends: (U,) index of the event at which each history ends.
        times: (U,) time of the request, NaN if unknown; then that of the last event is used.
        max_length: latest events of a history that are used.
        batch_size: histories in a batch.
    """

    def __init__(
        self, events: EventArrays, targets: Ints, ends: Ints, times: Floats, *, max_length: int, batch_size: int
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

    def __getitem__(self, index: int) -> EvaluationBatch:
        users = self._users[index]
        longest = max(1, int((self._ends - self._starts)[users].max()))
        items = np.full((len(users), longest), PADDING, np.int64)
        ages = np.full((len(users), longest), UNKNOWN_AGE, np.float32)
        skipped = np.zeros((len(users), longest), np.float32)
        for row, user in enumerate(users.tolist()):
            span = slice(int(self._starts[user]), int(self._ends[user]))
            n = span.stop - span.start
            items[row, :n] = self._events.item[span]
            now = self._times[user] if n == 0 or np.isfinite(self._times[user]) else self._events.time[span.stop - 1]
            age = np.maximum(now - self._events.time[span], 0)
            ages[row, :n] = np.nan_to_num(age, nan=UNKNOWN_AGE)
            skipped[row, :n] = self._events.skipped[span]
        return EvaluationBatch(
            items=torch.from_numpy(items),
            ages=torch.from_numpy(ages),
            skipped=torch.from_numpy(skipped),
            targets=torch.from_numpy(self._targets[users]),
            users=torch.from_numpy(users),
        )


def validation_batches(data: SequenceData, *, max_length: int, batch_size: int) -> EvaluationBatches:
    """Return the histories before each user's validation item."""
    has = data.held_out >= 0
    targets = np.where(has, data.events.item[data.held_out], NO_TARGET)
    times = np.where(has, data.events.time[data.held_out], np.nan)
    ends = np.where(has, data.held_out, data.events.starts[1:])
    return EvaluationBatches(data.events, targets, ends, times, max_length=max_length, batch_size=batch_size)
