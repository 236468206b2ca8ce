"""What clients saw of a fault is counted right; and, on request, that with two replicas they see nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.benchmark_tools import run_tool

from benchmarks.fault_clients import TimedCall, seen, shortened
from benchmarks.fault_injection import FAULTS
from benchmarks.fault_report import markdown, page

ROW: dict[str, Any] = {
    "fault": "stub", "mode": "two", "name": "kill -9 of a stub", "clients": "two replicas", "missing": "",
    "requests": 100, "lost": 0, "longest_gap_s": 0.21, "noticed_s": 0.5, "again_s": 1.25, "healed": True,
    "errors": [], "log": [], "notes": [],
}  # fmt: skip


def test_the_longest_gap_is_between_answers_of_any_client() -> None:
    calls = [
        TimedCall(0, 9.5),
        TimedCall(9, 10.5),
        TimedCall(9.9, 11.0),
        TimedCall(10.5, 14.0),
        TimedCall(11.0, 11.5, "gone"),
        TimedCall(14, 14.2),
    ]
    found = seen(calls, fault_s=10.0)
    assert found["requests"] == 6
    assert found["lost"] == 1
    assert found["errors"] == ["gone"]
    assert found["longest_gap_s"] == pytest.approx(3.0)  # from 11 to 14: an error is no answer


def test_a_service_that_never_comes_back_is_a_gap_to_the_end() -> None:
    calls = [TimedCall(0, 1), TimedCall(2, 3), TimedCall(3, 20, "gone")]
    assert seen(calls, fault_s=2.5)["longest_gap_s"] == pytest.approx(17.0)
    assert seen([TimedCall(0, 1), TimedCall(1, 20, "gone")], fault_s=2.0)["longest_gap_s"] == pytest.approx(18.0)


def test_what_was_said_fits_a_cell() -> None:
    said = shortened("ServerBusyError: the server answered to request 12-ab: no | luck\n" + "x" * 500)
    assert said.startswith("ServerBusyError: the server answered: no / luck x")
    assert len(said) < 120
    assert shortened("no connection to grpc://127.0.0.2:41825") == "no connection to grpc://HOST:PORT"
    assert shortened("/tmp/x/tritone-chaos-ab12_/disk/repository: no room") == "disk/repository: no room"


def test_a_row_is_markdown() -> None:
    lines = markdown([ROW]).splitlines()
    assert {line.count("|") for line in lines} == {9}
    assert "| 100 | 0 | 0.2 s | 0.5 s | 1.2 s | - |" in lines[-1]


def test_what_was_not_tried_or_not_healed_is_said() -> None:
    missing = {"fault": "clock", "mode": "two", "name": "clock", "clients": "two", "missing": "no libfaketime"}
    text = page([ROW, missing, {**ROW, "healed": False, "lost": 3}], {"two": "two replicas"})
    assert "not tried: no libfaketime" in text
    assert "not within half a minute" in text
    assert "3 of 200 calls lost" in text


@pytest.mark.chaos
@pytest.mark.triton
@pytest.mark.timeout(280)
def test_two_replicas_lose_no_call(tmp_path: Path) -> None:
    faults = ["stubs", "server", "server-stop", "replica", "bad-load"]
    done = run_tool("faults", *faults, "--modes", "two", "--json", "--report", tmp_path / "faults.md")
    assert done.stdout, done.stderr
    for row in json.loads(done.stdout)["rows"]:
        assert row["lost"] == 0, row
        assert row["requests"] > 100, row
        assert row["healed"], row
    assert done.returncode == 0
    assert FAULTS["server"].name in (tmp_path / "faults.md").read_text()
