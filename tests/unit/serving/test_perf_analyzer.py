"""perf_analyzer's output as it is, as it must not be believed, and the program missing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tritone_serving import PerfAnalyzerError, PerfAnalyzerMissingError, UnstableError
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, check_data, parse_delayed, parse_table, write_data

HEAD = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)
ROW = "4,123.954,37,3626,2104,153,25551,677,2,28635,56255,63866,86475"


def stand_in(folder: Path, body: str) -> PerfAnalyzer:
    """A program in perf_analyzer's place."""
    path = folder / "stand_in"
    path.write_text(f"#!{sys.executable}\nimport sys\nargs = sys.argv\n{body}\n")
    path.chmod(0o755)
    return PerfAnalyzer(path, {}, "0")


def measure(tool: PerfAnalyzer, folder: Path, load: Load | None = None) -> object:
    return tool.measure(
        "m", "localhost:1", protocol="grpc", data=folder / "m.json", load=load or Load(concurrency=4), window_s=0.1
    )


def test_the_table_is_read_in_milliseconds() -> None:
    reading = parse_table(f"{HEAD}\n{ROW}\n")
    assert reading.per_s == 123.954
    assert (reading.p50_ms, reading.p90_ms, reading.p95_ms, reading.p99_ms) == (28.635, 56.255, 63.866, 86.475)


@pytest.mark.parametrize(
    "text", ["", HEAD, f"{HEAD}\n{ROW}\n{ROW}", "Concurrency\n4", f"{HEAD}\n4,0,37,1,1,1,1,1,2,1,1,1,1", f"{HEAD}\n4,x"]
)
def test_a_table_without_one_whole_row_is_no_reading(text: str) -> None:
    with pytest.raises(PerfAnalyzerError):
        parse_table(text)


def test_late_requests_are_read_from_the_warning() -> None:
    said = "[WARNING] Perf Analyzer was not able to keep up with the desired request rate. 12.50% of the requests were "
    assert parse_delayed(said + "delayed. \n") == 0.125
    assert parse_delayed("all well") == 0


def test_windows_that_do_not_agree_give_no_figure(tmp_path: Path) -> None:
    # Even if there is a table: the words count.
    body = f"""
open(args[args.index('-f') + 1], 'w').write({HEAD + chr(10) + ROW!r})
print('Failed to obtain stable measurement within 8 measurement windows for concurrency 4.', file=sys.stderr)
sys.exit(2)"""
    with pytest.raises(UnstableError, match=r"m, 4 at once: no 3 of 8 windows of 0\.1 s in a row agreed within 10 %"):
        measure(stand_in(tmp_path, body), tmp_path)


def test_what_else_goes_wrong_is_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"{HEAD}\n{ROW}\n")  # beside the questions: somebody's own
    with pytest.raises(PerfAnalyzerError, match="no such model") as caught:
        measure(stand_in(tmp_path, "sys.exit('error: no such model')"), tmp_path)
    assert not isinstance(caught.value, UnstableError)
    assert (tmp_path / "m.csv").is_file()


@pytest.mark.parametrize("text", [None, "", "[1]", "{}", '{"data": []}', '{"data": {}}', "\xff"])
def test_questions_that_are_none_are_refused_at_once(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "questions.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(PerfAnalyzerError, match=re.escape(str(path))):
        check_data(path)
    write_data(path, [{"x": np.zeros(2, np.float32)}])
    check_data(path)


def test_an_open_loop_asks_for_poisson_arrivals(tmp_path: Path) -> None:
    body = f"""
assert args[args.index('--request-rate-range') + 1] == '12.5' and '--concurrency-range' not in args
assert args[args.index('--request-distribution') + 1] == 'poisson'
open(args[args.index('-f') + 1], 'w').write({HEAD + chr(10) + ROW!r})
print('3.5% of the requests were delayed.')"""
    reading = measure(stand_in(tmp_path, body), tmp_path, Load(rate=12.5))
    assert reading == parse_table(f"{HEAD}\n{ROW}", delayed=0.035)


def test_a_missing_program_says_in_one_line_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerfAnalyzerMissingError, match=r"pip install .*tritonclient") as caught:
        PerfAnalyzer.find(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_program_that_lacks_a_library_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "perf_analyzer: error while loading shared libraries: libb64.so.0d: cannot open shared object file"
    (tmp_path / "perf_analyzer").write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 127\n")
    (tmp_path / "perf_analyzer").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PerfAnalyzerMissingError, match=r"libb64\.so\.0d.*libb64-0d"):
        PerfAnalyzer.find(tmp_path)


def test_inputs_keep_their_values_and_shapes(tmp_path: Path) -> None:
    import base64

    row = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_data(tmp_path / "d.json", [{"a": row, "t": np.array([b"x", "y"], object)}])
    told = json.loads((tmp_path / "d.json").read_text())["data"][0]
    assert told["a"]["shape"] == [2, 3]
    assert np.array_equal(np.frombuffer(base64.b64decode(told["a"]["content"]["b64"]), np.float32), row.ravel())
    assert told["t"] == {"content": ["x", "y"], "shape": [2]}
