"""Tests of the largest number of times that one request is sent."""

from __future__ import annotations

import itertools

import pytest

from tritone import ClientError, InferRequest, MusicClient, ReadyRequest, Request, Response, ServerBusyError
from tritone import retry as retry_module
from tritone.endpoints import make_endpoints
from tritone.exceptions import VersionChangedError
from tritone.retry import MAX_VERSION_RETRIES, max_sends
from tritone.testing import MockTransport
from tritone.transports.balanced import BalancedTransport


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY_S", "FIRST_VERSION_DELAY_S"):
        monkeypatch.setattr(retry_module, name, 1e-5)


def failing_server(kinds: list[type[ClientError]]) -> MockTransport:
    """A server that is alive and fails each request; the errors are repeated from the first one."""
    errors = itertools.cycle(kinds)

    def fail(request: Request) -> Response:
        raise next(errors)("failed", model=request.model)

    return MockTransport(fail)


def n_sent(transports: list[MockTransport], retries: int) -> int:
    """Search for a track, which is a single request, and return how often all servers together received it."""
    endpoints = make_endpoints([f"host-{index}:1" for index in range(len(transports))])
    transport = transports[0] if len(transports) == 1 else BalancedTransport(endpoints, transports)
    with MusicClient(transport=transport, retries=retries) as music, pytest.raises(ClientError):
        music.find_tracks("Blue")
    requests = [request for each in transports for request in each.requests if not isinstance(request, ReadyRequest)]
    assert {type(request) for request in requests} == {InferRequest}
    return len(requests)


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
@pytest.mark.parametrize("n_servers", [1, 2, 3])
def test_the_bound_is_reached_and_not_exceeded(retries: int, n_servers: int) -> None:
    kinds: list[type[ClientError]] = [VersionChangedError] * MAX_VERSION_RETRIES + [ServerBusyError] * (retries + 1)
    bound = max_sends(retries=retries, n_servers=n_servers)
    assert n_sent([failing_server(kinds) for _ in range(n_servers)], retries) == bound


@pytest.mark.parametrize("n_servers", [1, 2])
def test_no_order_of_errors_exceeds_the_bound(n_servers: int) -> None:
    for kinds in itertools.product([VersionChangedError, ServerBusyError], repeat=6):
        sent = n_sent([failing_server(list(kinds)) for _ in range(n_servers)], 2)
        assert sent <= max_sends(n_servers=n_servers)


def test_a_request_without_retries_is_sent_once_to_each_server() -> None:
    assert n_sent([failing_server([ServerBusyError])], 0) == 1
    assert n_sent([failing_server([ServerBusyError]) for _ in range(3)], 0) == 3
