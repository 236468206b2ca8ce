"""`tritone serve` heals itself: what dies or hangs is noticed within 2 s and serves again within 10 s."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.python_models import DIE, HANG, MODEL, Watched, make_repository, stub_of, wait_until, watched

from tritone_serving import CanaryError
from tritone_serving.server import runtime_folder as runtime
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


@pytest.fixture
def own_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A model of a backend that answers health checks, as ours do."""
    backend = tmp_path / "backends" / "renderer"
    backend.mkdir(parents=True)
    marks = Path(runtime.BACKENDS_FOLDER) / "onnxruntime" / "tritone_ort_marks.py"
    (backend / marks.name).symlink_to(marks)
    answered = """
            if is_health_check(request):
                answers.append(pb_utils.InferenceResponse([]))
                continue
            x ="""
    own_model = "from tritone_ort_marks import is_health_check" + MODEL.replace("\n            x =", answered, 1)
    (backend / "model.py").write_text(own_model)
    monkeypatch.setattr(runtime, "BACKENDS_FOLDER", tmp_path / "backends")
    repository = make_repository(tmp_path / "models", single=1)
    config = repository / "single" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "python"', 'backend: "renderer"'))
    (repository / "single" / "1" / "model.py").unlink()
    (repository / "single" / "1" / "file").touch()
    with watched(repository, first_pause_s=0.0) as made:
        yield made


def test_a_hang_of_an_own_backend_is_noticed_within_two_seconds(own_backend: Watched) -> None:
    assert wait_until(lambda: own_backend.answers("single"), AGAIN_S) < AGAIN_S
    assert own_backend.noticed("", timeout_s=3) == float("inf")  # by then it is known where the process waits

    def ask() -> None:
        with pytest.raises(CanaryError):
            own_backend.ask("single", HANG, timeout_s=8)

    caller = threading.Thread(target=ask)
    caller.start()
    assert own_backend.noticed("single: no answer", "idle") < NOTICED_S, own_backend.said
    caller.join()
    assert own_backend.noticed("answers again") < AGAIN_S
    assert own_backend.ask("single") == 2.0


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


def test_stub_that_dies_again_at_once_is_noticed_as_quickly(tmp_path: Path) -> None:
    with watched(make_repository(tmp_path, single=1)) as dog:
        assert wait_until(lambda: dog.answers("single"), AGAIN_S) < AGAIN_S
        assert dog.noticed("", timeout_s=2) == float("inf")  # by then the watchdog has seen the process
        for n in (1, 2, 3):
            os.kill(stub_of(dog, "single"), signal.SIGKILL)
            healed = wait_until(lambda n=n: sum("answers again" in line for line in dog.said) == n, 15)  # type: ignore[misc]
            assert healed < AGAIN_S, dog.said
