"""Trains several models in each process that torchrun starts, without chance, and writes what the tests compare.

    torchrun --nproc-per-node 2 process_training.py SPECIFICATION.json

The specification has, for each training, its kind, the arguments of `tritone_training.train`, and the factor of the
batches that no option sets; and the folder for the results: for each process, the digests of its weights after each
epoch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tritone_training import train
from tritone_training.kinds.music_vae import train as vae_training
from tritone_training.processes.callbacks import SeedAndCompareWeights, weights_digest


def without_chance() -> None:
    """Replace the random numbers of a training step by values that depend on the sample alone."""

    def half(*size: Any, device: Any = None, **_: Any) -> Tensor:
        return torch.full(size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size, 0.5, device=device)

    randint = torch.randint

    def middle(*arguments: Any, device: Any = None, **options: Any) -> Tensor:
        if "generator" in options:  # of a sampler, which is the same in all processes
            return randint(*arguments, **options)
        *bounds, size = arguments
        low, high = bounds if len(bounds) == 2 else (0, bounds[0])
        return torch.full(size, (low + high) // 2, dtype=torch.int64, device=device)

    torch.rand = half
    torch.randint = middle
    torch.rand_like = lambda values, **_: (values.double() * 1234.5678 % 1).float()
    torch.randn_like = lambda values, **_: torch.zeros_like(values)


def main() -> None:
    """Train by the specification."""
    specification = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    digests: dict[str, list[str]] = {}
    number = 0
    compare = SeedAndCompareWeights.on_train_epoch_end

    def record(self: SeedAndCompareWeights, trainer: Any, module: Any) -> None:
        digests[name].append(weights_digest(module))
        compare(self, trainer, module)
        nonlocal number
        number = self.group.rank

    SeedAndCompareWeights.on_train_epoch_end = record  # type: ignore[method-assign]
    without_chance()
    prior_batch = vae_training._PRIOR_BATCH
    for name, each in specification["trainings"].items():
        digests[name] = []
        vae_training._PRIOR_BATCH = prior_batch * each["factor"]  # type: ignore[misc] # the only one that no option sets
        train(each["kind"], **each["arguments"], progress=False)
    Path(specification["folder"], f"digests-{number}.json").write_text(json.dumps(digests))


if __name__ == "__main__":
    main()
