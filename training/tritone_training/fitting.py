"""The one training loop: Lightning with progress, early stopping, the best checkpoint and logs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

# What Lightning and torch remark about small data sets and single processes, each known and intended.
_KNOWN_REMARKS = (
    r".*does not have many workers.*",  # batches are slices of memory: workers would only copy them
    r".*number of training batches.*is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # training again into the same --out
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 with torch 2.13
    r".*`training_step` returned `None`.*",
    r".*lr_scheduler.step\(\).*before.*",
)


@dataclass(frozen=True)
class Fitted:
    """How training went.

    Attributes:
        best_weights: state dict of the module at its best epoch.
        best_score: value of the monitored quantity there.
        n_epochs: epochs run.
    """

    best_weights: dict[str, torch.Tensor]
    best_score: float
    n_epochs: int


def fit(
    module: lightning.LightningModule,
    train: DataLoader[object],
    valid: DataLoader[object],
    *,
    out: Path,
    monitor: str,
    max_epochs: int,
    patience: int,
    devices: int,
    progress: bool,
) -> Fitted:
    """Train until the monitored loss stops falling and answer the weights of the best epoch.

    The caller seeds before it builds the module (`seed_everything`).
    """
    logs = out / "logs"
    best = ModelCheckpoint(dirpath=out / "lightning", filename="best", monitor=monitor, enable_version_counter=False)
    callbacks: list[Callback] = [EarlyStopping(monitor, patience=patience), best]
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    with _quiet():
        trainer = lightning.Trainer(
            accelerator="auto",
            devices=devices,
            max_epochs=max_epochs,
            callbacks=callbacks,
            logger=[
                CSVLogger(logs, name="csv", version=""),
                TensorBoardLogger(logs, name="tensorboard", version=""),
            ],
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
        )
        trainer.fit(module, train, valid)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    Path(best.best_model_path).unlink()  # what is kept of it goes into the checkpoint folder proper
    (out / "lightning").rmdir()
    score = best.best_model_score
    return Fitted(state["state_dict"], float(score) if score is not None else float("nan"), trainer.current_epoch)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
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
