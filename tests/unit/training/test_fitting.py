"""The loop alone, with a module whose losses are laid down."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tritone_training import TrainingError, TrainRequest, fitting


class Scripted(lightning.LightningModule):
    """Its one weight counts the epochs; its validation loss is read from a list."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses
        self.n_epochs = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[float] = []

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if index == 0:
            self.n_epochs.data += 1
        return (self.n_epochs * 0).sum()

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        self.seen.extend(batch[0][:, 0].tolist())
        self.log("loss", self.losses[min(self.current_epoch, len(self.losses) - 1)])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    module: Scripted,
    out: Path,
    *,
    max_epochs: int = 30,
    patience: int = 3,
    devices: int = 1,
    keep: Literal["best", "last"] = "best",
    resume: bool = False,
) -> fitting.Fitted:
    data = TensorDataset(torch.arange(5.0)[:, None])
    return fitting.fit(
        module,
        DataLoader(data, batch_size=2),
        data,
        request=TrainRequest(out, devices=devices, progress=False, resume=resume),
        settings={},
        batch_size=2,
        monitor="loss",
        max_epochs=max_epochs,
        patience=patience,
        keep=keep,
    )


def test_the_best_epochs_weights_are_kept_and_it_stops_after_patience(tmp_path: Path) -> None:
    fitted = fit(Scripted([5, 3, 4, 2, 6, 6, 6, 6, 6, 6]), tmp_path, patience=3)
    assert fitted.best_score == 2
    assert fitted.best_weights["n_epochs"].item() == 4
    assert fitted.n_epochs == 7


def test_it_ends_at_max_epochs_while_it_still_improves(tmp_path: Path) -> None:
    fitted = fit(Scripted([5.0 - i for i in range(4)]), tmp_path, max_epochs=4)
    assert (fitted.n_epochs, fitted.best_weights["n_epochs"].item()) == (4, 4)


def test_the_last_epoch_is_kept_if_validation_does_not_select(tmp_path: Path) -> None:
    fitted = fit(Scripted([1, 5, 5, 5, 5, 5]), tmp_path, patience=2, max_epochs=6, keep="last")
    assert (fitted.n_epochs, fitted.best_weights["n_epochs"].item(), fitted.best_score) == (6, 6, 5)


def test_validation_sees_every_item_once_an_epoch_in_order(tmp_path: Path) -> None:
    module = Scripted([1.0])
    fit(module, tmp_path, max_epochs=2)
    assert module.seen == [0, 1, 2, 3, 4] * 2


def test_a_loss_that_is_not_finite_is_said_to_diverge(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training diverged"):
        fit(Scripted([float("nan")]), tmp_path)


def test_only_the_logs_and_the_state_are_left(tmp_path: Path) -> None:
    fit(Scripted([3.0, 1.0, 2.0]), tmp_path, max_epochs=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "unfinished"]
    assert sorted(p.name for p in (tmp_path / "unfinished").iterdir()) == ["fit-best-1.pt", "fit.ckpt"]


class Killed(BaseException):
    pass


class KilledIn(Scripted):
    """Is killed in the middle of an epoch."""

    def __init__(self, losses: list[float], epoch: int) -> None:
        super().__init__(losses)
        self.killed_in = epoch

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if self.current_epoch == self.killed_in and index == 1:
            raise Killed
        return super().training_step(batch, index)


@pytest.mark.parametrize("epoch", [1, 4, 6])
def test_patience_and_the_best_epoch_outlive_an_interruption(epoch: int, tmp_path: Path) -> None:
    losses = [5.0, 3, 4, 2, 6, 6, 6, 1, 1, 1]
    with pytest.raises(Killed):
        fit(KilledIn(losses, epoch), tmp_path, patience=3)
    fitted = fit(Scripted(losses), tmp_path, patience=3, resume=True)
    assert (fitted.best_score, fitted.n_epochs) == (2, 7)
    assert fitted.best_weights["n_epochs"].item() == 4
    with (tmp_path / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(7))
    assert [float(row["loss"]) for row in rows] == losses[:7]


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(KilledIn([5.0] * 9, 2), tmp_path, patience=3)
    with pytest.raises(TrainingError, match=r"other data or settings: patience was 3, is now 5"):
        fit(Scripted([5.0] * 9), tmp_path, patience=5, resume=True)


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match=r"--devices: expected at most 2 \(GPUs of this host\), got 3"):
        fit(Scripted([1.0]), tmp_path, devices=3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has GPUs")
def test_a_host_without_gpus_trains_on_its_cpu_whatever_is_asked(tmp_path: Path) -> None:
    assert fit(Scripted([1.0]), tmp_path, max_epochs=1, devices=4).n_epochs == 1


def test_an_out_folder_that_the_logs_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not UTF-8"):
        fit(Scripted([1.0]), tmp_path / "\udcff")
