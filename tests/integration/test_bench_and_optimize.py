"""`tritone bench` and `tritone optimize` on a real server."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import make_repository

from tritone_cli.optimize.search import SettingTrial
from tritone_export import lint_repository
from tritone_export.config import parse_config
from tritone_export.tuned import setting_of
from tritone_serving import PerfAnalyzerMissingError
from tritone_serving.perf_analyzer import PerfAnalyzer

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("perf_analyzer")]

QUICK = ("--rounds", "2", "--seconds", "0.6", "--threads", "1", "--batches", "8,16,32", "--delays", "500")


@pytest.fixture
def perf_analyzer() -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            PerfAnalyzer.find(Path(folder))
        except PerfAnalyzerMissingError as error:
            pytest.skip(str(error))


def test_bench_of_a_real_server(
    run_tritone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    repository = make_repository(tmp_path / "models")
    # 100 %: the machine may be busy, and it is not its figures that are tested.
    loads = ["--concurrency", "2", "--request-rate", "5", "--batch", "4", "--no-ceiling"]
    loads += ["--seconds", "0.4", "--stability", "100"]
    done = run_tritone("bench", "genre_cnn", "--repository", repository, *loads, "--report", tmp_path / "r", "--json")
    rows = json.loads(done.stdout)["models"]["genre_cnn"]["rows"]
    loads_of = [(each["concurrency"], each["rate"], each["request_batch"]) for each in rows]
    assert loads_of == [(2, None, 4), (None, 5.0, 4)]
    for each in rows:
        assert each["requests"] > 0
        assert each["failed"] == 0
        assert each["cache_hits"] == 0
        assert each["memory_mb"] > 10
        assert each["stub_cores"] > 0
        assert (each["per_s"] is None) == (each["problem"] is not None)
        if each["per_s"] is not None:
            assert 0 < each["p50_ms"] <= each["p99_ms"]
    assert done.status == (0 if any(each["per_s"] for each in rows) else 1)
    assert (tmp_path / "r" / "bench.md").is_file()


def two_instances(path: Path) -> Path:
    make_repository(path, name="genre_cnn")
    config = path / "genre_cnn" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    return path


def test_optimize_of_a_real_server(
    run_tritone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other setting wins whatever is measured: the test is about the files that are written.
    monkeypatch.setattr(SettingTrial, "ratios", lambda trial, base: [2.0 if trial.setting != base.setting else 1.0] * 2)
    repository = two_instances(tmp_path / "repository")
    words = ("optimize", "genre_cnn", "--repository", repository, "--instances", "3", *QUICK, "--json")
    done = run_tritone(*words)
    assert done.status == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"]
    assert all(row["per_s"] > 0 and row["p99_ms"] > 0 for row in told["table"])
    folder = repository / "genre_cnn"
    served = setting_of(parse_config((folder / "config.pbtxt").read_bytes()))
    assert served.as_json() == told["best"] == json.loads((folder / "serving.json").read_text())["setting"]
    assert lint_repository(repository) == []
    assert run_tritone("optimize", "genre_cnn", "--repository", repository, "--reset").status == 0
    assert setting_of(parse_config((folder / "config.pbtxt").read_bytes())).instances == 2
    assert not (folder / "serving.json").exists()
    again = run_tritone("optimize", "genre_cnn", "--repository", repository, "--reset")
    assert (again.status, "has the declared settings" in again.stderr) == (0, True)
