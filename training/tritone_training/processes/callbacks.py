"""Lightning callback and Trainer options for training in several processes."""

from __future__ import annotations

import hashlib
import signal
from datetime import timedelta
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from tritone_training.exceptions import TrainingError
from tritone_training.processes.batch_norm import SyncBatchNormPlugin
from tritone_training.processes.group import TrainingGroup
from tritone_training.processes.sharding import seed_all


class SeedAndCompareWeights(Callback):
    """Gives each process random numbers of its own, and checks after each epoch that all have the same weights.

    The random numbers of an epoch depend on the seed, the epoch and the process only, so that a resumed training equals
    an uninterrupted one.
    """

    def __init__(self, group: TrainingGroup, *, seed: int) -> None:
        self.group = group
        self.seed = seed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let torchrun end the process at once: Lightning's handler would wait for a process that has ended."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Seed dropout, augmentation and sampling."""
        seed_all(self.seed, trainer.current_epoch, self.group.rank)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the weights before they are saved.

        Raises:
            TrainingError: they differ.
        """
        self.group.require_equal(weights_digest(pl_module), f"weights after epoch {trainer.current_epoch + 1}")


def weights_digest(module: torch.nn.Module) -> str:
    """Return the SHA-256 digest of all parameters and saved buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def trainer_options(group: TrainingGroup, *, n_gpus: int) -> dict[str, Any]:
    """Return the options of Lightning's Trainer for the processes of torchrun.

    Raises:
        TrainingError: this host has more processes than GPUs.
    """
    if 0 < n_gpus < group.local_size:
        raise TrainingError(
            f"--nproc-per-node: expected at most {n_gpus}, the number of GPUs of this host, got {group.local_size}; "
            f"lower it, or train on CPUs with CUDA_VISIBLE_DEVICES=''"
        )
    timeout = timedelta(seconds=group.timeout_s)
    strategy = DDPStrategy(
        process_group_backend="nccl" if n_gpus else "gloo",
        timeout=timeout,
        # Heads without a label in a shard of the batch have no gradient there.
        find_unused_parameters=True,
        broadcast_buffers=False,  # they are equal already: statistics are those of all processes
    )
    options: dict[str, Any] = {
        "accelerator": "gpu" if n_gpus else "cpu",
        "devices": group.local_size,
        "num_nodes": group.n_hosts,
        "strategy": strategy,
    }
    if n_gpus:
        return {**options, "sync_batchnorm": group.size > 1}
    return {**options, "plugins": [SyncBatchNormPlugin(timeout)] if group.size > 1 else []}
