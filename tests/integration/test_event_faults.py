"""Events that were acknowledged are stored after servers, backends and stores were killed under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.event_faults import FAULTS, EventFault, FaultResult, markdown, run_fault

CHOSEN = ("kill -9 of the server sqlite", "kill -9 of the store, back after 2 s valkey everysec")


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_no_acknowledged_event_is_lost(name: str, tmp_path: Path) -> None:
    [fault] = [each for each in FAULTS if f"{each.name} {each.store}" == name]
    result = run_fault(fault, tmp_path, seconds=1)
    assert result.acknowledged > 500
    assert result.errors > 0  # the fault was felt
    assert (result.lost, result.twice) == (0, 0)
    assert result.again_s is not None


@pytest.mark.triton
@pytest.mark.slow
def test_a_lost_event_is_noticed(tmp_path: Path) -> None:
    def remove(_: object) -> None:
        for path in tmp_path.glob("events.db*"):  # the server makes a new file
            path.unlink()

    result = run_fault(EventFault("removed file", "sqlite", remove), tmp_path, seconds=0.5)
    assert result.lost > 0


def test_results_are_a_table() -> None:
    result = FaultResult("kill", "sqlite", 1_000, 2, 0, 0, None, ["a | b"])
    assert markdown([result]).splitlines()[-1] == "| kill | sqlite | 1,000 | 2 | 0 | 0 | never | a / b |"
