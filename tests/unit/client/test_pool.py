"""Tests of several servers: load balancing, avoiding failed servers, and fail-over without a lost request."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone import (
    AsyncMusicClient,
    ConnectionFailedError,
    InferRequest,
    InvalidInputError,
    ModelNotFoundError,
    MusicClient,
    ReadyRequest,
    ReadyResponse,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    StreamRequest,
)
from tritone.endpoints import make_endpoints
from tritone.transports import balanced as pool_module
from tritone.transports.balanced import AsyncBalancedTransport, BalancedTransport, PooledServer, ServerPool

AUDIO = (np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32), 22_050)
ENDPOINTS = make_endpoints(["a:1", "b:1"])
INFER = InferRequest("m", "id-1", {}, ())
GONE = ConnectionFailedError("no connection to grpc://a:1: refused; is it running?", endpoint="grpc://a:1")


class Fake:
    """A server: `fails` is raised as long as it is set."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.asked: list[Any] = []

    def handle(self, request: Any, *, timeout_s: float) -> Any:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        return ReadyResponse(True)

    def stream(self, request: Any, *, timeout_s: float) -> Iterator[Any]:
        yield self.handle(request, timeout_s=timeout_s)
        if self.asked[-1].model == "breaks":
            raise GONE

    def close(self) -> None:
        self.asked = []


@pytest.fixture
def fakes() -> tuple[Fake, Fake]:
    return Fake(), Fake()


@pytest.fixture
def transport(fakes: tuple[Fake, Fake]) -> BalancedTransport:
    return BalancedTransport(ENDPOINTS, fakes)


def ask(transport: BalancedTransport, n: int = 1, request: Any = INFER) -> None:
    for _ in range(n):
        transport.handle(request, timeout_s=5)


def test_equal_servers_are_used_in_rotation(transport: BalancedTransport, fakes: tuple[Fake, Fake]) -> None:
    ask(transport, 10)
    assert [len(fake.asked) for fake in fakes] == [5, 5]


def test_the_server_with_fewer_calls_in_progress_is_used() -> None:
    pool = ServerPool(ENDPOINTS)
    busy, _ = pool.take([])  # type: ignore[misc]
    chosen = [pool.take([]) for _ in range(1)]
    pool.give_back(chosen[0][0], None)  # type: ignore[index]
    for _ in range(5):
        member, _ = pool.take([])  # type: ignore[misc]
        assert member is not busy
        pool.give_back(member, None)


def test_a_failed_server_is_avoided_and_then_probed(
    transport: BalancedTransport, fakes: tuple[Fake, Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(transport._pool.get(), "_clock", lambda: now[0])
    first, second = fakes
    first.fails = GONE
    ask(transport, 6)
    assert len(first.asked) == 1
    assert len(second.asked) == 6
    now[0] += pool_module.FIRST_BACKOFF_S
    ask(transport, 4)  # one of them probes; it is still away, and rests for longer
    assert [type(request) for request in first.asked] == [InferRequest, ReadyRequest]
    now[0] += pool_module.FIRST_BACKOFF_S
    ask(transport, 4)
    assert len(first.asked) == 2
    now[0] += 2 * pool_module.FIRST_BACKOFF_S
    first.fails = None
    ask(transport, 4)
    assert [type(request) for request in first.asked[2:4]] == [ReadyRequest, InferRequest]
    assert len(first.asked) > 4  # it is one of them again


def test_errors_of_unreachable_servers_name_each_server(transport: BalancedTransport, fakes: tuple[Fake, Fake]) -> None:
    fakes[0].fails = GONE
    fakes[1].fails = ConnectionFailedError("no connection to grpc://b:1: no route; is it running?")
    for _ in range(3):  # also when both rest
        with pytest.raises(ConnectionFailedError) as caught:
            ask(transport)
        assert (caught.value.model, caught.value.request_id) == ("m", "id-1")
        assert (caught.value.reason, caught.value.endpoint) == ("unreachable", "grpc://a:1,grpc://b:1")
        assert "grpc://a:1: refused; grpc://b:1: no route" in str(caught.value)  # the reason of each


@pytest.mark.parametrize("error", [ServerBusyError("full"), ModelNotFoundError("none")])
def test_busy_servers_and_missing_models_are_tried_elsewhere(
    transport: BalancedTransport, fakes: tuple[Fake, Fake], error: Exception
) -> None:
    fakes[0].fails = error
    ask(transport, 4)
    assert len(fakes[1].asked) == 4
    fakes[1].fails = error
    with pytest.raises(type(error)) as caught:
        ask(transport)
    assert caught.value is error


@pytest.mark.parametrize("error", [RequestRejectedError("bad"), RequestTimeoutError("late")])
def test_rejections_and_timeouts_are_not_tried_elsewhere(
    transport: BalancedTransport, fakes: tuple[Fake, Fake], error: Exception
) -> None:
    fakes[0].fails = fakes[1].fails = error
    with pytest.raises(type(error)) as caught:
        ask(transport)
    assert caught.value is error
    assert len(fakes[0].asked) + len(fakes[1].asked) == 1


def test_requests_that_are_not_idempotent_are_sent_once(transport: BalancedTransport, fakes: tuple[Fake, Fake]) -> None:
    fakes[0].fails = fakes[1].fails = GONE
    with pytest.raises(ConnectionFailedError) as caught:
        ask(transport, request=InferRequest("m", "id-1", {}, (), idempotent=False))
    assert caught.value is GONE
    assert len(fakes[0].asked) + len(fakes[1].asked) == 1


def test_a_stream_changes_servers_only_before_its_first_response(
    transport: BalancedTransport, fakes: tuple[Fake, Fake]
) -> None:
    fakes[0].fails = GONE
    assert len(list(transport.stream(StreamRequest("m", "s", {}, ()), timeout_s=5))) == 1
    answers = transport.stream(StreamRequest("breaks", "s", {}, ()), timeout_s=5)
    next(answers)
    with pytest.raises(ConnectionFailedError):
        next(answers)
    assert transport._pool.get().servers[1].n_in_progress == 0


def test_asynchronous_fail_over_and_streams(fakes: tuple[Fake, Fake], as_async: Callable[[Any], Any]) -> None:
    transport = AsyncBalancedTransport(ENDPOINTS, [as_async(fake) for fake in fakes])
    fakes[0].fails = GONE

    async def run() -> None:
        for _ in range(4):
            await transport.handle(INFER, timeout_s=5)
        answers = [answer async for answer in transport.stream(StreamRequest("m", "s", {}, ()), timeout_s=5)]
        assert len(answers) == 1

    asyncio.run(run())
    assert len(fakes[1].asked) == 5


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        ([], None),
        (["a:1", "http://b:1"], "conflict"),
        (["a:1", "grpc://a:1"], "conflict"),
        (["a:1", 3], None),
        ("a:1,,b:1", None),
    ],
)
def test_invalid_lists_of_addresses(urls: Any, reason: str | None) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(urls)
    assert (caught.value.argument, caught.value.reason) == ("url", reason)


def test_lists_of_addresses() -> None:
    for urls in (["a:1", "b:1"], ("a:1", "b:1"), "a:1, b:1"):
        with MusicClient(urls) as music:
            assert "grpc://a:1,grpc://b:1" in repr(music)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(params=["grpc", "http"])
def two_servers(request: pytest.FixtureRequest) -> Iterator[tuple[list[str], Callable[[], subprocess.Popen[str]]]]:
    script = str(Path(__file__).with_name("tiny_server.py"))
    ports = [free_port(), free_port()]

    def start(port: int) -> subprocess.Popen[str]:
        command = [sys.executable, script, request.param, str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    running = [start(port) for port in ports]

    def replace_first() -> subprocess.Popen[str]:
        running.append(start(ports[0]))
        return running[-1]

    yield (
        [f"{request.param}://127.0.0.1:{port}" for port in ports],
        lambda: running[0] if running[0].poll() is None else replace_first(),
    )
    for process in running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.slow
def test_killing_one_of_two_under_load_loses_no_request(two_servers: Any) -> None:
    urls, first_or_its_successor = two_servers
    errors: Counter[str] = Counter()
    answered = Counter[str]()
    stop = threading.Event()

    def load(music: MusicClient) -> None:
        while not stop.is_set():
            try:
                music.embed(AUDIO)
                answered["all"] += 1
            except Exception as error:
                errors[repr(error)] += 1

    # retries=0: moving to another server is no retry.
    with MusicClient(urls, timeout_s=10, retries=0) as music, ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(load, music) for _ in range(4)]
        time.sleep(0.5)
        first_or_its_successor().kill()
        time.sleep(1.0)
        after_kill = answered["all"]
        first_or_its_successor()  # starts the successor, which is asked again once the back-off is over
        members: tuple[PooledServer, ...] = music._transport._pool.get().servers  # type: ignore[attr-defined]
        deadline_s = time.monotonic() + 15
        while members[0].n_failed and time.monotonic() < deadline_s:
            time.sleep(0.1)
        stop.set()
        for job in jobs:
            job.result()
        assert errors == {}
        assert answered["all"] > after_kill > 20
        assert [member.n_failed for member in members] == [0, 0]  # the successor is used again
        assert [member.n_in_progress for member in members] == [0, 0]


def test_killing_one_of_two_loses_no_request_of_asyncio(two_servers: Any) -> None:
    urls, first_or_its_successor = two_servers

    async def run() -> int:
        async with AsyncMusicClient(urls, timeout_s=10, retries=0) as music:
            jobs = [asyncio.create_task(music.embed(AUDIO)) for _ in range(20)]
            await asyncio.sleep(0.1)
            first_or_its_successor().kill()
            jobs += [asyncio.create_task(music.embed(AUDIO)) for _ in range(20)]
            return len(await asyncio.gather(*jobs))

    assert asyncio.run(run()) == 40
