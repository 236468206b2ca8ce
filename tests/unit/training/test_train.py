from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training import sounds
from tests.unit.training.conftest import N_EACH, Trained

from tritone.constants import EMOTIONS
from tritone_training import DataError, TrainingError, checkpoint
from tritone_training.kind import ModelKind, TrainRequest
from tritone_training.kinds.genre_cnn import train as train_module
from tritone_training.kinds.genre_cnn.dataset import CropDataset
from tritone_training.kinds.genre_cnn.network import load_network


def saved(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(folder, kind="genre_cnn")


@pytest.fixture(scope="module")
def train(kind: ModelKind, folders: Path) -> Callable[..., dict[str, Any]]:
    """Train tiny for one epoch; the folder without artists or emotions is read once."""
    base = TrainRequest(out=Path("unused"), data=folders, preset="tiny", max_epochs=1, progress=False)
    fit = kind.prepare(base)

    def run(out: Path, **changes: Any) -> dict[str, Any]:
        return dict(fit(replace(base, out=out, **changes)))

    return run


# --- it learns ----------------------------------------------------------------------------------------------


def test_it_learns_labels_of_unseen_artists(trained: Trained) -> None:
    metrics = trained.summary["metrics"]
    assert metrics["test"]["n"] == 8
    assert metrics["test"]["accuracy"] >= 0.9  # chance is 0.5
    assert metrics["valid"]["accuracy"] >= 0.75


def test_it_learns_emotions_where_there_are_columns(trained: Trained) -> None:
    info = saved(trained.folder).info
    assert info["emotions_trained"] is True
    assert trained.summary["metrics"]["test"]["emotion_correlation_mean"] is not None
    network, _ = load_network(trained.folder)
    sound = {name: torch.from_numpy(make(99)[None, :66_150]) for name, make in sounds.SOUNDS.items()}
    calm = EMOTIONS.index("calmness")
    with torch.inference_mode():
        felt = {name: network(audio)[1][0, calm].item() for name, audio in sound.items()}
    assert felt["hum"] > felt["hiss"] + 0.1


def test_the_checkpoint_records_data_settings_and_metrics(trained: Trained) -> None:
    info = saved(trained.folder).info
    assert info["labels"] == ["hiss", "hum"]
    assert (info["command"], info["seed"], info["preset"], info["fold"], info["n_folds"]) == (
        "tritone train",
        0,
        "tiny",
        0,
        4,
    )
    assert info["config"]["crops_per_recording"] == 3
    assert info["data"]["n_in"] == info["data"]["n_used"] == 2 * N_EACH
    assert info["data"]["n_artists"] == N_EACH
    assert info["data"]["folds"].startswith("artist-disjoint")
    assert len(info["data"]["fingerprint"]) == 64
    assert info["metrics"] == trained.summary["metrics"]
    assert all(torch.isfinite(tensor).all() for tensor in saved(trained.folder).weights.values())
    json.dumps(trained.summary, allow_nan=False)


def test_the_parts_are_disjoint_by_artist_and_complete(trained: Trained) -> None:
    splits = saved(trained.folder).info["splits"]
    names = [name for part in splits.values() for name in part]
    assert sorted(names) == sorted(f"{label}/{i}.wav" for label in sounds.SOUNDS for i in range(N_EACH))

    def artists(part: str) -> set[tuple[str, int]]:
        return {(name.split("/")[0], int(name.split("/")[1].removesuffix(".wav")) // 2) for name in splits[part]}

    assert not artists("train") & artists("valid")
    assert not artists("train") & artists("test")
    assert not artists("valid") & artists("test")


def test_refitting_learns_from_the_validation_part_too(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned_from: list[int] = []

    class Counted(CropDataset):
        def __init__(self, recordings: Any, *rest: Any, **options: Any) -> None:
            super().__init__(recordings, *rest, **options)
            learned_from.append(len(recordings))

    monkeypatch.setattr(train_module, "CropDataset", Counted)
    train(tmp_path, overrides={"refit": True})
    splits = saved(tmp_path).info["splits"]
    assert learned_from == [len(splits["train"]), len(splits["train"]) + len(splits["valid"])]
    assert (tmp_path / "refit" / "logs" / "metrics.csv").is_file()


def test_logs_are_written_for_people_and_tools(trained: Trained) -> None:
    with (trained.folder / "logs" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["valid_loss"]) for row in rows]
    assert [int(row["epoch"]) for row in rows] == list(range(trained.summary["n_epochs"]))
    assert all(value for row in rows for value in row.values()), "training and validation share a row"
    assert losses[-1] < losses[0]
    assert {"train_loss", "valid_accuracy", "epoch"} <= set(rows[0])
    events = list((trained.folder / "logs" / "tensorboard").glob("events.out.tfevents.*"))
    assert events
    assert events[0].stat().st_size > 200
    assert sorted(p.name for p in trained.folder.iterdir())[:2] == ["checkpoint.json", "logs"]
    assert len(list(trained.folder.iterdir())) == 3  # nothing of Lightning's own is left


# --- reproducible -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_others(train: Callable[..., Any], tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train(tmp_path / name, seed=seed)
    a, b, c = (saved(tmp_path / name) for name in "abc")
    assert a.info["splits"] == b.info["splits"]
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert not all(torch.equal(a.weights[name], c.weights[name]) for name in a.weights)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take(train: Callable[..., Any], tmp_path: Path, seed: int) -> None:
    with pytest.raises(TrainingError):
        train(tmp_path, seed=seed)


# --- stopping, overriding, repeating ------------------------------------------------------------------------


def test_overrides_and_max_epochs_are_followed_and_recorded(train: Callable[..., Any], tmp_path: Path) -> None:
    summary = train(tmp_path, max_epochs=2, overrides={"width": 3, "patience": 9})
    info = saved(tmp_path).info
    assert (summary["n_epochs"], info["n_epochs"], info["config"]["max_epochs"], info["config"]["width"]) == (
        2,
        2,
        2,
        3,
    )
    assert saved(tmp_path).weights["body.convolutions.0.weight"].shape[0] == 3
    load_network(tmp_path)


def test_data_without_emotions_is_recorded(train: Callable[..., Any], tmp_path: Path, kind: ModelKind) -> None:
    summary = train(tmp_path)
    assert summary["emotions_trained"] is False
    assert "emotion_correlation_mean" not in summary["metrics"]["test"]
    exportable = kind.export(tmp_path)
    assert exportable.metadata["emotions_trained"] == "false"
    with torch.inference_mode():
        assert (exportable.network(torch.zeros(1, 66_150))[1] == -1).all()


def test_emotions_known_only_of_held_out_recordings_train_nothing(
    kind: ModelKind, folders: Path, tmp_path: Path
) -> None:
    rows = sounds.full_rows(folders, n_each=4)
    for index, row in enumerate(rows):
        row["path"] = str(folders / str(row["path"]))
        row["fold"] = index % 2
        row["artist"] = index
        if row["fold"] == 1:
            row.update({f"emotion_{name}": "" for name in EMOTIONS})
    manifest = sounds.write_manifest(tmp_path / "m.csv", rows)
    request = TrainRequest(out=tmp_path / "run", data=manifest, preset="tiny", max_epochs=1, fold=0, progress=False)
    assert kind.train(request).to_dict()["emotions_trained"] is False
    assert kind.train(replace(request, fold=1, overwrite=True)).to_dict()["emotions_trained"] is True


def test_training_again_replaces_checkpoint_and_logs(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path, seed=1)
    before = saved(tmp_path)
    train(tmp_path, seed=2)
    after = saved(tmp_path)
    assert after.info["seed"] == 2
    assert before.info["weights"] != after.info["weights"]
    assert len(list(tmp_path.glob("weights-*.pt"))) == 1
    assert len(list((tmp_path / "logs" / "tensorboard").glob("events*"))) == 1
    assert not (tmp_path / "unfinished").exists()


def test_a_diverged_run_is_an_error_and_keeps_the_old_checkpoint(train: Callable[..., Any], tmp_path: Path) -> None:
    train(tmp_path, seed=1)
    with pytest.raises(TrainingError):
        train(tmp_path, seed=2, max_epochs=3, overrides={"learning_rate": 1e30})
    assert saved(tmp_path).info["seed"] == 1


_TRAIN = """
    import sys
    from pathlib import Path
    from tritone_training.kind import TrainRequest
    from tritone_training.registry import get_kind

    overrides = {"patience": 9999, "batch_size": 2}
    get_kind("genre_cnn").train(
        TrainRequest(
            out=Path(sys.argv[1]), data=Path(sys.argv[2]), preset="tiny", seed=9, max_epochs=9999, overrides=overrides,
            progress=False, overwrite=True,
        )
    )
"""


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_the_old_checkpoint(
    train: Callable[..., Any], folders: Path, tmp_path: Path
) -> None:
    train(tmp_path, seed=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_TRAIN), str(tmp_path), str(folders)], env=environment
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "unfinished" / "fit.ckpt").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (tmp_path / "unfinished" / "fit.ckpt").is_file()
    finally:
        process.kill()
        process.wait()
    assert saved(tmp_path).info["seed"] == 1
    load_network(tmp_path)
    train(tmp_path, seed=3)
    assert saved(tmp_path).info["seed"] == 3
    assert not (tmp_path / "unfinished").exists()


# --- data that are not all good -----------------------------------------------------------------------------


def test_bad_recordings_are_reported_and_the_rest_is_trained_on(kind: ModelKind, tmp_path: Path) -> None:
    data = sounds.write_folders(tmp_path / "data", n_each=6)
    (data / "hum" / "broken.wav").write_text("no audio")
    sounds.write(data / "hiss" / "silent.wav", np.zeros(66_150, np.float32))
    sounds.write(data / "hiss" / "again.wav", sounds.hiss(0))
    (data / "hum" / "cover.jpg").touch()
    summary = kind.train(
        TrainRequest(out=tmp_path / "run", data=data, preset="tiny", max_epochs=1, progress=False)
    ).to_dict()
    report = summary["data"]
    assert (report["n_in"], report["n_used"]) == (16, 12)
    # "0.wav" comes first, so the later name is the copy.
    assert {p["path"]: p["reason"] for p in report["problems"]} == {
        "hum/broken.wav": "unreadable",
        "hiss/silent.wav": "silent",
        "hiss/again.wav": "duplicate",
        "hum/cover.jpg": "not_audio",
    }
    assert report == {key: value for key, value in saved(tmp_path / "run").info["data"].items() if key != "fingerprint"}


def test_one_label_or_too_few_recordings_are_clear_errors(kind: ModelKind, tmp_path: Path) -> None:
    sounds.write(tmp_path / "one" / "hum" / "a.wav", sounds.hum(0))
    few = sounds.write_folders(tmp_path / "few", n_each=3)
    broken = sounds.write_folders(tmp_path / "broken", n_each=4)
    for path in (broken / "hum").iterdir():
        path.write_text("no audio")
    for data, message in (
        (tmp_path / "one", "usable recordings of at least two labels are needed, found hum"),
        (few, "label 'hiss' has 3 artists or single recordings; 4 folds .* need at least 4"),
        (broken, "at least two labels are needed, found hiss; the first problem: .*hum/0.wav"),
    ):
        with pytest.raises(DataError, match=message):
            kind.train(TrainRequest(out=tmp_path / "run", data=data, preset="tiny", progress=False))
    assert not (tmp_path / "run").exists()


def test_a_fold_that_is_not_there(train: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tmp_path, fold=7)


def test_a_label_that_only_the_held_out_fold_has(kind: ModelKind, folders: Path, tmp_path: Path) -> None:
    rows = [
        {"path": folders / label / f"{i}.wav", "label": label, "fold": int(label == "hum" or i % 2)}
        for label in sounds.SOUNDS
        for i in range(4)
    ]
    manifest = sounds.write_manifest(tmp_path / "m.csv", rows)
    request = TrainRequest(out=tmp_path / "run", data=manifest, preset="tiny", fold=1, progress=False)
    with pytest.raises(DataError):
        kind.train(request)


@pytest.mark.parametrize(
    ("changes", "message"), [({"preset": "nano"}, "no preset"), ({"overrides": {"x": 1}}, "no hyper-parameter")]
)
def test_wrong_settings_come_before_any_reading(
    kind: ModelKind, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        kind.train(TrainRequest(out=tmp_path, data=Path("/nowhere"), progress=False, **changes))


def test_nothing_is_printed(train: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = train(tmp_path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert math.isfinite(summary["metrics"]["test"]["accuracy"])
