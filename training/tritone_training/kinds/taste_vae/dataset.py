"""Training and validation data of `taste_vae`: listening histories, and side information of items.

Side information (tags and metadata words) helps with items of few listeners. A user's tag is used only if the training
split contains a listen of that user to the item; otherwise it could reveal a held-out listen. Tags without a user are
always used.
Shapes: B users, L items of the longest history, T items, W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import Dataset

from tritone_training.data.interactions import ListeningData, words_of

_LEAST_ITEMS: Final = 3  # items with a word; rarer words cannot generalise


class Batch(NamedTuple):
    """Padded histories and their held-out items.

    Attributes:
        items: (B, L) int64.
        weights: (B, L), 0 for padding.
        held_out: (B, V) int64, padded with -1.
    """

    items: Tensor
    weights: Tensor
    held_out: Tensor


class Histories(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Histories of users as (items, weights, held-out items); users without history are left out.

    If `held_out` is given, users without held-out items are left out too.
    """

    def __init__(self, weights: sparse.csr_matrix, held_out: sparse.csr_matrix | None = None) -> None:
        rows = np.flatnonzero(np.diff(weights.indptr))
        if held_out is not None:
            rows = rows[np.diff(held_out.indptr)[rows] > 0]
        self._entries = [
            (
                torch.from_numpy(weights.indices[weights.indptr[u] : weights.indptr[u + 1]].astype(np.int64)),
                torch.from_numpy(weights.data[weights.indptr[u] : weights.indptr[u + 1]].astype(np.float32)),
                torch.from_numpy(
                    (
                        np.zeros(0)
                        if held_out is None
                        else held_out.indices[held_out.indptr[u] : held_out.indptr[u + 1]]
                    ).astype(np.int64)
                ),
            )
            for u in rows.tolist()
        ]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self._entries[index]


class Batches(Dataset[Batch]):
    """Batches of `size` histories, for validation."""

    def __init__(self, histories: Histories, size: int) -> None:
        self._batches = [
            collate([histories[i] for i in range(start, min(start + size, len(histories)))])
            for start in range(0, len(histories), size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index]


def collate(entries: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    """Return a batch padded to its longest entries."""

    def pad(index: int, value: float) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([e[index] for e in entries], batch_first=True, padding_value=value)

    return Batch(pad(0, 0), pad(1, 0), pad(2, -1))


def words_matrix(listening: ListeningData, items: Sequence[str]) -> sparse.csr_matrix:
    """Return the weights of words `log(1 + count) x rarity` (T, W), each row of norm 1 or 0."""
    indices = {name: index for index, name in enumerate(items)}
    log = listening.train
    consumed = {
        (log.users[u], log.items[i]) for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True)
    }  # fmt: skip
    side_info: Counter[tuple[int, str]] = Counter()
    for item, tag, user in zip(listening.tags.items, listening.tags.tags, listening.tags.users, strict=True):
        if item in indices and (not user or (user, item) in consumed):
            side_info[indices[item], tag] += 1
    for item, row in listening.metadata.items():
        if item in indices:
            side_info.update((indices[item], word) for word in words_of(row))
    n_items = Counter(word for _, word in side_info)
    columns = {word: index for index, word in enumerate(sorted(w for w, n in n_items.items() if n >= _LEAST_ITEMS))}
    entries = [(item, columns[word], n) for (item, word), n in side_info.items() if word in columns]
    counts = sparse.csr_matrix(
        (
            np.log1p(np.array([n for _, _, n in entries], np.float32)),
            (np.array([i for i, _, _ in entries], np.int64), np.array([c for _, c, _ in entries], np.int64)),
        ),
        shape=(len(items), len(columns)),
    )
    rarity = np.log(len(items) / np.maximum(counts.getnnz(axis=0), 1))
    weighted = sparse.csr_matrix(counts @ sparse.diags_array(rarity))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ weighted, dtype=np.float32)
