from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from tritone_cli.commands import check


def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `lint` a verb though it is the only one
    app.command()(check.lint)
    return app


def spoiled(tmp_path: Path) -> Path:
    (tmp_path / "scorer" / "1").mkdir(parents=True)
    (tmp_path / "scorer" / "config.pbtxt").write_text('backend: "python"\nmax_batchsize: 4\n')
    (tmp_path / "scorer" / "1" / "model.py").write_text(
        "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    )
    return tmp_path


def test_findings_are_lines_on_stdout_and_status_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(app(), ["lint", str(spoiled(tmp_path))])
    assert result.exit_code == 1
    assert result.stdout == (
        f"{tmp_path}/scorer/config.pbtxt:2: error: unknown field 'max_batchsize' (did you mean 'max_batch_size'?)\n"
    )


def test_json_is_one_object(tmp_path: Path) -> None:
    result = CliRunner().invoke(app(), ["lint", str(spoiled(tmp_path)), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["n_models"] == 1
    assert [(f["line"], f["severity"], f["remedy"]) for f in report["findings"]] == [
        (2, "error", "did you mean 'max_batch_size'?")
    ]


def test_a_clean_repository_has_status_0_and_notes_on_stderr(tmp_path: Path) -> None:
    model = tmp_path / "scorer"
    model.mkdir()
    (model / "config.pbtxt").write_text('backend: "python"\n')
    result = CliRunner().invoke(app(), ["lint", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"] == []
    assert "no version yet" in result.stderr
    assert "no version yet" not in CliRunner().invoke(app(), ["lint", str(tmp_path)]).stdout


def test_lint_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tritone_export import lint_repository;"
        "lint_repository(Path(sys.argv[1])); print(sorted({'torch', 'onnxruntime', 'pandas'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(spoiled(tmp_path))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"
