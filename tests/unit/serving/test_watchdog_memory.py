"""Tests of the supervisor's reaction to memory above its limit."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from tritone_serving.supervision import watchdog
from tritone_serving.supervision.metrics import SupervisorMetrics
from tritone_serving.supervision.options import SupervisionOptions
from tritone_serving.supervision.processes import Stub
from tritone_serving.supervision.watchdog import Watchdog

STUBS = [Stub(2, "large", "S"), Stub(3, "small", "S")]
BYTES = {1: 10, 2: 80, 3: 10}


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A supervisor of a server at its memory limit, which records the models that it reloads."""
    monkeypatch.setattr(watchdog, "anonymous_bytes", lambda pids: sum(BYTES[pid] for pid in pids))
    made: Any = Watchdog.__new__(Watchdog)
    made.server = SimpleNamespace(pid=1, runtime_folder=None)
    made._options = SupervisionOptions(memory_every_s=1e-9)
    made._metrics = SupervisorMetrics()
    made._memory_limit = 50
    made._next_memory_s = 0.0
    made._n_above_limit = 0
    made._models = {"large": None, "small": None}
    made._reloading = {}
    made.reloaded = []
    made._begin_reload = lambda model, *_: made.reloaded.append(model)
    return made


def test_the_model_that_holds_most_of_the_memory_is_reloaded(supervisor: Any) -> None:
    for _ in range(3):
        assert supervisor.reloaded == []
        supervisor._look_at_memory(STUBS)
    assert supervisor.reloaded == ["large"]


def test_a_model_that_is_being_reloaded_is_not_reloaded_a_second_time(supervisor: Any) -> None:
    supervisor._reloading["large"] = Future()
    for _ in range(6):
        supervisor._look_at_memory(STUBS)
    assert supervisor.reloaded == []
