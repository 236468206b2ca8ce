"""The measurements of the recommender: candidates, a process within a limit of memory, and sizes that fail."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from benchmarks import candidate_recall, limited_memory, scale_recommender

N_REQUESTS = 4


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    return models.make_artifact(folder / "artifact", folder / "key", n_items=400)


def test_recall_of_candidates(artifact: Path, tmp_path: Path) -> None:
    measured = {}
    for per_model in (candidate_recall.EXACT, 100, 400):
        options = argparse.Namespace(
            artifact=artifact, key=artifact.parent / "key", requests=N_REQUESTS, worker=per_model, responses=tmp_path
        )
        measured[per_model] = candidate_recall.measure(options)
    assert measured[candidate_recall.EXACT]["scored"] == "all items"
    for kind in candidate_recall.KINDS:
        found = candidate_recall.compared(tmp_path, kind, 400)
        assert found["recall"] == found["min_recall"] == 1
        assert found["difference"] < 1e-5
        few = measured[100]["kinds"][kind]["n_candidates"]
        assert 0 < few <= measured[candidate_recall.EXACT]["kinds"][kind]["n_candidates"] == 400


def test_recall_counts_what_is_missing_and_what_ties(tmp_path: Path) -> None:
    scores = np.array([[3.0, 2.0, 1.0]], np.float32)
    np.savez(tmp_path / "cold-0.npz", items=np.array([[5, 6, 7]]), scores=scores)
    np.savez(tmp_path / "cold-9.npz", items=np.array([[5, 8, 9]]), scores=np.array([[3.5, 1.0, 0.5]], np.float32))
    found = candidate_recall.compared(tmp_path, "cold", 9)
    assert found["recall"] == pytest.approx(2 / 3, abs=1e-4)  # 5, and 8, which is as good as 7
    assert found["difference"] == pytest.approx(0.5)


def test_files_are_read_again_after_they_were_evicted(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited_memory.evict(artifact)
    monkeypatch.setattr(limited_memory, "KEY", (artifact.parent / "key").read_bytes().strip())
    result = limited_memory.alone(artifact)
    assert result["open_s"] > 0
    assert result["first"]["p99_ms"] >= result["first"]["p50_ms"] > 0


def test_a_limit_needs_a_cgroup(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_memory, "CGROUPS", ((tmp_path / "none", "memory.max", "memory.peak", ("", "")),))
    with pytest.raises(OSError, match="no cgroup can be made"):
        limited_memory.limited(artifact, 64)


@pytest.mark.parametrize(
    ("swap", "expected"), [(limited_memory.CGROUPS[0][3], "0"), (limited_memory.CGROUPS[1][3], str(64 << 20))]
)
def test_nothing_may_be_swapped_out(swap: tuple[str, str], expected: str, tmp_path: Path) -> None:
    limited_memory.set_limit(tmp_path, "limit", swap, 64)  # of a kernel that does not count swap
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"limit": str(64 << 20)}
    (tmp_path / swap[0]).write_text("max")
    limited_memory.set_limit(tmp_path, "limit", swap, 64)
    assert (tmp_path / swap[0]).read_text() == expected


# --- sizes of fits -----------------------------------------------------------------------------------


@pytest.fixture
def measured_sizes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sizes that are measured by a process, which fails for `8k`."""
    names: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        name = command[command.index("--one") + 1]
        names.append(name)
        row = {"size": name, "engine": {"name": "local", "workers": 1}}
        return subprocess.CompletedProcess(command, int(name == "8k"), json.dumps(row), "no memory")

    monkeypatch.setattr(subprocess, "run", run)
    return names


def run_scale(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["scale_recommender", *map(str, arguments)])
    scale_recommender.main()


def test_a_size_that_fails_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], measured_sizes: list[str]
) -> None:
    with pytest.raises(SystemExit, match="failed: 8k"):
        run_scale(monkeypatch, "--sizes", "2k,8k,50k")
    assert measured_sizes == ["2k", "8k", "50k"]
    output = capsys.readouterr()
    assert [json.loads(line)["size"] for line in output.out.splitlines()] == ["2k", "50k"]
    assert "8k: failed\nno memory" in output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--sizes", "2k,9k"), "expected some of 2k, 8k"), (("--sizes", "2k,50k"), "50k exists already; remove it")],
)
def test_arguments_that_would_lose_a_measurement_are_refused(
    arguments: tuple[str, ...],
    message: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measured_sizes: list[str],
) -> None:
    (tmp_path / "50k").mkdir()
    with pytest.raises(SystemExit) as ended:
        run_scale(monkeypatch, *arguments, "--keep", tmp_path)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not measured_sizes
