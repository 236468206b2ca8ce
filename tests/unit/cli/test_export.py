from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import tritone_training
from tritone import TritoneError
from tritone_cli.commands import export
from tritone_export import QualityLossError
from tritone_training import registry

sys.path.insert(0, str(Path(__file__).parents[3]))  # importlib mode puts no test folder on the path

from tests.unit.export import fixture_kind


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> typer.Typer:
    """Return the app with a kind that needs no training, in an empty working folder."""
    # In this order, because the former looks the name up in the latter when it is first used.
    for module in (tritone_training, registry):
        monkeypatch.setattr(module, "get_kind", lambda name: fixture_kind.kind())
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command()(export.export)
    return app


def test_export_prints_its_results(app: typer.Typer, tmp_path: Path) -> None:
    (tmp_path / "runs" / "genre_cnn").mkdir(parents=True)
    result = CliRunner().invoke(app, ["export", "genre_cnn", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["model"], report["version"], report["path"]) == (
        "genre_cnn",
        1,
        "model_repository/genre_cnn/1",
    )
    assert set(report["parity"]["max_abs_difference"]) == {"1", "3", "16"}
    assert (tmp_path / "model_repository" / "genre_cnn" / "1" / "model.onnx").is_file()


def test_a_recommender_with_embeddings_of_another_network_is_reported(app: typer.Typer, tmp_path: Path) -> None:
    version = tmp_path / "model_repository" / "recommender" / "1"
    version.mkdir(parents=True)
    embedding_model = {"kind": "genre_cnn", "weights_sha256": "ab" * 32}
    (version / "recommender.json").write_text(
        json.dumps({"arrays": {"items.embeddings": {}}, "embedding_model": embedding_model})
    )
    arguments = ["export", "genre_cnn", "--checkpoint", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    (warning,) = json.loads(result.stdout)["warnings"]
    assert "recommender does not belong to model_repository/genre_cnn/1 (weights-cdcdcdcdcdcd.pt)" in warning
    assert f"warning: {warning}\n" in result.stderr


def test_people_read_stderr(app: typer.Typer, tmp_path: Path) -> None:
    arguments = ["export", "genre_cnn", "--checkpoint", str(tmp_path), "--name", "genre_two"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "version 1 of genre_two" in result.stderr
    assert "probabilities: largest difference from PyTorch" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["genre_cnn"], "tritone train genre_cnn`"),
        (["genre_cnn", "--checkpoint", "mine"], "tritone train genre_cnn --out mine`"),
    ],
)
def test_a_missing_checkpoint_names_the_command(app: typer.Typer, arguments: list[str], command: str) -> None:
    with pytest.raises(TritoneError) as caught:
        CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert command in str(caught.value)


def test_starter_weights_are_exported_without_a_checkpoint(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONE_WEIGHTS", str(tmp_path / "weights"))
    arguments = ["export", "genre_cnn", "--starter", "--json"]
    with pytest.raises(TritoneError, match="no starter weights of genre_cnn"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "model_repository").exists()
    (tmp_path / "weights" / "genre_cnn").mkdir(parents=True)
    (tmp_path / "weights" / "genre_cnn" / "checkpoint.json").write_text("{}")
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["path"] == "model_repository/genre_cnn/1"


def test_configs_only_needs_no_checkpoint(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--configs-only", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["written"] == [
        "model_repository/genre_cnn/config.pbtxt",
        "model_repository/genre_cnn/configs/gpu.pbtxt",
    ]
    again = CliRunner().invoke(app, ["export", "--configs-only", "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["written"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--configs-only", "--name", "x"],
        ["--configs-only", "--checkpoint", "x"],
        ["--configs-only", "--starter"],
        ["genre_cnn", "--starter", "--checkpoint", "x"],
        ["genre_cnn", "--starter", "--pretrained", "musicnn"],
    ],
)
def test_options_that_contradict_are_usage_errors(app: typer.Typer, arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["export", *arguments]).exit_code == 2


@pytest.mark.slow
def test_precisions_are_measured_and_reported(
    monkeypatch: pytest.MonkeyPatch, app: typer.Typer, tmp_path: Path
) -> None:
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    for module in (tritone_training, registry):
        monkeypatch.setattr(module, "get_kind", lambda name: kind)
    arguments = ["export", "genre_cnn", "--checkpoint", str(tmp_path), "--precision", "int8", "--precision", "fp32"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "int8: accuracy " in result.stderr
    assert "in fp32 1.0000, on 64 examples of noise (maximum loss 0.05)" in result.stderr
    with pytest.raises(QualityLossError):
        CliRunner().invoke(app, [*arguments, "--max-loss", "0"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-loss", "0.1"], "--max-loss: expected with --precision"),
        (["--precision", "fp32", "--data", "x"], "--data: expected with --precision"),
        (["--precision", "int4"], "int4"),
    ],
)
def test_options_that_need_a_precision(app: typer.Typer, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "genre_cnn", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_precision_of_a_backbone_without_training_cannot_be_measured(app: typer.Typer) -> None:
    arguments = ["export", "genre_cnn", "--pretrained", "musicnn", "--precision", "fp16"]
    with pytest.raises(TritoneError):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
