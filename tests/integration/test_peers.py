"""A short comparison of Triton with the plain FastAPI service, which needs no other packages than this project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.benchmark_tools import run_tool

pytestmark = [pytest.mark.triton, pytest.mark.slow]
QUICK = ("--quick", "--json", "--models", "genre_cnn", "--peers", "triton", "fastapi-plain", "--seconds", 0.3)


def test_a_short_comparison(make_model_repository: Callable[[Path], Path], tmp_path: Path) -> None:
    repository = make_model_repository(tmp_path / "models")
    page = tmp_path / "peers.md"
    page.write_text("# Peers\n\n<!-- peers: begin -->\n<!-- peers: end -->\n")
    files = ("--repository", repository, "--table", page, "--out", tmp_path / "peers.json")
    done = run_tool("peers", *QUICK, "--clients", 2, "--rounds", 2, *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "peers.json").read_text())
    assert not result["missing"]
    rows = {(row["peer"], row["transport"]): row for row in result["rows"]}
    assert set(rows) == {("triton", "http"), ("triton", "grpc"), ("fastapi-plain", "http")}
    for row in rows.values():
        assert row["n_failed"] == 0
        assert row["n"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["server_cpu_s_per_1000"] > 0
        assert len(row["per_s_by_round"]) == 2
    for peer in result["peers"].values():
        assert peer["memory_mb"] > 30
        assert peer["processes"] >= 3
    text = page.read_text()
    assert text.count("| `genre_cnn` |") == 3
    assert "FastAPI, plain, HTTP" in text


def test_a_peer_without_the_model_is_reported(make_model_repository: Callable[[Path], Path], tmp_path: Path) -> None:
    repository = make_model_repository(tmp_path / "models")
    (repository / "genre_cnn" / "config.pbtxt").write_text("name: wrong")  # which only Triton reads
    done = run_tool("peers", *QUICK, "--clients", 1, "--rounds", 1, "--repository", repository, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result["missing"]) == ["triton"]
    assert "genre_cnn" in result["missing"]["triton"]
    assert {row["peer"] for row in result["rows"]} == {"fastapi-plain"}
    assert all(row["reference"]["per_s"] is None for row in result["rows"])
