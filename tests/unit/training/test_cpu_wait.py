"""The clock of a cluster without a free CPU."""

from __future__ import annotations

import pytest

from tritone_training.exceptions import TrainingError
from tritone_training.kinds.recommender.engines import EngineError, cpu_wait
from tritone_training.kinds.recommender.engines.cpu_wait import CpuWait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in a list."""
    now = [100.0]
    monkeypatch.setattr(cpu_wait.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("progress", [True, False])
def test_waiting_is_reported_and_has_a_limit(
    progress: bool, clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    wait = CpuWait("Ray", progress=progress)
    for clock[0] in (110.0, 699.0):
        wait.check("0 CPUs")
    shown = [f"waiting for a free CPU in the Ray cluster (0 CPUs), {waited} s\n" for waited in (10, 599)]
    assert capfd.readouterr() == ("", "".join(shown) if progress else "")
    clock[0] = 700.0
    with pytest.raises(EngineError, match=r"no free CPU in the Ray cluster for 600 s \(0 CPUs\); add workers"):
        wait.check("0 CPUs")


def test_a_task_that_runs_sets_the_clock_to_zero(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONE_CLUSTER_TIMEOUT_S", "20")
    wait = CpuWait("Spark", progress=False)
    clock[0] += 19
    wait.check("none")
    wait.restart()
    clock[0] += 19
    wait.check("none")
    clock[0] += 1
    with pytest.raises(EngineError, match="for 20 s"):
        wait.check("none")


@pytest.mark.parametrize("text", ["0", "soon", "1e9", "nan"])
def test_a_limit_out_of_range_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONE_CLUSTER_TIMEOUT_S", text)
    with pytest.raises(TrainingError, match="TRITONE_CLUSTER_TIMEOUT_S: expected 1 to 86400 seconds"):
        CpuWait("Ray", progress=False)
