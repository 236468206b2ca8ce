"""The adaptive limit of requests in flight, with a simulated server."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import ExitStack

import numpy as np
import pytest

from tritone import ServerBusyError
from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter, LimitedTransport
from tritone.messages import InferRequest, InferResponse, Request
from tritone.testing import MockTransport


def limits_of(n_parallel: int, *, max_limit: int = 64, n_calls: int = 20_000, pause_s: float = 0.0) -> list[int]:
    """Return the limits over time with a simulated server that processes `n_parallel` requests at once.

    Args:
        n_parallel: of the server.
        max_limit: of the limiter.
        n_calls: number of requests.
        pause_s: time without requests after every 500 of them.
    """
    now_s = [0.0]
    limiter = AdaptiveConcurrencyLimiter(max_limit, clock=lambda: now_s[0])
    request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
    running: deque[tuple[float, ExitStack]] = deque()  # by the time of their end
    limits = []
    limiter._n_waiting = 1  # decoding is faster than the server
    for n in range(n_calls):
        if pause_s and n % 500 == 0:
            for now_s[0], ended in running:
                ended.close()
            running.clear()
            now_s[0] += pause_s
        while len(running) < limiter.limit:
            call = ExitStack()
            call.enter_context(limiter.slot(request, 1, 10.0))
            begun_s = running[-n_parallel][0] if len(running) >= n_parallel else now_s[0]
            running.append((begun_s + 0.004, call))
        now_s[0], ended = running.popleft()
        ended.close()
        limits.append(limiter.limit)
    return limits


@pytest.mark.parametrize(("n_parallel", "expected"), [(1, 1), (3, 3), (8, 8), (24, 24)])
def test_the_limit_is_what_the_server_processes_at_once(n_parallel: int, expected: int) -> None:
    limits = limits_of(n_parallel)[10_000:]
    assert Counter(limits).most_common(1)[0][0] in (expected, expected + 1)
    assert max(limits) <= 2 * expected + 1


@pytest.mark.parametrize("n_parallel", [3, 8])
def test_time_without_requests_does_not_count(n_parallel: int) -> None:
    limits = limits_of(n_parallel, pause_s=2.0)[10_000:]
    assert Counter(limits).most_common(1)[0][0] in (n_parallel, n_parallel + 1)
    assert min(limits) >= n_parallel / 2


def test_the_limit_is_at_most_that_of_the_options() -> None:
    assert max(limits_of(24, max_limit=5)) == 5


def test_a_busy_answer_halves_the_limit() -> None:
    limiter = AdaptiveConcurrencyLimiter(64, start=24)
    request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
    with pytest.raises(ServerBusyError), limiter.slot(request, 1, 1.0):
        raise ServerBusyError("full")
    assert limiter.limit == 12


def test_a_busy_answer_halves_the_limit_that_holds_without_other_clients() -> None:
    now_s = [0.0]
    limiter = AdaptiveConcurrencyLimiter(64, start=24, clock=lambda: now_s[0])
    request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
    limiter.observe_model_rows(1_000)
    limiter.observe_model_rows(1_001)
    assert limiter.limit == 1
    with pytest.raises(ServerBusyError), limiter.slot(request, 1, 1.0):
        raise ServerBusyError("full")
    now_s[0] += 60.0
    assert limiter.limit == 12


def test_counts_of_two_replicas_behind_one_address_are_ignored() -> None:
    now_s = [0.0]
    limiter = AdaptiveConcurrencyLimiter(64, start=24, clock=lambda: now_s[0])
    yielding_s = 0.0
    for n in range(1_200):  # 300 s
        limiter.observe_model_rows((1_000, 50_000)[n % 2] + n)
        now_s[0] += 0.25
        yielding_s += 0.25 * limiter.is_yielding
    assert yielding_s < 1.0


def test_counts_are_used_again_some_time_after_a_restart() -> None:
    now_s = [0.0]
    limiter = AdaptiveConcurrencyLimiter(64, start=24, clock=lambda: now_s[0])
    for n_rows in (1_000, 0, 10):
        limiter.observe_model_rows(n_rows)
    assert not limiter.is_yielding
    now_s[0] += 601.0
    limiter.observe_model_rows(20)
    limiter.observe_model_rows(21)
    assert limiter.is_yielding


def test_two_jobs_on_one_server_yield_to_each_other() -> None:
    limiters = [AdaptiveConcurrencyLimiter(64, start=24) for _ in range(2)]
    request = InferRequest("m", "x", {"audio": np.zeros((4, 4), np.float32)}, ("y",))
    n_rows = 0
    for limiter in limiters:
        limiter.observe_model_rows(n_rows)
    for _ in range(3):
        for limiter in limiters:
            with limiter.slot(request, 4, 1.0):
                n_rows += 4
        for limiter in limiters:
            limiter.observe_model_rows(n_rows)
    assert [limiter.is_yielding for limiter in limiters] == [True, True]


def test_one_request_runs_at_a_time_while_others_use_the_model() -> None:
    limiter = AdaptiveConcurrencyLimiter(64, start=24)
    request = InferRequest("m", "x", {"audio": np.zeros((4, 4), np.float32)}, ("y",))
    n_rows = 1_000  # of everybody, before the job
    limiter.observe_model_rows(n_rows)
    with limiter.slot(request, 4, 1.0):
        limiter.observe_model_rows(n_rows + 4)  # the server may have counted rows in flight
    limiter.observe_model_rows(n_rows + 4)
    assert not limiter.is_yielding
    limiter.observe_model_rows(n_rows + 5)
    assert limiter.is_yielding
    assert limiter.limit == 1


def test_requests_are_shorter_while_others_use_the_model() -> None:
    now_s = [0.0]
    limiter = AdaptiveConcurrencyLimiter(64, clock=lambda: now_s[0])
    request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
    assert limiter.max_rows_per_request() == 1  # before the first response
    with limiter.slot(request, 1, 1.0):
        now_s[0] += 0.001
    assert limiter.max_rows_per_request() == 15
    for n_rows in (1_000, 1_002):
        limiter.observe_model_rows(n_rows)
    assert limiter.max_rows_per_request() == 1


def test_pieces_of_a_request_are_joined_in_order() -> None:
    def handle(request: Request) -> InferResponse:
        assert isinstance(request, InferRequest)
        return InferResponse("m", "1", request.request_id, {"y": request.inputs["audio"][:, :2]})

    audio = np.arange(20, dtype=np.float32).reshape(5, 4)
    transport = LimitedTransport(MockTransport(handle), AdaptiveConcurrencyLimiter(2))
    response = transport.handle(InferRequest("m", "x", {"audio": audio}, ("y",)), timeout_s=5.0)
    assert response.outputs["y"].tolist() == audio[:, :2].tolist()


def test_pieces_of_a_request_are_of_about_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def handle(request: Request) -> InferResponse:
        assert isinstance(request, InferRequest)
        sizes.append(len(request.inputs["audio"]))
        return InferResponse("m", "1", request.request_id, {"y": request.inputs["audio"]})

    limiter = AdaptiveConcurrencyLimiter(2)
    monkeypatch.setattr(limiter, "max_rows_per_request", lambda: 6)
    transport = LimitedTransport(MockTransport(handle), limiter)
    for n_rows in (6, 7, 16):
        audio = np.zeros((n_rows, 4), np.float32)
        transport.handle(InferRequest("m", "x", {"audio": audio}, ("y",)), timeout_s=5.0)
    assert sizes == [6, 4, 3, 6, 5, 5]
