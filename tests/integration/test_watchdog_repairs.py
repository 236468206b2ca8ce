"""What the supervisor does about models and servers that fail again and again; how fast is tested elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.integration.python_models import CONFIG, make_repository, stub_of, wait_until, watched

from tritone_serving import CrashLoopError
from tritone_serving.supervision import watchdog
from tritone_serving.supervision.metrics import SupervisorMetrics

pytestmark = pytest.mark.triton

LIMIT_S = 120.0  # other tests run at the same time


def readiness(metrics: SupervisorMetrics) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", metrics.port, timeout=5)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_supervisor_gives_up_only_when_the_server_fails_to_start(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, single=1)
    with watched(repository, n_failed_starts=2, first_pause_s=0.1, foreign_run_s=0.5) as dog:
        for _ in range(3):  # a request that ends the server each time is no reason to give up
            pid = dog.server.pid
            os.kill(pid, signal.SIGFPE)
            waited_s = wait_until(lambda pid=pid: dog.server.pid not in (0, pid) and dog.answers("single"), LIMIT_S)
            assert waited_s < LIMIT_S, dog.said
        assert dog.ended is None
        (repository / "single" / "1" / "model.py").write_text("TritonPythonModel = None\nraise RuntimeError('broken')")
        os.kill(dog.server.pid, signal.SIGFPE)
        assert wait_until(lambda: dog.ended is not None, LIMIT_S) < LIMIT_S, dog.said
        assert isinstance(dog.ended, CrashLoopError)
        assert "broken" in dog.ended.last
        assert not dog.server.is_alive()


def test_model_that_cannot_be_repaired_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, pair=2, single=1)
    metrics = SupervisorMetrics()
    metrics.serve("127.0.0.1", 0)
    # The watchdog multiplies its limits where other processes want the cores, as they do beside other tests.
    options = {"first_pause_s": 0.1, "longest_reload_pause_s": 0.5, "foreign_run_s": 0.5, "answer_timeout_s": 2.0}
    with (
        closing(metrics),
        watched(repository, metrics=metrics, **options) as dog,
    ):
        assert wait_until(lambda: readiness(metrics) == (200, {}), LIMIT_S) < LIMIT_S
        pid = dog.server.pid
        (repository / "single" / "die").touch()  # each request, checks included, ends the process from now on
        assert dog.noticed("single", "could not be reloaded", timeout_s=LIMIT_S) < LIMIT_S, dog.said
        assert dog.ask("pair") == 2.0
        assert dog.server.pid == pid
        assert wait_until(lambda: readiness(metrics)[0] == 503 and "single" in readiness(metrics)[1], LIMIT_S) < LIMIT_S
        (repository / "single" / "die").unlink()
        assert wait_until(lambda: dog.answers("single"), LIMIT_S) < LIMIT_S, dog.said
        assert dog.server.pid == pid
        assert wait_until(lambda: readiness(metrics) == (200, {}), LIMIT_S) < LIMIT_S


def test_dead_stub_of_a_server_with_an_api_key_is_replaced_alone(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, pair=2, single=1)
    with watched(repository, server={"api_key": "a-key-of-callers"}) as dog:
        assert wait_until(lambda: dog.answers("single"), LIMIT_S) < LIMIT_S
        pid = dog.server.pid
        os.kill(stub_of(dog, "single"), signal.SIGKILL)
        assert dog.noticed("single", "answers again", timeout_s=LIMIT_S) < LIMIT_S, dog.said
        assert dog.ask("single") == 2.0
        assert dog.server.pid == pid
        assert dog.levels[0] == "warning"


def test_model_that_does_not_load_is_loaded_when_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_FIRST_RETRY_S", 0.5)
    repository = make_repository(tmp_path, single=1)
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "config.pbtxt").write_text(CONFIG.format(name="broken", count=1))
    (repository / "broken" / "1" / "model.py").write_text(
        "TritonPythonModel = None\nraise RuntimeError('the key is missing')"
    )
    with watched(repository, server={"require_all": False}) as dog:
        assert list(dog.server.failed_models) == ["broken"]
        assert "the key is missing" in dog.server.failed_models["broken"]
        assert dog.ask("single") == 2.0
        shutil.copy(repository / "single" / "1" / "model.py", repository / "broken" / "1" / "model.py")
        assert wait_until(lambda: dog.answers("broken"), LIMIT_S) < LIMIT_S, dog.said


def test_server_that_holds_too_much_memory_is_restarted(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, single=1)
    metrics = SupervisorMetrics()
    with watched(repository, metrics=metrics, max_memory_bytes=1 << 20, memory_every_s=0.1) as dog:
        pid = dog.server.pid
        assert dog.noticed("resident", timeout_s=LIMIT_S) < LIMIT_S, dog.said
        assert wait_until(lambda: dog.server.pid != pid and dog.answers("single"), LIMIT_S) < LIMIT_S, dog.said
    port = metrics.serve("127.0.0.1", 0)
    with closing(metrics), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert 'tritone_supervisor_server_restarts_total{reason="memory"}' in text
    assert "tritone_supervisor_resident_limit_bytes 1.048576e+06" in text
