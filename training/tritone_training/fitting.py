"""The one training loop: Lightning with progress, early stopping, the best checkpoint and logs."""

from __future__ import annotations

import logging
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tritone_training._exceptions import TrainingError
from tritone_training.data.recordings import printable
from tritone_training.epoch_progress import epoch_progress

_LARGEST_SEED: Final = 2**32 - 1  # NumPy's
# What Lightning and torch remark about small data sets and single processes, each known and intended.
_KNOWN_REMARKS = (
    r".*does not have many workers.*",  # batches are slices of memory: workers would only copy them
    r".*number of training batches.*is smaller than the logging interval.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 with torch 2.13
    r".*module\(s\) in eval mode at the start of training.*",  # frozen front ends, which folds share
    r".*`training_step` returned `None`.*",
    r".*lr_scheduler.step\(\).*before.*",
)


@dataclass(frozen=True)
class Fitted:
    """How training went.

    Attributes:
        best_weights: state dict of the module at the epoch that is kept.
        best_score: value of the monitored quantity there.
        n_epochs: epochs run.
    """

    best_weights: dict[str, torch.Tensor]
    best_score: float
    n_epochs: int


def fit(
    module: lightning.LightningModule,
    train: DataLoader[Any],
    valid: Dataset[Any],
    *,
    batch_size: int,
    out: Path,
    monitor: str,
    max_epochs: int,
    patience: int,
    devices: int,
    progress: bool,
    keep: Literal["best", "last"] = "best",
) -> Fitted:
    """Train until the monitored loss stops falling and answer the weights of the best epoch.

    The caller seeds before it builds the module (`seed_everything`). Logs of an earlier run in `out` are replaced.

    Args:
        valid: judged in its own order, whole on every device, because the module judges runs of items together.
        keep: `last` runs all epochs and keeps the end, for when `valid` is no judge because it is trained on too.
        devices: GPUs; a host without any trains on its CPU.

    Raises:
        TrainingError: training diverged, or there are fewer GPUs than asked for.
    """
    n_devices = _devices(devices)
    _require_text(out)
    logs, best_folder = out / "logs", out / "lightning"
    for old in (logs, best_folder):  # the latter only where a run was killed
        shutil.rmtree(old, ignore_errors=True)
    best = ModelCheckpoint(
        dirpath=best_folder,
        filename=keep,
        monitor=monitor if keep == "best" else None,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [_CountEpochs(), best]
    if keep == "best":
        callbacks.insert(0, EarlyStopping(monitor, patience=patience))
    if progress:
        callbacks.append(epoch_progress())
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=n_devices,
            # Spawned processes see to the fitting alone; scripts started anew would read all data again.
            strategy="ddp_spawn" if n_devices > 1 else "auto",
            sync_batchnorm=n_devices > 1,
            max_epochs=max_epochs,
            callbacks=callbacks,
            logger=[
                CSVLogger(logs, name="csv", version=""),
                TensorBoardLogger(logs, name="tensorboard", version=""),
            ],
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
        )
        in_order: DistributedSampler[Any] = DistributedSampler(valid, num_replicas=1, rank=0, shuffle=False)
        trainer.fit(module, train, DataLoader(valid, batch_size=batch_size, sampler=in_order))
        n_epochs = int(trainer.callback_metrics[_CountEpochs.NAME])
        last_score = float(trainer.callback_metrics[monitor])
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    shutil.rmtree(best_folder)  # what is kept of it goes into the checkpoint folder proper
    score = float(state["callbacks"][best.state_key]["best_model_score"]) if keep == "best" else last_score
    if not math.isfinite(score) or not all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values()):
        raise TrainingError(f"training diverged ({monitor} is {score}); lower the learning rate")
    return Fitted(state["state_dict"], score, n_epochs)


class _CountEpochs(Callback):
    """Logs how many epochs have run: unlike the trainer's own count, logged values come home from other processes."""

    NAME: Final = "n_epochs"

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        pl_module.log(self.NAME, float(trainer.current_epoch + 1), sync_dist=True)


def _require_text(out: Path) -> None:
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError as error:  # TensorBoard's writer would fail on it in the middle
        raise TrainingError(
            f"{printable(str(out))}: the path's bytes are not UTF-8, which the training logs need; choose another --out"
        ) from error


def _devices(n_wanted: int) -> int:
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus and n_wanted > n_gpus:
        raise TrainingError(f"{n_wanted} GPUs were asked for, this host has {n_gpus}; lower --devices")
    return n_wanted if n_gpus else 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    Raises:
        TrainingError: NumPy takes no such seed.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise TrainingError(f"the seed is {seed}; expected 0 to {_LARGEST_SEED}")
    with _quiet():
        lightning.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep known remarks and device banners from people who did not ask for them."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for remark in _KNOWN_REMARKS:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
