"""Training and validation data of `taste_vae`: listening histories.

Shapes: B users, L items of the longest history, T items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import Dataset


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
