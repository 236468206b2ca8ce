"""When a model of the demonstration is made anew, and when an earlier run's will do."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support import recommender_models

from tritone_cli.demonstration import freshness
from tritone_cli.demonstration.models import Trained, Workshop
from tritone_training import checkpoint

KIND = "music_vae"


@pytest.fixture
def workshop(tmp_path: Path) -> Callable[..., Workshop]:
    def make(*, catalogue: str = "c", **changed: Any) -> Workshop:
        wanted: dict[str, Any] = {"seed": 0, "preset": "tiny", "retrain": False, "progress": False, **changed}
        known: Any = SimpleNamespace(fingerprint=catalogue)
        return Workshop(out=tmp_path / "demo", repository=tmp_path / "models", catalogue=known, **wanted)

    return make


@pytest.fixture
def trained(workshop: Callable[..., Workshop], tmp_path: Path) -> Path:
    """A checkpoint that a run has finished."""
    folder = tmp_path / "demo" / "checkpoints" / KIND
    info = {"seed": 0, "preset": "tiny", "metrics": {"valid": {"reconstruction_accuracy": 0.5}}}
    checkpoint.save(folder, kind=KIND, info=info, weights={"a": torch.ones(3)})
    workshop()._finished(KIND)
    return folder


def test_what_is_whole_and_unchanged_is_kept(workshop: Callable[..., Workshop], trained: Path) -> None:
    info = workshop()._fresh(KIND)
    assert info is not None
    assert info["preset"] == "tiny"
    assert Trained(KIND, trained, info).headline == "held-out music: 0.500 of its notes right"


@pytest.mark.parametrize("changed", [{"catalogue": "d"}, {"seed": 1}, {"preset": "demo"}, {"retrain": True}])
def test_what_would_come_out_otherwise_is_not(
    workshop: Callable[..., Workshop], trained: Path, changed: dict[str, Any]
) -> None:
    assert workshop(**changed)._fresh(KIND) is None


def test_what_an_upgrade_changes_is_not(
    workshop: Callable[..., Workshop], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "code_digest", lambda kind: "another preset, or another network")
    assert workshop()._fresh(KIND) is None


def test_a_gan_depends_on_the_code_of_its_autoencoder(workshop: Callable[..., Workshop], trained: Path) -> None:
    info = {"weights_sha256": "w"}
    assert freshness.code_digest("music_vae") in workshop()._making("music_gan")._mark(info)["code"]
    assert freshness.code_digest("music_gan") != freshness.code_digest("music_vae")


def _cut_weights(folder: Path) -> None:
    (path,) = folder.glob("weights-*.pt")
    path.write_bytes(path.read_bytes()[:-10])


def _train_again(folder: Path) -> None:
    # As a training that was stopped between its checkpoint and its mark leaves it.
    info = json.loads((folder / "checkpoint.json").read_text())
    own = {key: info[key] for key in ("seed", "preset", "metrics")}
    checkpoint.save(folder, kind=KIND, info=own, weights={"a": torch.zeros(3)})


@pytest.mark.parametrize(
    "damage",
    [
        _cut_weights,
        _train_again,
        lambda folder: (folder / "checkpoint.json").write_text("{"),
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "demo.json").unlink(),
        lambda folder: (folder / "demo.json").write_text('{"catalogue": '),
        lambda folder: (folder / "demo.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_what_is_damaged_or_half_made_is_not(
    workshop: Callable[..., Workshop], trained: Path, damage: Callable[[Path], object]
) -> None:
    damage(trained)
    assert workshop()._fresh(KIND) is None


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version that was exported of the weights `w`."""
    path = tmp_path / "models" / "m" / "3"
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"graph")
    card = {
        "model": "m",
        "version": 3,
        "weights_sha256": "w",
        "created_utc": "2026-01-02T00:00:00+00:00",
        "files": {"model.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest()}},
        "parity": {"max_abs_difference": {"1": {"a": 1e-7}, "3": {"a": 2e-6, "b": 0.0}}},
    }
    (path / "model_card.json").write_text(json.dumps(card))
    return path


INFO = {"weights_sha256": "w", "created_utc": "2026-01-02T00:00:00+00:00"}


def test_a_version_of_this_checkpoint_is_kept(version: Path) -> None:
    found = freshness.newest_version(version.parent, INFO)
    assert found is not None
    assert found.to_dict() == {"model": "m", "version": 3, "path": str(version), "max_abs_difference": 2e-6}


@pytest.mark.parametrize(
    "info", [{**INFO, "weights_sha256": "x"}, {**INFO, "created_utc": "2026-01-03T00:00:00+00:00"}]
)
def test_a_version_of_another_training_is_not(version: Path, info: dict[str, str]) -> None:
    assert freshness.newest_version(version.parent, info) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "model.onnx").write_bytes(b"grap"),
        lambda path: (path / "model.onnx").unlink(),
        lambda path: (path / "model_card.json").unlink(),
        lambda path: (path / "model_card.json").write_text("[]"),
        lambda path: (path / "model_card.json").write_text("{}"),
        lambda path: (path.parent / "4").mkdir(),  # a newer one, of whatever
    ],
)
def test_a_damaged_version_is_not(version: Path, damage: Callable[[Path], object]) -> None:
    damage(version)
    assert freshness.newest_version(version.parent, INFO) is None


def test_without_a_version_there_is_none(tmp_path: Path) -> None:
    assert freshness.newest_version(tmp_path / "nowhere", INFO) is None


# --- a recommender: its artifact stands for weights ---------------------------------------------------------


@pytest.fixture
def recommender(tmp_path: Path) -> Path:
    """A checkpoint of a recommender, and a version that was exported of it."""
    folder = tmp_path / "demo" / "checkpoints" / freshness.RECOMMENDER
    shutil.copytree(recommender_models.checkpoint(), folder)
    return folder


def test_a_recommender_is_kept_as_long_as_its_listener_is(workshop: Callable[..., Workshop], recommender: Path) -> None:
    first, again, other = workshop(), workshop(), workshop()
    first._heard_by = again._heard_by = "one network"
    other._heard_by = "another"
    first._finished(freshness.RECOMMENDER)
    assert again._fresh(freshness.RECOMMENDER) is not None
    assert other._fresh(freshness.RECOMMENDER) is None
    headline = Trained(freshness.RECOMMENDER, recommender, again._fresh(freshness.RECOMMENDER) or {}).headline
    assert headline.startswith("simulated listeners' held-out listens: 0.")


@pytest.mark.parametrize(
    "damaged", ["artifact/history.values.npy", "artifact/recommender.json", "taste_vae/checkpoint.json"]
)
def test_a_recommender_that_is_damaged_is_not(
    workshop: Callable[..., Workshop], recommender: Path, damaged: str
) -> None:
    workshop()._finished(freshness.RECOMMENDER)
    (recommender / damaged).write_bytes(b"half of it")
    assert workshop()._fresh(freshness.RECOMMENDER) is None


def test_a_recommender_is_made_again_when_the_code_that_serves_it_changes() -> None:
    assert "tritone_serving.recommender" in freshness._PACKAGES[freshness.RECOMMENDER]


def test_versions_of_a_recommender_are_kept_if_they_hold_its_artifact(recommender: Path, tmp_path: Path) -> None:
    info = freshness.read_info(recommender, freshness.RECOMMENDER)
    files = {path.name: path.read_bytes() for path in (recommender / "artifact").iterdir()}
    path = tmp_path / "models" / "recommender" / "2"
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    card = {
        "model": "recommender",
        "version": 2,
        "created_utc": info["created_utc"],
        "files": {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()},
    }
    (path / "model_card.json").write_text(json.dumps(card))
    assert freshness.newest_version(path.parent, info) == freshness.Version("recommender", 2, path, None)
    assert freshness.newest_version(path.parent, {**info, "weights_sha256": "of another training"}) is None
    assert freshness.newest_ensemble(path.parent, info) is not None
    assert freshness.newest_ensemble(path.parent, {"created_utc": "9999"}) is None
    assert freshness.newest_ensemble(tmp_path / "nowhere", info) is None
    (path / "history.values.npy").write_bytes(b"half of it")
    assert freshness.newest_version(path.parent, info) is None
