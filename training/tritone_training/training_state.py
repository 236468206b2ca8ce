"""Save the state of a training after each epoch, so that it can be resumed after an interruption."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from tritone.atomic import replacing, write_atomically
from tritone_training import checkpoint
from tritone_training.exceptions import TrainingError
from tritone_training.training_logs import write_metrics

EpochMetrics = dict[str, float]
_RANDOM: Final = "tritone_random"  # key in Lightning's checkpoint


@dataclass(frozen=True)
class Snapshot:
    """How to write the best epoch so far as a checkpoint of its kind.

    Attributes:
        info: content of checkpoint.json as far as it is known before training.
        weights: the trained module -> what `checkpoint.save` takes; must be picklable for several GPUs.
    """

    kind: str
    info: Mapping[str, Any]
    weights: Callable[[Any], Mapping[str, Tensor]]

    def save(self, folder: Path, module: Any, *, n_epochs: int, monitor: str, score: float) -> None:
        """Write the checkpoint; the entry `unfinished` of its info has the number of epochs."""
        info = {
            **self.info,
            "n_epochs": n_epochs,
            "metrics": {"valid": {monitor: score}},
            "unfinished": f"best epoch so far: {n_epochs}; final metrics are not measured",
        }
        checkpoint.save(folder, kind=self.kind, info=info, weights=self.weights(module))


class StateSaver(Checkpoint):
    """Writes the state of the training, its best weights and metrics.csv at the end of each epoch.

    Attributes:
        n_epochs: complete epochs.
        best_score: value of `monitor` at the epoch that is kept.
        done: whether training is finished.
    """

    def __init__(
        self,
        path: Path,
        *,
        logs: Path,
        monitor: str,
        keep: Literal["best", "last"],
        settings: Mapping[str, Any],
        snapshot: Snapshot | None,
        on_epoch: Callable[[int, EpochMetrics], None] | None,
    ) -> None:
        super().__init__()
        self.path = path
        self.logs = logs
        self.monitor = monitor
        self.keep = keep
        self.settings = settings
        self.snapshot = snapshot
        self.on_epoch = on_epoch
        self.n_epochs = 0
        self.best_score: float | None = None
        self.best_file = ""
        self.done = False
        self.rows: list[EpochMetrics] = []

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are kept, from 1."""
        return int(self.best_file.removesuffix(".pt").rpartition("-")[2]) + 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as plain values that torch.load reads with weights_only=True."""
        return {
            "n_epochs": self.n_epochs,
            "best_score": self.best_score,
            "best_file": self.best_file,
            "done": self.done,
            "rows": json.dumps(self.rows),
            "settings": json.dumps(dict(self.settings)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of an interrupted training; `fitting` compares the settings."""
        for name in ("n_epochs", "best_score", "best_file", "done"):
            setattr(self, name, state_dict[name])
        self.rows = json.loads(state_dict["rows"])

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of the random number generators."""
        checkpoint[_RANDOM] = random_state()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save; Lightning calls this after validation and early stopping."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        score = metrics[self.monitor] if math.isfinite(metrics[self.monitor]) else math.inf
        self.n_epochs = trainer.current_epoch + 1
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": trainer.current_epoch, "learning_rate": rate, **dict(sorted(metrics.items()))}
        self.rows.append(row)
        outdated = self.best_file
        is_best = self.best_score is None or self.keep == "last" or score < self.best_score
        if is_best:
            self.best_score = score
            self.best_file = f"{self.path.stem}-best-{trainer.current_epoch}.pt"
        self.done = trainer.should_stop or self.n_epochs >= (trainer.max_epochs or 0)
        if trainer.is_global_zero:
            write_metrics(self.logs, self.rows)
            if is_best:
                self._save_best(pl_module, score)
        staged = self.path.with_name(f".{self.path.name}")
        trainer.save_checkpoint(staged)  # called by all processes, written by rank 0
        if trainer.is_global_zero:
            with replacing(self.path, sync=True) as synced:
                staged.replace(synced)
            if outdated and outdated != self.best_file:
                self.path.with_name(outdated).unlink(missing_ok=True)
            if self.on_epoch is not None:
                self.on_epoch(trainer.current_epoch, row)

    def _save_best(self, module: lightning.LightningModule, score: float) -> None:
        write_atomically(self.path.with_name(self.best_file), checkpoint.to_bytes(module.state_dict()), sync=True)
        finite = math.isfinite(score) and all(torch.isfinite(each).all() for each in module.state_dict().values())
        if self.snapshot is not None and finite:
            self.snapshot.save(
                self.path.parent / checkpoint.BEST, module, n_epochs=self.n_epochs, monitor=self.monitor, score=score
            )


def read_state(path: Path) -> Mapping[str, Any]:
    """Read what `StateSaver` wrote.

    Raises:
        TrainingError: the file is damaged.
    """
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or _RANDOM not in state:
            raise ValueError("it holds no training state")
    except Exception as error:
        raise TrainingError(
            f"{path}: expected the state of a training, got a damaged file ({str(error).splitlines()[0]}); start again "
            f"with --overwrite"
        ) from error
    return state


def saver_state(state: Mapping[str, Any], saver: StateSaver) -> dict[str, Any]:
    """Return the result of `StateSaver.state_dict` in a saved state."""
    found: dict[str, Any] = state["callbacks"][saver.state_key]
    return found


def random_state() -> dict[str, Any]:
    """Return the state of all random number generators as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore all random number generators from a saved training state."""
    saved = state[_RANDOM]
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available() and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["cuda"])
