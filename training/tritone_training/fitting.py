"""The training loop of all kinds: Lightning with progress, early stopping, best weights, logs and resumable state."""

from __future__ import annotations

import json
import logging
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from tritone_training import processes
from tritone_training.checkpoint import UNFINISHED
from tritone_training.data.recordings import printable
from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.processes.callbacks import SeedAndCompareWeights, trainer_options
from tritone_training.processes.sharding import seed_all
from tritone_training.progress import ProgressLines
from tritone_training.runs import differences
from tritone_training.training_logs import TENSORBOARD, epoch_logger
from tritone_training.training_state import (
    Snapshot,
    StateSaver,
    read_state,
    restore_random_state,
    saver_state,
)

_LARGEST_SEED: Final = 2**32 - 1  # NumPy's
# Warnings of Lightning and torch about small data sets and single processes that are expected.
_KNOWN_REMARKS = (
    r".*does not have many workers.*",  # batches are slices of memory: workers would only copy them
    r".*number of training batches.*is smaller than the logging interval.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 with torch 2.13
    r".*module\(s\) in eval mode at the start of training.*",  # frozen front ends, which folds share
    r".*`training_step` returned `None`.*",
    r".*lr_scheduler.step\(\).*before.*",
    r".*`broadcast_buffers` is deprecated.*",  # torch 2.9 has no other
    r".*find_unused_parameters=True was specified.*",  # whether there are any depends on the batch
    r"You are using a Python version .*",  # of Google's packages, which Lightning imports where gcsfs is installed
)


@dataclass(frozen=True)
class Fitted:
    """The result of training.

    Attributes:
        best_weights: state dict of the module at the epoch that is kept.
        best_score: value of the monitored quantity there.
        n_epochs: epochs run.
        best_epoch: the epoch that is kept, from 1.
    """

    best_weights: dict[str, torch.Tensor]
    best_score: float
    n_epochs: int
    best_epoch: int


def fit(
    module: lightning.LightningModule,
    train: DataLoader[Any],
    valid: Dataset[Any],
    *,
    request: TrainRequest,
    settings: Mapping[str, Any],
    batch_size: int,
    monitor: str,
    max_epochs: int,
    patience: int,
    keep: Literal["best", "last"] = "best",
    stage: str = "fit",
    snapshot: Snapshot | None = None,
) -> Fitted:
    """Train until the monitored loss stops falling and return the weights of the best epoch.

    The caller seeds before it builds the module (`seed_everything`). Logs of an earlier run in `request.out` are
    replaced. After each epoch the whole state is saved; with `request.resume` training continues from there, and on one
    device it ends with the same weights as without the interruption.

    With several processes (of torchrun, or one for each GPU of `request.devices`), each takes its shard of every batch.
    The losses of the module are multiplied by `processes.loss_weight`, so that the gradient is that of the whole batch.

    Args:
        train: batches of the size that `global_batch_size` returns; a data set that draws whole batches itself has to
            shard them.
        valid: evaluated in its own order, completely in every process, because the module evaluates items in groups.
        request: folder, devices (a host without GPUs trains on its CPU), progress, `resume` and MLflow.
        settings: hyper-parameters and the fingerprint of the data; a state with other settings is not resumed.
        keep: `last` runs all epochs and keeps the last one, for when `valid` is also trained on.
        stage: name of this training within the run; stages other than `fit` have their own folder of logs.
        snapshot: writes the best epoch so far as a checkpoint.

    Raises:
        TrainingError: training diverged, there are fewer GPUs than asked for, or the state to resume does not fit.
    """
    out = request.out
    group = _group()
    n_processes = processes_of(request)
    _require_text(out)
    logs = out / "logs" if stage == "fit" else out / stage / "logs"
    path = out / UNFINISHED / f"{stage}.ckpt"
    saver = StateSaver(
        path,
        logs=logs,
        monitor=monitor,
        keep=keep,
        settings={
            **settings,
            "max_epochs": max_epochs,
            "patience": patience,
            **({} if group is None else {"n_processes": n_processes}),
        },
        snapshot=snapshot,
        on_epoch=epoch_logger(request, stage),
    )
    if group is not None:
        group.require_equal(json.dumps(dict(saver.settings), default=str), f"{stage}: data and settings")
        if request.resume:
            group.broadcast_files(path.parent, _files_of(stage, path.parent))
    state = read_state(path) if request.resume and path.exists() else None
    if state is None:
        shutil.rmtree(logs, ignore_errors=True)
    else:
        found = saver_state(state, saver)
        one = {"n_processes": 1}
        different = differences({**one, **json.loads(found["settings"])}, {**one, **saver.settings})
        if different:
            raise TrainingError(
                f"{out}: cannot be resumed with other data or settings: {different}; give the same as before, or "
                f"another --out"
            )
        saver.load_state_dict(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not saver.done:
        _run(
            module, train, valid, saver, state, batch_size=batch_size, max_epochs=max_epochs, n_processes=n_processes,
            patience=patience, request=request,
        )  # fmt: skip
        if group is not None:
            group.broadcast_files(path.parent, _files_of(stage, path.parent))
            seed_all(request.seed, "after", stage)  # what follows is computed in every process
        saver.load_state_dict(saver_state(read_state(path), saver))  # other processes may have trained
    weights = torch.load(path.with_name(saver.best_file), map_location="cpu", weights_only=True)
    score = math.inf if saver.best_score is None else saver.best_score
    if not math.isfinite(score) or not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise TrainingError(f"training diverged ({monitor} is {score}); lower the learning rate")
    return Fitted(weights, score, saver.n_epochs, saver.best_epoch)


def _run(
    module: lightning.LightningModule,
    train: DataLoader[Any],
    valid: Dataset[Any],
    saver: StateSaver,
    state: Mapping[str, Any] | None,
    *,
    batch_size: int,
    max_epochs: int,
    n_processes: int,
    patience: int,
    request: TrainRequest,
) -> None:
    group = processes.current()
    callbacks: list[Callback] = [saver]
    if saver.keep == "best":
        callbacks.insert(0, EarlyStopping(saver.monitor, patience=patience))
    if request.progress:
        callbacks.append(epoch_progress())
    if group is not None or n_processes > 1:
        train = processes.shard_loader(train, n_processes=n_processes, seed=request.seed, n_epochs=saver.n_epochs)
    options: dict[str, Any] = {
        "accelerator": "auto",
        "devices": n_processes,
        # Spawned processes only fit; restarting the script in them would read all data again.
        "strategy": "ddp_spawn_find_unused_parameters_true" if n_processes > 1 else "auto",
        "sync_batchnorm": n_processes > 1,
    }
    if group is not None:
        callbacks.append(SeedAndCompareWeights(group, seed=request.seed))
        options = trainer_options(group, n_gpus=_n_gpus())
    step = None if state is None else int(state["global_step"])
    with _quiet():
        trainer = lightning.Trainer(
            **options,
            use_distributed_sampler=False,
            max_epochs=max_epochs,
            callbacks=callbacks,
            # Lets TensorBoard hide what was logged after the state that is resumed.
            logger=TensorBoardLogger(
                saver.logs, name=TENSORBOARD, version="", purge_step=step, default_hp_metric=False
            ),
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
        )
        if state is not None:
            restore_random_state(state)
        trainer.fit(
            module,
            train,
            DataLoader(valid, batch_size=batch_size),
            ckpt_path=None if state is None else saver.path,
            weights_only=None if state is None else True,
        )


def _files_of(stage: str, folder: Path) -> list[str]:
    return [each.name for each in folder.glob(f"{stage}*") if each.is_file()]


def _require_text(out: Path) -> None:
    try:
        str(out.absolute()).encode()
    except UnicodeEncodeError as error:  # TensorBoard's writer would fail on it during training
        raise TrainingError(
            f"{printable(str(out))}: the path's bytes are not UTF-8, which the training logs need; choose another --out"
        ) from error


def processes_of(request: TrainRequest) -> int:
    """Return the number of processes that train together: those of torchrun, or one for each GPU of this host.

    Raises:
        TrainingError: there are fewer GPUs than asked for, or they are asked for in a process of torchrun.
    """
    group = _group()
    if group is not None:
        if request.devices != 1:
            raise TrainingError(
                f"--devices: expected none under torchrun, got {request.devices}; set torchrun's --nproc-per-node"
            )
        return group.size
    n_gpus = _n_gpus()
    if n_gpus and request.devices > n_gpus:
        raise TrainingError(f"--devices: expected at most {n_gpus} (GPUs of this host), got {request.devices}")
    return request.devices if n_gpus else 1


def global_batch_size(request: TrainRequest, batch_size: int) -> int:
    """Return the size of the batches of all processes together.

    Args:
        request: of the training.
        batch_size: of one process.
    """
    return batch_size * processes_of(request)


def _group() -> processes.TrainingGroup | None:
    group = processes.current()
    if group is None and processes.is_launched():
        raise TrainingError("torchrun: expected `train KIND`, the only command for several processes, got another")
    return group


def _n_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    Raises:
        TrainingError: the seed is outside the range of NumPy.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise TrainingError(f"the seed is {seed}; expected 0 to {_LARGEST_SEED}")
    with _quiet():
        lightning.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress known warnings and device banners of Lightning and torch."""
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


def epoch_progress(console: Console | None = None) -> Callback:
    """Return the Lightning callback that shows epochs and batches on `console` (stderr by default)."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        return RichProgressBar(leave=False, console_kwargs={"stderr": True})
    return _EpochLines(ProgressLines(console))


class _EpochLines(Callback):
    """Prints epoch, share of the epoch and validation loss."""

    def __init__(self, lines: ProgressLines) -> None:
        self._lines = lines

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self._lines.update(lambda elapsed_s: _describe_epoch(trainer, batch_idx + 1, elapsed_s))


def _describe_epoch(trainer: lightning.Trainer, n_batches: int, elapsed_s: float) -> str:
    share = n_batches / trainer.num_training_batches
    losses = [f", {name} {float(value):.3g}" for name, value in trainer.callback_metrics.items() if "valid" in name]
    return (
        f"epoch {trainer.current_epoch + 1} of at most {trainer.max_epochs}, {share:.0%} of its batches, "
        f"{elapsed_s:.0f} s{''.join(losses[:1])}"
    )
