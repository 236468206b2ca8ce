"""Sharding of batches: all processes draw the same batches, and process r of n takes the samples r, r + n, ..."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from tritone_training.processes.reductions import rank


class ShardedBatches(Sampler[list[int]]):
    """This process's shard of each batch.

    The order of an epoch depends on the seed and the epoch alone, so that it is the same in all processes. A batch with
    fewer samples than processes is left out.

    Args:
        batches: draws the indices of whole batches with torch's random numbers.
        n_processes: number of shards of a batch.
        seed: of the training.
        n_epochs: number of epochs before the first one here, in a training that is resumed.
    """

    def __init__(self, batches: Iterable[list[int]], *, n_processes: int, seed: int, n_epochs: int = 0) -> None:
        self.batches = batches
        self.n_processes = n_processes
        self.seed = seed
        self.n_epochs = n_epochs
        self._n_batches = len(self._draw(n_epochs))

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[list[int]]:
        number, self.n_epochs = self.n_epochs, self.n_epochs + 1
        for batch in self._draw(number):
            yield batch[rank() :: self.n_processes]

    def _draw(self, epoch: int) -> list[list[int]]:
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, "batches"))
            return [batch for batch in self.batches if len(batch) >= self.n_processes]
        finally:
            torch.set_rng_state(state)


def shard_loader(loader: DataLoader[Any], *, n_processes: int, seed: int, n_epochs: int) -> DataLoader[Any]:
    """Return a loader of this process's shard of each batch; a data set that draws batches itself has to shard them.

    It draws nothing from the global random numbers, which are seeded for each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    if loader.batch_sampler is None:
        return DataLoader(loader.dataset, batch_size=None, collate_fn=loader.collate_fn, generator=generator)
    batches = ShardedBatches(loader.batch_sampler, n_processes=n_processes, seed=seed, n_epochs=n_epochs)
    return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn, generator=generator)


def seed_of(*parts: object) -> int:
    """Return a seed of 32 bits that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def seed_all(*parts: object) -> None:
    """Seed Python, NumPy and torch by `seed_of`."""
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
