"""`tritone serve` heals itself: what dies or hangs is noticed within 2 s and serves again within 10 s."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.integration.python_models import CONFIG, DIE, HANG, Watched, make_repository, wait_until, watched

from tritone_serving import CanaryError, CrashLoopError
from tritone_serving.server import runtime_folder as runtime
from tritone_serving.supervision import watchdog
from tritone_serving.supervision.metrics import SupervisorMetrics
from tritone_serving.supervision.processes import stubs_of

pytestmark = [pytest.mark.triton, pytest.mark.quiet]

NOTICED_S = 2.0
HANG_NOTICED_S = 13.0  # a model of a foreign backend is asked every ten seconds only, since each check runs it
AGAIN_S = 10.0


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(
        make_repository(tmp_path_factory.mktemp("watched"), pair=2, single=1),
        first_pause_s=0.0,
    ) as made:
        yield made


@pytest.fixture
def clean(dog: Watched) -> Watched:
    """Both models answer, and nothing was said yet."""
    assert wait_until(lambda: dog.answers("pair") and dog.answers("single"), AGAIN_S) < AGAIN_S, dog.said
    dog.said.clear()
    return dog


def stub_of(dog: Watched, model: str) -> int:
    return next(stub.pid for stub in stubs_of(dog.server.pid) if stub.model == model and not stub.stopped)


def readiness(metrics: SupervisorMetrics) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", metrics.port, timeout=5)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_nothing_is_said_while_all_is_well(clean: Watched) -> None:
    pid = clean.server.pid
    assert clean.noticed("", timeout_s=3) == float("inf")
    assert clean.server.pid == pid


@pytest.mark.parametrize(("number", "word"), [(signal.SIGKILL, "dead"), (signal.SIGSTOP, "stopped")])
@pytest.mark.parametrize("model", ["pair", "single"])
def test_a_stub_that_dies_or_is_stopped_is_replaced_alone(
    clean: Watched, model: str, number: signal.Signals, word: str
) -> None:
    server_pid, broken = clean.server.pid, stub_of(clean, model)
    other = {stub.pid for stub in stubs_of(server_pid) if stub.model != model}
    os.kill(broken, number)
    assert clean.noticed(model, "reloading it") < NOTICED_S, clean.said
    assert word in clean.said[0] or "not healthy" in clean.said[0]  # a canary may meet it first
    assert clean.noticed(model, "answers again") < AGAIN_S, clean.said
    for _ in range(6):  # each instance answers
        assert clean.ask(model) == 2.0
    assert clean.server.pid == server_pid
    assert other <= {stub.pid for stub in stubs_of(server_pid)}
    n_expected = 2 if model == "pair" else 1
    assert wait_until(lambda: sum(s.model == model for s in stubs_of(server_pid)) == n_expected, 8) < 8
    assert len(clean.said) == 2, clean.said


def test_a_model_that_hangs_is_replaced(clean: Watched) -> None:
    failures: list[str] = []

    def ask() -> None:
        try:
            clean.ask("single", HANG, timeout_s=8)
        except CanaryError as error:
            failures.append(error.failure)

    caller = threading.Thread(target=ask)
    caller.start()
    assert clean.noticed("single: no answer", "idle") < HANG_NOTICED_S, clean.said
    caller.join()
    assert failures == ["broken"]  # told when its process was ended, before its own time was up
    assert clean.noticed("answers again") < AGAIN_S
    assert clean.ask("single") == 2.0


def test_a_model_that_computes_for_long_is_left_alone(clean: Watched) -> None:
    assert clean.ask("single", 2003.5, timeout_s=8) == 2004.5
    assert clean.said == []


def test_a_request_that_kills_its_stub_takes_no_other_along(clean: Watched) -> None:
    with pytest.raises(CanaryError, match="not healthy"):
        clean.ask("pair", DIE)
    assert clean.ask("pair") == 2.0  # by the other instance, or by a new one
    assert clean.noticed("pair", "answers again") < AGAIN_S


@pytest.mark.parametrize(("number", "word"), [(signal.SIGKILL, "killed by signal 9"), (signal.SIGSTOP, "stopped")])
def test_a_server_that_dies_or_hangs_is_started_again_in_its_place(
    clean: Watched, number: signal.Signals, word: str
) -> None:
    pid, token, folder = clean.server.pid, clean.server.admin_token, clean.server._folder
    os.kill(pid, number)
    assert clean.noticed(word) < NOTICED_S, clean.said
    assert wait_until(lambda: clean.answers("pair") and clean.answers("single"), AGAIN_S) < AGAIN_S, clean.said
    # It answers before all of its ports are open, and only then it takes the place of the one before.
    assert clean.noticed("the server answers again") < AGAIN_S, clean.said
    assert (clean.server.grpc_url, clean.server.admin_token) == (clean.grpc_url, token)
    assert clean.server.pid != pid
    assert folder is not None
    assert not folder.exists()
    assert list(runtime.SHARED_MEMORY.glob(f"{folder.name}*")) == []


def test_shared_memory_of_a_killed_server_is_cleaned_and_of_a_living_one_kept(clean: Watched, tmp_path: Path) -> None:
    living = clean.server._folder
    assert living is not None
    with watched(make_repository(tmp_path, single=1)) as other:
        dead = other.server._folder
        supervisor = other.server._supervisor
        assert supervisor is not None
        assert dead is not None
        assert list(runtime.SHARED_MEMORY.glob(f"{dead.name}*"))
        supervisor.kill()  # nobody is left to clean up after the server, which dies with it
        assert wait_until(lambda: other.server._folder != dead and other.answers("single"), AGAIN_S) < AGAIN_S
        assert list(runtime.SHARED_MEMORY.glob(f"{dead.name}*")) == []
        assert not dead.exists()
        runtime.remove_left_behind()
        assert list(runtime.SHARED_MEMORY.glob(f"{living.name}*"))
    assert clean.ask("single") == 2.0


def test_supervisor_gives_up_only_when_the_server_fails_to_start(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, single=1)
    with watched(repository, n_failed_starts=2, first_pause_s=0.1, foreign_run_s=0.5) as dog:
        for _ in range(6):  # a request that ends the server each time is no reason to give up
            pid = dog.server.pid
            os.kill(pid, signal.SIGFPE)
            assert wait_until(lambda pid=pid: dog.server.pid not in (0, pid) and dog.answers("single"), 20) < 20, (
                dog.said
            )
        assert dog.ended is None
        (repository / "single" / "1" / "model.py").write_text("TritonPythonModel = None\nraise RuntimeError('broken')")
        os.kill(dog.server.pid, signal.SIGFPE)
        assert wait_until(lambda: dog.ended is not None, 40) < 40, dog.said
        assert isinstance(dog.ended, CrashLoopError)
        assert "broken" in dog.ended.last
        assert not dog.server.is_alive()


def test_model_that_cannot_be_repaired_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, pair=2, single=1)
    metrics = SupervisorMetrics()
    metrics.serve("127.0.0.1", 0)
    with (
        closing(metrics),
        watched(repository, metrics=metrics, first_pause_s=0.1, longest_reload_pause_s=0.5, foreign_run_s=0.5) as dog,
    ):
        assert wait_until(lambda: readiness(metrics) == (200, {}), 10) < 10
        pid = dog.server.pid
        (repository / "single" / "die").touch()  # each request, checks included, ends the process from now on
        assert dog.noticed("single", "could not be reloaded", timeout_s=60) < 60, dog.said
        assert dog.answers("pair")
        assert dog.server.pid == pid
        assert wait_until(lambda: readiness(metrics)[0] == 503 and "single" in readiness(metrics)[1], 10) < 10
        (repository / "single" / "die").unlink()
        assert wait_until(lambda: dog.answers("single"), 60) < 60, dog.said
        assert dog.server.pid == pid
        assert wait_until(lambda: readiness(metrics) == (200, {}), 10) < 10


def test_dead_stub_of_a_server_with_an_api_key_is_replaced_alone(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, pair=2, single=1)
    with watched(repository, server={"api_key": "a-key-of-callers"}) as dog:
        assert wait_until(lambda: dog.answers("single"), AGAIN_S) < AGAIN_S
        pid = dog.server.pid
        os.kill(stub_of(dog, "single"), signal.SIGKILL)
        assert dog.noticed("single", "answers again") < AGAIN_S, dog.said
        assert dog.answers("single")
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
        assert dog.answers("single")
        shutil.copy(repository / "single" / "1" / "model.py", repository / "broken" / "1" / "model.py")
        assert wait_until(lambda: dog.answers("broken"), 30) < 30, dog.said


def test_server_that_holds_too_much_memory_is_restarted(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, single=1)
    metrics = SupervisorMetrics()
    with watched(repository, metrics=metrics, max_memory_bytes=1 << 20, memory_every_s=0.1) as dog:
        pid = dog.server.pid
        assert dog.noticed("resident") < AGAIN_S, dog.said
        assert wait_until(lambda: dog.server.pid != pid and dog.answers("single"), AGAIN_S) < AGAIN_S, dog.said
    port = metrics.serve("127.0.0.1", 0)
    with closing(metrics), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert 'tritone_supervisor_server_restarts_total{reason="memory"}' in text
    assert "tritone_supervisor_resident_limit_bytes 1.048576e+06" in text


def test_stub_that_dies_again_at_once_is_noticed_as_quickly(tmp_path: Path) -> None:
    with watched(make_repository(tmp_path, single=1)) as dog:
        assert wait_until(lambda: dog.answers("single"), AGAIN_S) < AGAIN_S
        for n in (1, 2, 3):
            os.kill(stub_of(dog, "single"), signal.SIGKILL)
            healed = wait_until(lambda n=n: sum("answers again" in line for line in dog.said) == n, 15)  # type: ignore[misc]
            assert healed < AGAIN_S, dog.said
