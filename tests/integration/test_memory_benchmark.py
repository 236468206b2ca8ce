"""The measurement of the memory of backend processes, on a small artifact in a real server."""

from __future__ import annotations

import pytest

from benchmarks import memory_recommender

pytestmark = pytest.mark.triton


def test_memory_and_latency_of_an_instance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "")  # which the measurement sets; restored after the test
    row = memory_recommender.floor(n_requests=20)
    assert row["n_instances"] == row["ready"]["n_processes"] == row["requests"]["n_processes"] == 1
    assert row["n_requests"] == 20
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    for moment in ("ready", "requests"):
        memory = row[moment]
        assert 0 < memory["anonymous_mb"] < memory["pss_mb"]
        assert 0 < memory["file_mb"] < memory["pss_mb"] <= memory["resident_mb"]
    memory_recommender.print_tables({"artifact": "small", "artifact_mb": 1, "floor": row, "servers": [row]})
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in table[3:]] == ["| floor", "| floor", "| 1", "| 1"]
