"""When a model of the demonstration is made anew, and when an earlier run's will do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

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
