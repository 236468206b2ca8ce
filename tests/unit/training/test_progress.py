"""Progress output: a line per interval in logs, nothing when it is off."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from tritone_training import fitting, progress
from tritone_training.kind import TrainRequest


def _log() -> Console:
    """A console that is not a terminal, 200 columns wide."""
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Clock:
    """Seconds that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_line_per_interval() -> None:
    console, clock = _log(), Clock()
    lines = progress.ProgressLines(console, interval_s=10, clock=clock)
    for _ in range(60):
        clock.now_s += 1
        lines.update(lambda elapsed_s: f"[b]{elapsed_s:.0f}")
    seconds = [int(line.removeprefix("[b]")) for line in _text(console).splitlines()]
    assert seconds == [10, 20, 30, 40, 50, 60]
    assert {later - earlier for earlier, later in pairwise(seconds)} == {10}


def test_a_loop_reports_count_and_time_left_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = _log(), Clock()
    monkeypatch.setattr(progress, "ProgressLines", lambda console: REAL(console, clock=clock))
    with progress.progress_bar("rendering", shown=True, console=console) as on_progress:
        for done in range(1, 5):
            clock.now_s += 6
            on_progress(done, 4)
    assert _text(console).splitlines() == [
        "rendering: 2 of 4, 12 s, about 12 s left",
        "rendering: 4 of 4, 24 s, about 0 s left",
    ]


def test_no_time_left_is_estimated_from_the_first_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = _log(), Clock()
    monkeypatch.setattr(progress, "ProgressLines", lambda console: REAL(console, clock=clock))
    with progress.progress_bar("reading pieces", shown=True, console=console) as on_progress:
        for done, now_s in ((1, 115), (100, 130)):
            clock.now_s = now_s
            on_progress(done, 800)
    assert _text(console).splitlines() == [
        "reading pieces: 1 of 800, 15 s",
        "reading pieces: 100 of 800, 30 s, about 210 s left",
    ]


REAL = progress.ProgressLines


def test_nothing_is_printed_when_progress_is_off() -> None:
    console = _log()
    with progress.progress_bar("rendering", shown=False, console=console) as on_progress:
        on_progress(1, 2)
    assert _text(console) == ""


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with progress.progress_bar("rendering", shown=True, console=console) as on_progress:
        on_progress(1, 2)
    assert "1/2" in _text(console)


def test_a_training_reports_epochs_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = _log(), Clock()
    monkeypatch.setattr(fitting, "ProgressLines", lambda console: REAL(console, clock=clock))
    callback = fitting.epoch_progress(console)
    trainer: Any = SimpleNamespace(
        is_global_zero=True,
        num_training_batches=8,
        current_epoch=2,
        max_epochs=20,
        callback_metrics={"train_loss": 3.0, "valid_loss": 1.25},
    )
    module: Any = None
    for batch in range(8):
        clock.now_s += 3
        callback.on_train_batch_end(trainer, module, None, None, batch)
    assert _text(console).splitlines() == [
        "epoch 3 of at most 20, 50% of its batches, 12 s, valid_loss 1.25",
        "epoch 3 of at most 20, 100% of its batches, 24 s, valid_loss 1.25",
    ]


def test_a_training_with_progress_in_a_log_prints_nothing_on_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lightning adds a bar of its own, which goes to stdout, where none is given and bars are on."""
    random = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.rand(8, 2, generator=random))
    fitting.fit(
        Line(),
        DataLoader(rows, batch_size=4),
        rows,
        request=TrainRequest(out=tmp_path, progress=True),
        settings={},
        batch_size=4,
        monitor="valid_loss",
        max_epochs=2,
        patience=2,
    )
    assert capfd.readouterr().out == ""


class Line(lightning.LightningModule):
    """The smallest module that can be fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return torch.as_tensor(self.linear(batch[0]).square().mean())

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("valid_loss", self.training_step(batch, index))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)
