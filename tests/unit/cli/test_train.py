"""`tritone train`, `evaluate`, `crossvalidate` and `tune` on a folder of recordings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training import sounds


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: for such small networks a second one costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = sounds.write_folders(tmp_path_factory.mktemp("data"), n_each=6)
    (folder / "hum" / "notes [draft].txt").touch()
    return folder


@pytest.fixture
def run_folder(run_tritone: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which `tritone train` ran with its default output."""
    monkeypatch.chdir(tmp_path)
    ended = run_tritone("train", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1)
    assert ended.status == 0
    assert ended.stdout == ""
    assert "12 of 13 recordings used (hiss 6, hum 6)" in ended.stderr
    assert "not used: hum/notes [draft].txt (not_audio)" in ended.stderr
    assert "folds: by recording: no artists are known" in ended.stderr
    assert "test: accuracy" in ended.stderr
    assert "next: tritone export genre_cnn --checkpoint runs/genre_cnn" in ended.stderr
    return tmp_path


def test_train_then_evaluate(run_tritone: Callable[..., Any], run_folder: Path, data: Path) -> None:
    ended = run_tritone("evaluate", "genre_cnn", "--checkpoint", "runs/genre_cnn", "--data", data, "--report", "report")
    assert ended.status == 0
    assert ended.stdout == ""
    assert "tracks:  accuracy" in ended.stderr
    assert "of these recordings are training data" in ended.stderr
    assert "written: report/confusion_matrix.png" in ended.stderr
    assert (run_folder / "report" / "predictions.csv").is_file()
    ended = run_tritone(
        "evaluate", "genre_cnn", "--checkpoint", "runs/genre_cnn", "--data", data, "--fold", 0, "--json"
    )
    metrics = json.loads(ended.stdout)
    assert {"accuracy", "macro_f1", "n", "per_class", "confusion_matrix", "window", "emotion_correlation"} <= set(
        metrics
    )
    assert metrics["n_seen_in_training"] == 0
    assert ended.stderr == ""
    info = json.loads((run_folder / "runs" / "genre_cnn" / "checkpoint.json").read_text())
    assert shlex.split(info["command"])[:3] == ["tritone", "train", "genre_cnn"]


def test_train_prints_one_json_object(run_tritone: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    ended = run_tritone(
        "train", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1, "--out", tmp_path / "run",
        "--set", "width=3", "--set", "patience=7", "--fold", 1, "--seed", 4, "--json",
    )  # fmt: skip
    assert ended.status == 0
    assert ended.stderr == ""
    summary = json.loads(ended.stdout)
    assert len(ended.stdout.splitlines()) == 1
    assert summary["data"]["n_in"] == 13
    info = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert (info["config"]["width"], info["config"]["patience"], info["fold"], info["seed"]) == (3, 7, 1, 4)


def test_similar_labels_and_cancelling_channels_are_warned_of(
    run_tritone: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    for index in range(6):
        sounds.write(tmp_path / "data" / "Hum" / f"{index}.wav", sounds.hum(index))
        sounds.write(tmp_path / "data" / "hum " / f"{index}.wav", sounds.hum(100 + index))
    left = sounds.hum(200)
    sounds.write(tmp_path / "data" / "Hum" / "opposite.wav", np.stack([left, -left], axis=1))
    ended = run_tritone(
        "train",
        "genre_cnn",
        "--data",
        tmp_path / "data",
        "--preset",
        "tiny",
        "--max-epochs",
        1,
        "--out",
        tmp_path / "run",
    )
    assert ended.status == 0
    assert "warning: similar labels: 'Hum' (7), 'hum ' (6); they are trained as 2 separate labels" in ended.stderr
    assert "opposite.wav: channels cancel each other for 3.2 s" in ended.stderr
    card = json.loads((tmp_path / "run" / "checkpoint.json").read_text())["data"]
    assert card["similar_labels"] == [{"Hum": 7, "hum ": 6}]
    assert [remark["path"] for remark in card["remarks"]] == ["Hum/opposite.wav"]


def test_evaluate_prints_the_evaluated_split(run_tritone: Callable[..., Any], run_folder: Path, data: Path) -> None:
    common = ("evaluate", "genre_cnn", "--checkpoint", "runs/genre_cnn", "--data", data, "--split")
    said = {part: run_tritone(*common, part).stderr for part in ("train", "valid", "test")}
    assert {part: "are training data" in text for part, text in said.items()} == {
        "train": True, "valid": False, "test": False,
    }  # fmt: skip
    assert {part: "used for early stopping" in text for part, text in said.items()} == {
        "train": False, "valid": True, "test": False,
    }  # fmt: skip


@pytest.mark.slow
def test_crossvalidate(run_tritone: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    common = ("crossvalidate", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1)
    ended = run_tritone(*common, "--out", tmp_path / "folds")
    assert ended.status == 0
    assert ended.stdout == ""
    assert "(mean ± standard deviation over 4 folds, 12 tracks)" in ended.stderr
    refused = run_tritone(*common, "--out", tmp_path / "folds")
    assert refused.status == 2
    assert "--overwrite" in refused.stderr
    again = run_tritone(*common, "--out", tmp_path / "folds", "--overwrite", "--json")
    assert again.stderr == ""
    assert json.loads(again.stdout)["n"] == 12


@pytest.mark.slow
def test_tune(run_tritone: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    common = ("tune", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1, "--out", tmp_path / "study")
    ended = run_tritone(*common, "--trials", 1)
    assert ended.status == 0
    assert ended.stdout == ""
    assert "best valid accuracy:" in ended.stderr
    following = shlex.split(next(line for line in ended.stderr.splitlines() if line.startswith("next: "))[6:])
    assert following[:5] == ["tritone", "train", "genre_cnn", "--data", str(data)]
    assert following.count("--set") == 7
    again = run_tritone(*common, "--trials", 1, "--json")
    assert again.stderr == ""
    assert json.loads(again.stdout)["n_trials"] == 2
    # What it says to do next can be done.
    done = run_tritone(*following[1:], "--out", tmp_path / "next", "--json")
    assert done.status == 0
    assert json.loads(done.stdout)["n_epochs"] == 1


def test_pretrained_lists_licences_and_cautions(run_tritone: Callable[..., Any]) -> None:
    ended = run_tritone("pretrained", "--json")
    assert ended.status == 0
    rows = {row["name"]: row for row in json.loads(ended.stdout)["pretrained"]}
    assert set(rows) == {"musicnn", "musicnn-mtt"}
    assert all("ISC" in row["licence"] and row["tags"] == 50 for row in rows.values())
    assert "Magnatune" in rows["musicnn-mtt"]["caution"]
    people = run_tritone("pretrained")
    assert people.stdout == ""
    assert "musicnn-mtt" in people.stderr


def test_training_again_into_the_same_folder_needs_overwrite_or_resume(
    run_tritone: Callable[..., Any], run_folder: Path, data: Path
) -> None:
    common = ("train", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1)
    refused = run_tritone(*common)
    assert refused.status == 1
    assert "runs/genre_cnn: expected a new or empty folder, got a trained genre_cnn" in refused.stderr
    finished = run_tritone(*common, "--resume")
    assert finished.status == 0
    assert "this training is complete; there is nothing to resume" in finished.stderr
    assert json.loads(run_tritone(*common, "--resume", "--json").stdout)["finished"] is True
    other = run_tritone(*common, "--resume", "--seed", 5)
    assert other.status == 1
    assert "seed was 0, is now 5" in other.stderr
    again = run_tritone(*common, "--overwrite", "--seed", 5, "--json")
    assert again.status == 0
    assert json.loads((run_folder / "runs" / "genre_cnn" / "checkpoint.json").read_text())["seed"] == 5


def test_a_report_is_not_overwritten_without_overwrite(
    run_tritone: Callable[..., Any], run_folder: Path, data: Path
) -> None:
    common = ("evaluate", "genre_cnn", "--checkpoint", "runs/genre_cnn", "--data", data, "--report", "report")
    assert run_tritone(*common).status == 0
    refused = run_tritone(*common)
    assert refused.status == 2
    assert "--overwrite" in refused.stderr
    assert run_tritone(*common, "--overwrite").status == 0
    before = run_tritone("train", "genre_cnn", "--data", data, "--preset", "tiny", "--out", "x", "--report", "report")
    assert before.status == 2, "refused before minutes of training"
    assert not (run_folder / "x").exists()


def test_class_weights_and_a_warm_start(run_tritone: Callable[..., Any], run_folder: Path, data: Path) -> None:
    common = ("train", "genre_cnn", "--data", data, "--preset", "tiny", "--max-epochs", 1)
    ended = run_tritone(
        *common, "--out", "second", "--set", "class_weights={'hum': 2}", "--set", "refit=false",
        "--warm-start", "runs/genre_cnn", "--set", "width=5",
    )  # fmt: skip
    assert ended.status == 0
    assert "weights from runs/genre_cnn" in ended.stderr
    assert "not loaded (shape (4, 1, 5, 5), expected (5, 1, 5, 5)): body.convolutions.0.weight" in ended.stderr
    info = json.loads((run_folder / "second" / "checkpoint.json").read_text())
    assert info["config"]["class_weights"] == {"hum": 2}
    wrong = run_tritone(*common, "--out", "third", "--set", "class_weights={'hm': 2}")
    assert "class_weights names 'hm'; expected labels of the data, which are: hiss, hum" in wrong.stderr
    assert run_tritone(*common, "--out", "third", "--set", "width=4;5").status == 2


def test_hyper_parameters_and_final_metrics_are_logged_for_tensorboard(run_folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    logged = EventAccumulator(str(run_folder / "runs" / "genre_cnn" / "logs" / "tensorboard" / "hparams")).Reload()
    (content,) = [
        data for tag, data in logged.PluginTagToContent("hparams").items() if tag == "_hparams_/session_start_info"
    ]
    started = HParamsPluginData.FromString(content).session_start_info.hparams
    assert started["width"].number_value == 4
    assert started["class_weights"].string_value == "none"
    assert "test/accuracy" in logged.Tags()["scalars"]
