"""Progress of a training: a bar on a terminal, a line every ten seconds in logs."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from tritone_training.progress import ProgressLines


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
            self._lines.update(lambda elapsed_s: _describe(trainer, batch_idx + 1, elapsed_s))


def _describe(trainer: lightning.Trainer, n_batches: int, elapsed_s: float) -> str:
    share = n_batches / trainer.num_training_batches
    losses = [f", {name} {float(value):.3g}" for name, value in trainer.callback_metrics.items() if "valid" in name]
    return (
        f"epoch {trainer.current_epoch + 1} of at most {trainer.max_epochs}, {share:.0%} of its batches, "
        f"{elapsed_s:.0f} s{''.join(losses[:1])}"
    )
