from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from tests.unit.training import sounds
from tests.unit.training.conftest import N_EACH, Trained

from tritone.audio import iter_windows
from tritone.constants import EMOTION_NOT_TRAINED, EMOTIONS, SAMPLE_RATE_HZ
from tritone_training import CheckpointError, DataError, checkpoint
from tritone_training.data.recordings import Recording
from tritone_training.kind import EvaluateRequest, ModelKind, TrainRequest
from tritone_training.kinds.genre_cnn.evaluate import Evaluation, evaluate_network, write_report
from tritone_training.kinds.genre_cnn.metrics import emotion_metrics, genre_metrics
from tritone_training.kinds.genre_cnn.network import load_network


@pytest.fixture
def request_of(trained: Trained) -> EvaluateRequest:
    return EvaluateRequest(checkpoint=trained.folder, data=trained.data, progress=False)


def test_the_whole_data_set(kind: ModelKind, request_of: EvaluateRequest) -> None:
    metrics = kind.evaluate(request_of).to_dict()
    assert {"accuracy", "macro_f1", "n", "per_class", "confusion_matrix", "window", "emotion_correlation"} <= set(
        metrics
    )
    assert metrics["n"] == 2 * N_EACH
    assert metrics["window"]["n"] == 4 * N_EACH  # 3.2 s: two windows
    assert np.sum(metrics["confusion_matrix"]) == metrics["n"]
    assert set(metrics["per_class"]) == {"hum", "hiss"}
    assert set(metrics["emotion_correlation"]) == set(EMOTIONS)
    assert metrics["emotion_correlation"]["calmness"] > 0.5
    parts = checkpoint.load(request_of.checkpoint, kind="genre_cnn").info["splits"]
    assert metrics["n_seen_in_training"] == len(parts["train"])
    assert metrics["n_early_stopping"] == 24 - len(parts["train"]) == len(parts["valid"]) > 0
    assert metrics["labels"] == ["hiss", "hum"]
    assert metrics["problems"] == []
    json.dumps(metrics, allow_nan=False)


def test_the_held_out_fold_is_the_test_part_of_the_training(
    kind: ModelKind, request_of: EvaluateRequest, trained: Trained
) -> None:
    by_fold = kind.evaluate(replace(request_of, fold=0)).to_dict()
    by_split = kind.evaluate(replace(request_of, split="test")).to_dict()
    assert by_fold["n_seen_in_training"] == by_split["n_seen_in_training"] == 0
    for name, value in trained.summary["metrics"]["test"].items():
        assert by_fold[name] == pytest.approx(value, abs=1e-6)
        assert by_split[name] == by_fold[name]
    others = kind.evaluate(replace(request_of, fold=1)).to_dict()
    assert others["n"] == others["n_seen_in_training"] + others["n_early_stopping"] > 0
    parts = checkpoint.load(trained.folder, kind="genre_cnn").info["splits"]
    valid = kind.evaluate(replace(request_of, split="valid")).to_dict()
    assert (valid["n"], valid["n_seen_in_training"], valid["n_early_stopping"]) == (len(parts["valid"]), 0, valid["n"])
    train = kind.evaluate(replace(request_of, split="train")).to_dict()
    assert (train["n"], train["n_seen_in_training"], train["n_early_stopping"]) == (len(parts["train"]), train["n"], 0)
    assert (by_split["n_seen_in_training"], by_split["n_early_stopping"]) == (0, 0)


def test_a_refit_has_learned_from_the_validation_part(
    kind: ModelKind, request_of: EvaluateRequest, trained: Trained, tmp_path: Path
) -> None:
    info = json.loads((trained.folder / "checkpoint.json").read_text(encoding="utf-8"))
    (tmp_path / info["weights"]).write_bytes((trained.folder / info["weights"]).read_bytes())
    refitted = {**info, "config": {**info["config"], "refit": True}}
    (tmp_path / "checkpoint.json").write_text(json.dumps(refitted))
    valid = kind.evaluate(replace(request_of, checkpoint=tmp_path, split="valid")).to_dict()
    assert (valid["n_seen_in_training"], valid["n_early_stopping"]) == (valid["n"], 0)


def test_unusable_recordings_do_not_shift_the_folds(kind: ModelKind, folders: Path, tmp_path: Path) -> None:
    """Folds that are not the data's own must come out as they did in training, whatever could not be read there."""
    rows = [{"path": folders / label / f"{i}.wav", "label": label} for label in sounds.SOUNDS for i in range(8)]
    rows[3:3] = [{"path": tmp_path / f"gone{i}.wav", "label": "hum"} for i in range(3)]
    manifest = sounds.write_manifest(tmp_path / "m.csv", rows)
    for fold in (0, 1):
        request = TrainRequest(
            out=tmp_path / f"run-{fold}", data=manifest, preset="tiny", max_epochs=1, fold=fold, progress=False
        )
        summary = kind.train(request).to_dict()
        assert summary["data"]["n_used"] == 16
        asked = EvaluateRequest(checkpoint=request.out, data=manifest, fold=fold, progress=False)
        metrics = kind.evaluate(asked).to_dict()
        assert metrics["n_seen_in_training"] == 0
        assert metrics["n"] == summary["metrics"]["test"]["n"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": 9}, "has no fold 9; there are: 0, 1, 2, 3"),
        ({"split": "dev"}, "no split 'dev'; the checkpoint knows: train, valid, test"),
    ],
)
def test_a_fold_or_split_that_is_not_there(
    kind: ModelKind, request_of: EvaluateRequest, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kind.evaluate(replace(request_of, **changes))


def test_a_split_of_other_data(kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path) -> None:
    other = sounds.write_folders(tmp_path, n_each=2)
    with pytest.raises(DataError):
        kind.evaluate(replace(request_of, data=other, split="test"))


def test_labels_that_the_checkpoint_does_not_know(kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path) -> None:
    sounds.write(tmp_path / "polka" / "a.wav", sounds.hum(1))
    with pytest.raises(DataError):
        kind.evaluate(replace(request_of, data=tmp_path))


def test_a_folder_that_is_no_checkpoint(kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        kind.evaluate(replace(request_of, checkpoint=tmp_path))


def test_recordings_that_cannot_be_evaluated_are_listed(
    kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path
) -> None:
    sounds.write(tmp_path / "hum" / "good.wav", sounds.hum(50))
    sounds.write(tmp_path / "hum" / "silent.wav", np.zeros(70_000, np.float32))
    (tmp_path / "hiss").mkdir()
    (tmp_path / "hiss" / "text.wav").write_text("no audio")
    metrics = kind.evaluate(replace(request_of, data=tmp_path)).to_dict()
    assert metrics["n"] == 1
    assert {p["path"]: p["reason"] for p in metrics["problems"]} == {
        "hum/silent.wav": "silent",
        "hiss/text.wav": "unreadable",
    }
    assert metrics["emotion_correlation"] is None
    (tmp_path / "hum" / "good.wav").unlink()
    with pytest.raises(DataError):
        kind.evaluate(replace(request_of, data=tmp_path))


def test_a_track_is_the_mean_of_its_windows_cut_as_the_sdk_cuts_them(trained: Trained, tmp_path: Path) -> None:
    network, _ = load_network(trained.folder)
    path = sounds.write(tmp_path / "a.flac", np.concatenate([sounds.hum(60, duration_s=100), sounds.hiss(60)]))
    evaluation = evaluate_network(network, [Recording.of_file("a.flac", "hum", path)], ["hiss", "hum"])
    cut = torch.from_numpy(np.stack([window.samples for window in iter_windows(path)]))
    assert len(cut) > 32  # more than one batch
    with torch.inference_mode():
        probabilities, emotions, _ = network(cut)
    np.testing.assert_allclose(evaluation.probabilities[0], probabilities.mean(0), atol=1e-5)
    np.testing.assert_allclose(evaluation.emotions[0], emotions.mean(0), atol=1e-5)
    assert evaluation.metrics["window"]["n"] == len(cut) == math.ceil((path_duration_s(path)) / 3)


def path_duration_s(path: Path) -> float:
    return float(soundfile.info(path).frames / SAMPLE_RATE_HZ)


# --- the report ---------------------------------------------------------------------------------------------


def test_the_report_has_pictures_and_a_table(kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    metrics = kind.evaluate(replace(request_of, fold=0, report=folder)).to_dict()
    names = ["confusion_matrix.png", "calibration.png", "emotions.png", "predictions.csv"]
    assert [Path(path).name for path in metrics["report"]] == names
    for name in names[:3]:
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.01  # something is drawn
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["n"]
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(metrics["accuracy"])
    assert float(rows[0]["hum"]) + float(rows[0]["hiss"]) == pytest.approx(1, abs=1e-3)


def test_the_table_has_columns_for_the_emotions_that_were_trained(tmp_path: Path) -> None:
    labels, truth, probabilities = ["a", "b"], np.array([0, 1]), np.eye(2)
    felt = np.full((2, 9), EMOTION_NOT_TRAINED)
    for trained in ([], [4, 7]):
        felt[:, trained] = 0.25
        metrics = {**genre_metrics(probabilities, truth, labels), **emotion_metrics(felt, np.full((2, 9), np.nan))}
        evaluation = Evaluation(metrics, ("x", "y"), probabilities, truth, felt, np.full((2, 9), np.nan))
        write_report(tmp_path, evaluation, labels)
        with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["path", "label", "predicted", "a", "b", *(f"emotion_{EMOTIONS[i]}" for i in trained)]
        assert all(float(value) >= 0 for row in rows for value in list(row.values())[3:])


def test_channels_that_cancel_are_remarked_on(kind: ModelKind, request_of: EvaluateRequest, tmp_path: Path) -> None:
    left = sounds.hum(70)
    sounds.write(tmp_path / "hum" / "opposite.wav", np.stack([left, -left], axis=1))
    sounds.write(tmp_path / "hiss" / "a.wav", sounds.hiss(70))
    metrics = kind.evaluate(replace(request_of, data=tmp_path)).to_dict()
    (remark,) = metrics["remarks"]
    assert remark["path"] == "hum/opposite.wav"
    assert "channels cancel each other" in remark["message"]
    assert (metrics["n"], metrics["problems"]) == (2, [])


def test_labels_and_metrics_that_are_hard_to_draw(tmp_path: Path) -> None:
    labels = ["$\\foo$", "古典", "a_{b}^", "plain"]
    truth = np.array([0, 1, 2, 3])
    probabilities = np.eye(4) * 0.6 + 0.1
    felt, wanted = np.full((4, 9), 0.5), np.random.default_rng(0).uniform(0, 1, (4, 9))
    metrics = {**genre_metrics(probabilities, truth, labels), **emotion_metrics(felt, wanted)}
    assert metrics["emotion_correlation_mean"] is None
    evaluation = Evaluation(metrics, ("a", "b", "c", "d"), probabilities, truth, felt, wanted)
    written = write_report(tmp_path, evaluation, labels)
    assert all(Path(path).stat().st_size > 0 for path in written)
    assert "古典" in (tmp_path / "predictions.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("labels", [None, "xy", [1, 2], ["x"], ["\ud800", "x"], ["a\nb", "x"]])
def test_a_checkpoint_with_labels_that_are_none(labels: object, trained: Trained, tmp_path: Path) -> None:
    info = json.loads((trained.folder / "checkpoint.json").read_text(encoding="utf-8"))
    (tmp_path / info["weights"]).write_bytes((trained.folder / info["weights"]).read_bytes())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**info, "labels": labels}))
    with pytest.raises(CheckpointError):
        load_network(tmp_path)
