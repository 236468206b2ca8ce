"""Interrupted trainings: they continue as if nothing had happened, leave their best epoch, and are never mixed up."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tritone_training import checkpoint, training_state
from tritone_training.api import ListeningFiles, TrainRequest, get_kind


class InterruptedTraining(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of eight bars: a walking melody over held chords, in the form of JSB-style JSON."""
    random = np.random.default_rng(0)

    def piece() -> list[list[int]]:
        root = int(random.integers(48, 60))
        return [[root, root + 7, root + 12 + int(random.integers(0, 8))] for _ in range(8 * 16)]

    path = tmp_path_factory.mktemp("scores") / "Tiny16thSeparated.json"
    path.write_text(json.dumps({"train": [piece() for _ in range(8)], "valid": [piece() for _ in range(4)]}))
    return path


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 40 users in two groups with a taste each."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("log") / "plays.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "plays"])
        for user in range(40):
            for item in sorted(random.choice(20, 9, replace=False)):
                writer.writerow([f"u{user}", f"i{item + 20 * (user % 2)}", int(random.integers(1, 9))])
    return path


@pytest.fixture
def request_for(folders: Path, scores: Path, listening: Path) -> Callable[..., TrainRequest]:
    """A short training of a kind on little data."""

    def make(kind: str, out: Path, **changes: Any) -> TrainRequest:
        settings: dict[str, dict[str, Any]] = {
            "genre_cnn": {"refit": True, "average_from": 0.3, "batch_size": 8},
            "music_gan": {"steps_per_epoch": 3, "pool_size": 64, "batch_size": 8, "n_judged": 64},
            "music_vae": {"spans_per_epoch": 64},
        }
        known: dict[str, Any] = {"out": out, "preset": "tiny", "max_epochs": 4, "seed": 3, "progress": False}
        known["overrides"] = settings.get(kind, {})
        if kind in ("taste_vae", "recommender"):
            known["listening"] = ListeningFiles(interactions=listening)
        else:
            known["data"] = folders if kind == "genre_cnn" else scores
        return TrainRequest(**{**known, **changes})

    return make


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the next training end abruptly after so many epochs of a stage, its state of that epoch saved."""

    def arrange(n_epochs: int, *, stage: str = "fit") -> None:
        save = training_state.StateSaver.on_train_epoch_end

        def save_then_stop(self: Any, trainer: Any, module: Any) -> None:
            save(self, trainer, module)
            if self.path.stem == stage and self.n_epochs == n_epochs:
                monkeypatch.setattr(training_state.StateSaver, "on_train_epoch_end", save)
                raise InterruptedTraining

        monkeypatch.setattr(training_state.StateSaver, "on_train_epoch_end", save_then_stop)

    return arrange


def weights_of(folder: Path, kind: str) -> Mapping[str, torch.Tensor]:
    return checkpoint.load(folder, kind=kind).weights


def assert_equal_weights(one: Path, other: Path, kind: str) -> None:
    first, second = weights_of(one, kind), weights_of(other, kind)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


NETWORKS = ("genre_cnn", "polyphony_rnn", "music_transformer", "music_vae", "music_gan", "taste_vae")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one(
    name: str, request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind(name)
    whole = dict(kind.train(request_for(name, tmp_path / "whole" / "run")))
    out = tmp_path / "parts" / "run"
    if name == "music_gan":  # with the same autoencoder; its own interruption is another test
        shutil.copytree(tmp_path / "whole" / "run" / "music_vae", out / "music_vae")
    interrupt_after(2)
    with pytest.raises(InterruptedTraining):
        kind.train(request_for(name, out))
    assert not (out / "checkpoint.json").exists()
    torch.manual_seed(99)  # another process begins with other random numbers
    np.random.seed(99)
    resumed = dict(kind.train(request_for(name, out, resume=True)))
    assert_equal_weights(tmp_path / "whole" / "run", out, name)
    assert resumed["n_epochs"] == whole["n_epochs"]
    assert resumed["metrics"] == whole["metrics"]
    for logs in ("logs", "refit/logs"):
        tables = [tmp_path / part / "run" / logs / "metrics.csv" for part in ("whole", "parts")]
        assert tables[0].exists() == tables[1].exists()
        if tables[0].exists():
            assert tables[0].read_text() == tables[1].read_text()
    assert not (out / "unfinished").exists()


def test_the_second_training_of_genre_cnn_is_resumed_too(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind("genre_cnn")
    kind.train(request_for("genre_cnn", tmp_path / "whole"))
    interrupt_after(1, stage="refit")
    with pytest.raises(InterruptedTraining):
        kind.train(request_for("genre_cnn", tmp_path / "parts"))
    kind.train(request_for("genre_cnn", tmp_path / "parts", resume=True))
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts", "genre_cnn")
