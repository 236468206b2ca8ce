"""`tritone corpus`: JSON, the table and rendered audio."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import typer
from typer.testing import CliRunner

from tritone_cli.commands import resources as command
from tritone_training.exceptions import DataError


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # or Typer would drop the name of the only command
    app.command()(command.corpus)
    return app


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_json_is_one_object(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["corpus", "--pieces", "2", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["n_pieces"] == 8
    assert [entry["n_pieces"] for entry in answer["collections"]] == [2, 2, 2, 2]
    assert all(entry["terms"] and entry["hours"] > 0 for entry in answer["collections"])
    assert len(answer["fingerprint"]) == 64


def test_people_read_a_table_on_stderr(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["corpus", "--pieces", "2"])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "Bach chorales" in result.stderr
    assert "render one: tritone corpus --render" in result.stderr


def test_a_piece_is_written_as_audio(app: typer.Typer, tmp_path: Path) -> None:
    listing = json.loads(CliRunner().invoke(app, ["corpus", "--pieces", "2", "--json"]).stdout)
    index = json.loads((Path(listing["path"]) / "index.json").read_text())
    track_id = index["tracks"][0]["id"]
    path = tmp_path / "piece.flac"
    result = CliRunner().invoke(
        app, ["corpus", "--pieces", "2", "--render", track_id, str(path), "--seed", "3", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rendered"] == str(path)
    assert soundfile.info(path).duration == 20.0


def test_an_unknown_piece_is_an_error_for_people(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["corpus", "--pieces", "2", "--render", "bach/none", str(tmp_path / "a.wav")])
    assert isinstance(result.exception, DataError)
    assert not list(tmp_path.iterdir())


def test_rendering_options_require_render(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["corpus", "--seed", "1"]).exit_code == 2


def test_importing_the_command_imports_nothing_heavy() -> None:
    program = (
        "import sys; import tritone_cli.commands.resources; "
        "print([name for name in ('numpy', 'symusic', 'music21', 'tritone_training') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "symusic" not in done.stdout
    assert "music21" not in done.stdout
    assert "tritone_training" not in done.stdout
