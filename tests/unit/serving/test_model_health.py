"""Tests of when the supervisor considers a model dead, hung or failing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2

from tritone_serving import CanaryError, OptionsError
from tritone_serving.supervision import health as model_health
from tritone_serving.supervision.cpu_pressure import CpuTimes
from tritone_serving.supervision.health import ModelHealth, answers_health_checks
from tritone_serving.supervision.options import Backoff, SupervisionOptions
from tritone_serving.supervision.processes import Stub

SERVER_PID = 1
STUBS = (Stub(10, "model", "S"), Stub(11, "model", "S"))


def make_config(*, backend: str = "onnxruntime", cache: bool = False, n_values: int = 100) -> Any:
    made = model_config_pb2.ModelConfig(name="model", backend=backend, max_batch_size=4)
    made.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[n_values])
    made.instance_group.add(count=2)
    made.response_cache.enable = cache
    return made


class Pool(ThreadPoolExecutor):
    """Returns futures that the test completes."""

    def __init__(self) -> None:
        super().__init__(1)
        self.sent: list[str] = []
        self.future: Future[Any] = Future()

    def submit(self, function: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:
        self.sent.append(function.__name__)
        self.future = Future()
        return self.future


class Host:
    """A clock and processor times that the test sets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.times = {SERVER_PID: CpuTimes(), 10: CpuTimes(), 11: CpuTimes()}
        patch.setattr(model_health.time, "monotonic", lambda: self.now_s)
        patch.setattr(model_health, "cpu_times", self._cpu_times)

    def _cpu_times(self, pids: Any) -> CpuTimes:
        each = [self.times[pid] for pid in pids]
        return CpuTimes(sum(times.run_s for times in each), sum(times.wait_s for times in each))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def pool() -> Pool:
    return Pool()


def watch(
    pool: Pool, *, n_expected: int = len(STUBS), backend: str = "onnxruntime", config: Any = None, **options: Any
) -> ModelHealth:
    return ModelHealth(
        "model",
        config or make_config(backend=backend),
        calls=None,  # type: ignore[arg-type]
        pool=pool,
        options=SupervisionOptions(**options),
        health_token="token",  # noqa: S106
        server_pid=SERVER_PID,
        on_check=lambda model, result: None,
        n_expected=n_expected,
    )


def wait(health: ModelHealth, host: Host, seconds: float, *, patience: float = 1.0) -> list[str]:
    """Look every 0.4 s; the reasons of what was found."""
    found = []
    for _ in range(round(seconds / 0.4)):
        host.now_s += 0.4
        problem = health.look(STUBS, 0, patience=patience)
        if problem is not None:
            found.append(problem.reason)
            break
    return found


def test_idle_model_that_does_not_answer_is_hung(host: Host, pool: Pool) -> None:
    health = watch(pool)
    assert wait(health, host, 8) == ["hung"]


def test_model_that_waits_for_a_processor_is_not_hung(host: Host, pool: Pool) -> None:
    health = watch(pool)
    for _ in range(20):
        host.times[10] = CpuTimes(0.0, host.times[10].wait_s + 0.4)  # ready to run all the time, never running
        assert wait(health, host, 0.4) == []


def test_model_whose_server_waits_for_a_processor_is_not_hung(host: Host, pool: Pool) -> None:
    health = watch(pool)
    for _ in range(20):
        host.times[SERVER_PID] = CpuTimes(0.0, host.times[SERVER_PID].wait_s + 0.2)
        assert wait(health, host, 0.4) == []


def test_called_model_is_named_by_the_config(pool: Pool) -> None:
    described = make_config(backend="recordings")
    described.parameters["classifier_model"].string_value = "genre_cnn"
    for made, expected in ((described, "genre_cnn"), (make_config(), "")):
        before = made.SerializeToString()
        health = watch(pool, config=made)
        assert health.called_model == expected
        assert health.config.SerializeToString() == before  # a changed config would mean another model


def test_model_that_waits_for_a_busy_model_that_it_calls_is_not_hung(host: Host, pool: Pool) -> None:
    health = watch(pool)
    called = (Stub(20, "called", "R"),)
    for n in range(20):
        host.times[20] = CpuTimes(0.4 * n, 0.0)
        host.now_s += 0.4
        assert health.look(STUBS, 0, patience=1.0, called=called) is None
    problem = None
    for _ in range(10):  # the called model has finished, and this one still does not answer
        host.now_s += 0.4
        problem = problem or health.look(STUBS, 0, patience=1.0, called=called)
    assert problem is not None
    assert problem.reason == "hung"


def test_computing_model_is_hung_after_its_own_limit(host: Host, pool: Pool) -> None:
    health = watch(pool, busy_s=10.0)
    found: list[str] = []
    begun_s = host.now_s
    while not found and host.now_s < begun_s + 60:
        host.times[10] = CpuTimes(host.times[10].run_s + 0.4, 0.0)
        found = wait(health, host, 0.4)
    assert found == ["hung"]
    assert host.now_s - begun_s > 10


def test_pressure_widens_the_limit(host: Host, pool: Pool) -> None:
    health = watch(pool)
    assert wait(health, host, 15, patience=20.0) == []


def test_traffic_needs_no_check(host: Host, pool: Pool) -> None:
    health = watch(pool)
    for n in range(100):
        host.now_s += 0.4
        health.look(STUBS, n, patience=1.0)
    assert len(pool.sent) <= 1


def look_for(health: ModelHealth, host: Host, pool: Pool, seconds: float, stubs: tuple[Stub, ...]) -> None:
    """Look every 0.25 s; every check is answered at once."""
    for _ in range(round(seconds / 0.25)):
        host.now_s += 0.25
        health.look(stubs, 0, patience=1.0)
        if pool.sent and not pool.future.done():
            pool.future.set_result(None)


def stuck(value: bool | None, pid: int = 10) -> Stub:
    return Stub(pid, "model", "S", value)


def test_stuck_process_is_checked_at_once_and_hung_within_two_seconds(host: Host, pool: Pool) -> None:
    health = watch(pool, n_expected=1)
    look_for(health, host, pool, 5, (stuck(False),))
    n_before, begun_s = len(pool.sent), host.now_s
    problem = None
    while problem is None and host.now_s < begun_s + 10:
        host.now_s += 0.25
        problem = health.look((stuck(True),), 0, patience=1.0)
    assert problem is not None
    assert problem.reason == "hung"
    assert pool.sent[n_before:] == ["check_health"]
    assert host.now_s - begun_s < 1.5  # the scanner needs two looks before


def test_stuck_process_whose_model_answers_is_left_alone_and_checked_twice_a_second(host: Host, pool: Pool) -> None:
    health = watch(pool)
    look_for(health, host, pool, 10, (stuck(True), stuck(False, 11)))
    assert 8 <= len(pool.sent) <= 20


def test_model_of_another_backend_is_not_run_because_it_seems_stuck(host: Host, pool: Pool) -> None:
    health = watch(pool, backend="python")
    look_for(health, host, pool, 9, (stuck(True), stuck(True, 11)))
    assert pool.sent == ["_run_model"]


def test_processes_that_cannot_be_seen_are_checked_more_often(host: Host, pool: Pool) -> None:
    seen, unseen = watch(pool), watch(pool)
    look_for(seen, host, pool, 30, (stuck(False), stuck(False, 11)))
    n_seen = len(pool.sent)
    look_for(unseen, host, pool, 30, (stuck(None), stuck(False, 11)))
    assert 3 <= n_seen <= 4
    assert 13 <= len(pool.sent) - n_seen <= 16


def test_model_is_run_rarely_and_checked_often(host: Host, pool: Pool) -> None:
    health = watch(pool, check_s=2.0, run_s=60.0)
    for _ in range(round(130 / 0.4)):
        host.now_s += 0.4
        health.look(STUBS, 0, patience=1.0)
        if not pool.future.done():
            pool.future.set_result(None)
    assert pool.sent.count("_run_model") == 2
    assert 30 <= pool.sent.count("check_health") <= 66


@pytest.mark.parametrize(("state", "reason"), [("T", "stopped"), ("", "dead")])
def test_missing_process_is_reported_whatever_the_pressure(host: Host, pool: Pool, state: str, reason: str) -> None:
    health = watch(pool)
    health.look(STUBS, 0, patience=20.0)
    left = (STUBS[0], Stub(11, "model", state)) if state else STUBS[:1]
    problems = []
    for _ in range(3):
        host.now_s += 0.4
        problems.append(health.look(left, 0, patience=20.0))
    assert problems[-1] is not None
    assert problems[-1].reason == reason


def test_failed_checks_count_only_in_a_row(host: Host, pool: Pool) -> None:
    health = watch(pool)
    outcomes = ["broken", "broken", "refused", "broken", "broken", "broken"]
    reasons = []
    for failure in outcomes:
        while pool.future.done() or not pool.sent:
            host.now_s += 0.4
            health.look(STUBS, 0, patience=1.0)
        sent = len(pool.sent)
        pool.future.set_exception(CanaryError("model: no", model="model", failure=failure))
        host.now_s += 0.4
        problem = health.look(STUBS, 0, patience=1.0)
        reasons.append(problem and problem.reason)
        while len(pool.sent) == sent:
            host.now_s += 0.4
            health.look(STUBS, 0, patience=1.0)
    assert reasons == [None, None, None, None, None, "failing"]


def test_unhealthy_stub_on_a_busy_machine_is_given_more_checks(host: Host, pool: Pool) -> None:
    health = watch(pool)
    error = CanaryError("model: Stub process is not healthy", model="model", failure="broken")
    for _ in range(6):
        while pool.future.done() or not pool.sent:
            host.now_s += 0.4
            health.look(STUBS, 0, patience=20.0)
        pool.future.set_exception(error)
        host.now_s += 0.4
        assert health.look(STUBS, 0, patience=20.0) is None


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (make_config(), True),
        (make_config(cache=True), False),  # the cache would return such a response to a caller
        (make_config(n_values=1), True),
        (make_config(backend="python"), False),
    ],
)
def test_checks_without_outputs_never_meet_a_caller_in_the_cache(made: Any, expected: bool) -> None:
    assert answers_health_checks(made) is expected


def test_pauses_double_and_begin_again_when_all_was_well() -> None:
    backoff = Backoff(SupervisionOptions(first_pause_s=0.5, well_s=60.0), longest_s=5.0)
    assert [backoff.next_pause_s(now_s) for now_s in (100, 101, 102, 103, 104, 105, 106)] == [0, 0.5, 1, 2, 4, 5, 5]
    assert backoff.next_pause_s(200) == 0


@pytest.mark.parametrize(
    "wrong", [{"check_s": 0}, {"silent_s": -1}, {"busy_s": float("nan")}, {"n_failed_starts": 0}, {"run_s": -1}]
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionsError):
        SupervisionOptions(**wrong)  # type: ignore[arg-type]


def test_process_that_ends_before_the_first_look_is_missing(host: Host, pool: Pool) -> None:
    health = watch(pool)
    found = []
    for _ in range(10):
        host.now_s += 0.4
        found.append(health.look([], 0, patience=1.0))
    assert [each.reason for each in found if each is not None][:1] == ["dead"]


def test_model_of_a_native_backend_misses_no_process(host: Host, pool: Pool) -> None:
    health = watch(pool, n_expected=0, silent_s=60.0)
    for _ in range(5):
        host.now_s += 0.4
        assert health.look([], 0, patience=1.0) is None
