"""The dry run of the GPU check: everything but the installation and the GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.benchmark_tools import ROOT, run_tool

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_the_dry_run(make_model_repository: Callable[[Path], Path], tmp_path: Path) -> None:
    repository, out = make_model_repository(tmp_path / "models"), tmp_path / "gpu.json"
    command = [ROOT / "benchmarks/gpu_check.sh", "--dry-run", "--repository", repository, "--out", out]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*map(str, command), "--seconds", "0.1"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result == json.loads(done.stdout)
    assert result["dry_run"] is True
    assert {name: step["ok"] for name, step in result["steps"].items()} == dict.fromkeys(
        ("machine", "tests", "in_process", "served"), True
    )
    assert result["tests"]["summary"].startswith("5 passed, 1 skipped")
    for where in ("in_process", "served"):
        rows = result[where]["rows"]
        assert [(row["precision"], row["batch"]) for row in rows] == [("fp32", 1), ("fp32", 8), ("fp32", 64)]
        for row in rows:
            assert row["clips_per_s"] == pytest.approx(row["windows_per_s"] / 7)
    assert all(row["largest_difference_from_cpu"] == 0 for row in result["in_process"]["rows"])
    assert all(row["failed"] == 0 for row in result["served"]["rows"])


def test_results_before_a_failure_are_kept(make_model_repository: Callable[[Path], Path], tmp_path: Path) -> None:
    repository, out = make_model_repository(tmp_path / "models"), tmp_path / "gpu.json"
    (repository / "genre_cnn" / "config.pbtxt").write_text("name: wrong")
    options = ("--dry-run", "--repository", repository, "--out", out, "--seconds", 0.1)
    done = run_tool("gpu_check", *options)
    assert done.returncode == 1
    result = json.loads(out.read_text())
    assert [name for name, step in result["steps"].items() if not step["ok"]] == ["tests", "served"]
    assert "genre_cnn" in result["steps"]["served"]["error"]
    assert len(result["in_process"]["rows"]) == 3
