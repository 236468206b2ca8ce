"""The steps of the GPU check: time limits, partial results, and wrong arguments."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from tests.support.benchmark_tools import run_tool

from benchmarks import gpu_check
from benchmarks.gpu_check import LIMITS_S, Check, StepError, run, summary


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check(
        repository=tmp_path, out=tmp_path / "out.json", wheels=None, environment=tmp_path / "env", dry_run=True,
        seconds=0.1, limits_s=LIMITS_S,
    )  # fmt: skip


def test_the_steps_take_eight_minutes_at_most() -> None:
    assert sum(LIMITS_S.values()) <= 480


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    program = "import subprocess, time; subprocess.Popen(['sleep', '60']); print(1, flush=True); time.sleep(60)"
    lines: list[str] = []
    began_s = time.monotonic()
    with pytest.raises(StepError, match="took longer than 1 s"):
        run([sys.executable, "-c", program], 1, {}, on_line=lines.append)
    assert time.monotonic() - began_s < 10
    assert lines == ["1\n"]


def test_a_command_that_fails_names_its_last_lines() -> None:
    with pytest.raises(StepError, match=r"ended with 3: out \| no luck"):
        run([sys.executable, "-c", "import sys; print('out'); sys.stderr.write('no luck'); sys.exit(3)"], 10, {})


def test_every_step_is_written_as_soon_as_it_ends(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def tests(_: object, limit_s: float) -> dict[str, str]:
        assert json.loads(check.out.read_text())["steps"]["machine"]["ok"]
        raise StepError("no")

    monkeypatch.setattr(Check, "run_tests", tests)
    monkeypatch.setattr(Check, "measure", lambda self, where, limit_s: {"rows": [where]})
    assert not check.run()
    written = json.loads(check.out.read_text())
    assert written["steps"]["tests"]["error"] == "no"
    assert written["in_process"] == {"rows": ["in-process"]}
    assert written["served"] == {"rows": ["served"]}
    assert written["machine"]["gpu"] is None


def test_rows_before_a_time_limit_are_kept(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_some(command: list[str], limit_s: float, variables: object, *, on_line: object) -> str:
        on_line("a warning of a library\n")
        on_line('{"batch": 1}\n')
        raise StepError("too long")

    monkeypatch.setattr(gpu_check, "run", run_some)
    with pytest.raises(StepError):
        check.measure("in-process", 1)
    assert check.results["in_process"] == {"rows": [{"batch": 1}], "gpu": None}


def test_libraries_of_the_wheels_are_found(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = check.environment / "lib" / "python3.11" / "site-packages" / "nvidia" / "cudnn" / "lib"
    libraries.mkdir(parents=True)
    assert "LD_LIBRARY_PATH" not in check.variables()  # of the present environment
    check.wheels = check.repository
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    assert check.variables()["LD_LIBRARY_PATH"] == f"{libraries}{os.pathsep}/own"


def test_no_wheels(check: Check, tmp_path: Path) -> None:
    check.wheels = tmp_path
    with pytest.raises(StepError, match="--collect-wheels"):
        check.install(10)


def test_utilisation_and_memory() -> None:
    assert summary([[0.0, 100.0], [50.0, 300.0]]) == {
        "samples": 2, "utilisation_mean_percent": 25.0, "utilisation_max_percent": 50.0, "memory_max_mib": 300.0,
    }  # fmt: skip
    assert summary([]) == {"samples": 0}


@pytest.mark.parametrize("words", [["--dry-run", "--repository", "/nonexistent"], []], ids=str)
def test_wrong_arguments(tmp_path: Path, words: list[str]) -> None:
    version = tmp_path / "model_repository" / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").touch()
    done = run_tool("gpu_check", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("gpu_check: error: ")
