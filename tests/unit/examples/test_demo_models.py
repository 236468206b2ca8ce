"""When the demo reuses the models of an earlier run."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support import recommender_models

from examples.demo import models, reuse
from examples.demo.__main__ import demo
from examples.demo.jobs import Job
from examples.demo.models import DemoModel, ModelBuilder
from tritone_cli.main import new_app, run
from tritone_training import checkpoint

KIND = "music_vae"


@pytest.fixture
def make_builder(tmp_path: Path) -> Callable[..., ModelBuilder]:
    def make(*, corpus: str = "c", **changed: Any) -> ModelBuilder:
        wanted: dict[str, Any] = {
            "seed": 0,
            "preset": "tiny",
            "retrain": False,
            "progress": False,
            "starters": {},
            **changed,
        }
        known: Any = SimpleNamespace(fingerprint=corpus)
        return ModelBuilder(out=tmp_path / "demo", repository=tmp_path / "models", corpus=known, **wanted)

    return make


@pytest.fixture
def trained(make_builder: Callable[..., ModelBuilder], tmp_path: Path) -> Path:
    """A checkpoint that a run has finished."""
    folder = tmp_path / "demo" / "checkpoints" / KIND
    info = {"seed": 0, "preset": "tiny", "metrics": {"valid": {"reconstruction_accuracy": 0.5}}}
    checkpoint.save(folder, kind=KIND, info=info, weights={"a": torch.ones(3)})
    make_builder().mark_complete(KIND)
    return folder


def test_a_complete_checkpoint_with_the_same_inputs_is_reused(
    make_builder: Callable[..., ModelBuilder], trained: Path
) -> None:
    info = make_builder().find_checkpoint(KIND)
    assert info is not None
    assert info["preset"] == "tiny"
    assert DemoModel(KIND, trained, info).headline == "held-out music: 0.500 of the notes reconstructed"


@pytest.mark.parametrize("changed", [{"corpus": "d"}, {"seed": 1}, {"preset": "demo"}, {"retrain": True}])
def test_a_checkpoint_with_other_inputs_is_not_reused(
    make_builder: Callable[..., ModelBuilder], trained: Path, changed: dict[str, Any]
) -> None:
    assert make_builder(**changed).find_checkpoint(KIND) is None


def test_a_checkpoint_of_other_code_is_not_reused(
    make_builder: Callable[..., ModelBuilder], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "code_digest", lambda kind: "another preset, or another network")
    assert make_builder().find_checkpoint(KIND) is None


def test_a_gan_is_not_reused_when_the_code_of_its_autoencoder_changes(
    make_builder: Callable[..., ModelBuilder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo" / "checkpoints" / "music_gan"
    checkpoint.save(folder, kind="music_gan", info={"seed": 0}, weights={"a": torch.ones(3)})
    make_builder().mark_complete("music_gan")
    assert make_builder().find_checkpoint("music_gan") is not None
    digest = reuse.code_digest
    monkeypatch.setattr(reuse, "code_digest", lambda kind: "new" if kind == "music_vae" else digest(kind))
    assert make_builder().find_checkpoint("music_gan") is None


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """Starter weights of a kind."""
    folder = tmp_path / "weights" / KIND
    info = {"seed": 0, "preset": "default", "metrics": {"valid": {"reconstruction_accuracy": 0.75}}}
    checkpoint.save(folder, kind=KIND, info=info, weights={"a": torch.ones(3)})
    return folder


def jobs_of(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], dict[str, DemoModel]]
) -> tuple[dict[str, DemoModel], dict[str, Job]]:
    """Return the models and the jobs that would make them."""
    planned: dict[str, Job] = {}
    monkeypatch.setattr(models, "run_jobs", lambda jobs, **_: planned.update({job.name: job for job in jobs}))
    return build(), planned


def test_starter_weights_are_exported_under_the_names_of_their_kinds(
    make_builder: Callable[..., ModelBuilder], starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, planned = jobs_of(monkeypatch, make_builder(starters={KIND: starter}).export_starters)
    assert built[KIND].headline == "held-out music: 0.750 of the notes reconstructed"
    (job,) = planned.values()
    assert job.arguments[:4] == ("export", KIND, "--checkpoint", str(starter))
    assert "--name" not in job.arguments
    assert not jobs_of(monkeypatch, make_builder(starters={}).export_starters)[1]


def test_exported_starter_weights_are_reused(
    make_builder: Callable[..., ModelBuilder], starter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = checkpoint.read_info(starter)
    for name in (KIND, f"{KIND}_decoder"):
        path = tmp_path / "models" / name / "2"
        path.mkdir(parents=True)
        card = {
            "model": name,
            "version": 2,
            "weights_sha256": info["weights_sha256"],
            "created_utc": info["created_utc"],
            "files": {},
            "parity": {"max_abs_difference": {"1": {"a": 1e-7}}},
        }
        (path / "model_card.json").write_text(json.dumps(card))
    built, planned = jobs_of(monkeypatch, make_builder(starters={KIND: starter}).export_starters)
    assert not planned
    assert [(each.model, each.version) for each in built[KIND].versions] == [(KIND, 2), (f"{KIND}_decoder", 2)]


def test_a_small_model_has_another_name_beside_starter_weights(
    make_builder: Callable[..., ModelBuilder], trained: Path, starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, planned = jobs_of(monkeypatch, make_builder(starters={KIND: starter}).build)
    assert {kind: model.name for kind, model in built.items() if model.name != kind} == {KIND: f"small_{KIND}"}
    arguments = planned[f"exporting {KIND}"].arguments
    assert arguments[arguments.index("--name") + 1] == f"small_{KIND}"
    assert arguments[arguments.index("--checkpoint") + 1] == str(trained)
    assert f"training {KIND}" not in planned  # it was trained before
    assert "--name" not in planned["exporting polyphony_rnn"].arguments
    assert all(model.name == kind for kind, model in jobs_of(monkeypatch, make_builder().build)[0].items())


def test_starter_weights_are_those_that_come_with_tritone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starter: Path
) -> None:
    monkeypatch.setenv("TRITONE_WEIGHTS", str(tmp_path / "weights"))
    shutil.copytree(starter, tmp_path / "weights" / "genre_cnn")  # no kind that writes music
    assert models.find_starters() == {KIND: starter}
    monkeypatch.setenv("TRITONE_WEIGHTS", str(tmp_path / "nowhere"))
    assert models.find_starters() == {}


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
        lambda folder: (folder / "demo.json").write_text('{"corpus": '),
        lambda folder: (folder / "demo.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_or_incomplete_checkpoint_is_not_reused(
    make_builder: Callable[..., ModelBuilder], trained: Path, damage: Callable[[Path], object]
) -> None:
    damage(trained)
    assert make_builder().find_checkpoint(KIND) is None


def test_an_unknown_preset_is_an_error_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--preset", "huge", "--out", "elsewhere", "--json"])
    app = new_app()
    app.command("demo")(demo)
    with pytest.raises(SystemExit) as ended:
        run(app)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "no preset 'huge'" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(tmp_path.iterdir()) == []


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


def test_a_version_of_this_checkpoint_is_reused(version: Path) -> None:
    found = reuse.newest_version(version.parent, INFO)
    assert found is not None
    assert found.to_dict() == {"model": "m", "version": 3, "path": str(version), "max_abs_difference": 2e-6}


@pytest.mark.parametrize(
    "info", [{**INFO, "weights_sha256": "x"}, {**INFO, "created_utc": "2026-01-03T00:00:00+00:00"}]
)
def test_a_version_of_another_training_is_not_reused(version: Path, info: dict[str, str]) -> None:
    assert reuse.newest_version(version.parent, info) is None


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
def test_a_damaged_version_is_not_reused(version: Path, damage: Callable[[Path], object]) -> None:
    damage(version)
    assert reuse.newest_version(version.parent, INFO) is None


def test_a_model_without_versions_has_no_newest_version(tmp_path: Path) -> None:
    assert reuse.newest_version(tmp_path / "nowhere", INFO) is None


# --- a recommender: its artifact stands for weights ---------------------------------------------------------


@pytest.fixture
def recommender(tmp_path: Path) -> Path:
    """A checkpoint of a recommender, and a version that was exported of it."""
    folder = tmp_path / "demo" / "checkpoints" / reuse.RECOMMENDER
    shutil.copytree(recommender_models.checkpoint(), folder)
    return folder


def test_a_recommender_is_reused_if_its_classifier_is(
    make_builder: Callable[..., ModelBuilder], recommender: Path
) -> None:
    first, again, other = make_builder(), make_builder(), make_builder()
    first.classifier_digest = again.classifier_digest = "one network"
    other.classifier_digest = "another"
    first.mark_complete(reuse.RECOMMENDER)
    assert again.find_checkpoint(reuse.RECOMMENDER) is not None
    assert other.find_checkpoint(reuse.RECOMMENDER) is None
    headline = DemoModel(reuse.RECOMMENDER, recommender, again.find_checkpoint(reuse.RECOMMENDER) or {}).headline
    assert headline.startswith("simulated listeners' held-out listens: 0.")


@pytest.mark.parametrize(
    "damaged", ["artifact/history.values.npy", "artifact/recommender.json", "taste_vae/checkpoint.json"]
)
def test_a_damaged_recommender_is_not_reused(
    make_builder: Callable[..., ModelBuilder], recommender: Path, damaged: str
) -> None:
    make_builder().mark_complete(reuse.RECOMMENDER)
    (recommender / damaged).write_bytes(b"half of it")
    assert make_builder().find_checkpoint(reuse.RECOMMENDER) is None


def test_the_code_that_serves_a_recommender_affects_its_training() -> None:
    assert "tritone_serving.recommender" in reuse.code_packages(reuse.RECOMMENDER)


def test_versions_of_a_recommender_are_reused_if_they_hold_its_artifact(recommender: Path, tmp_path: Path) -> None:
    info = reuse.read_info(recommender, reuse.RECOMMENDER)
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
    assert reuse.newest_version(path.parent, info) == reuse.ExportedVersion("recommender", 2, path, None)
    assert reuse.newest_version(path.parent, {**info, "weights_sha256": "of another training"}) is None
    assert reuse.newest_ensemble(path.parent, info) is not None
    assert reuse.newest_ensemble(path.parent, {"created_utc": "9999"}) is None
    assert reuse.newest_ensemble(tmp_path / "nowhere", info) is None
    (path / "history.values.npy").write_bytes(b"half of it")
    assert reuse.newest_version(path.parent, info) is None
