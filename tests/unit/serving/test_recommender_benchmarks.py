"""The measurements of candidates and of a process within a limit of memory, on a small artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from benchmarks import candidate_recall, limited_memory

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
        assert found["recall"] == found["least_recall"] == 1
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
    monkeypatch.setattr(limited_memory, "CGROUPS", ((tmp_path / "none", "memory.max", "memory.peak"),))
    with pytest.raises(OSError, match="no cgroup can be made"):
        limited_memory.limited(artifact, 64)
