"""Tests that a request whose connection was lost after sending is repeated at most once, since it may crash servers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone import (
    AsyncMusicClient,
    ClientError,
    ConnectionFailedError,
    InferRequest,
    ModelRequest,
    MusicClient,
    ReadyRequest,
    RequestTimeoutError,
    ServerBusyError,
    StreamRequest,
)
from tritone.endpoints import make_endpoint, make_endpoints
from tritone.transports import make_async_transport, make_transport
from tritone.transports.balanced import AsyncBalancedTransport, BalancedTransport
from tritone.transports.grpc_wire import lost as lost_by_grpc

INFER = InferRequest("m", "id-1", {"x": np.zeros((1, 4), np.float32)}, ("y",))
STREAM = StreamRequest("m", "s", {"x": np.zeros((1, 4), np.float32)}, ("y",))
ENDPOINTS = make_endpoints([f"{name}:1" for name in "abcd"])


def lost() -> ConnectionFailedError:
    return ConnectionFailedError("no connection to grpc://a:1: socket closed; is it running?", n_lost=1)


def refused() -> ConnectionFailedError:
    return ConnectionFailedError("no connection to grpc://a:1: refused; is it running?")


class Server:
    """Raises errors in turn, the last one for ever; without any it answers."""

    def __init__(self, *errors: Callable[[], ClientError]) -> None:
        self.errors = list(errors)
        self.n_asked = 0

    def handle(self, request: Any, *, timeout_s: float) -> Any:
        self.n_asked += not isinstance(request, ReadyRequest)
        if self.errors:
            raise (self.errors.pop(0) if len(self.errors) > 1 else self.errors[0])()
        return "answer"

    def stream(self, request: Any, *, timeout_s: float) -> Iterator[Any]:
        yield self.handle(request, timeout_s=timeout_s)

    def close(self) -> None: ...


Send = Callable[..., Any]


@pytest.fixture(params=["sync", "async", "sync stream", "async stream"])
def send(request: pytest.FixtureRequest, as_async: Callable[[Any], Any]) -> Send:
    """`send(servers, retries=0)`: one request through a client of these servers."""

    def run(*servers: Server, retries: int = 0, message: Any = None) -> Any:
        is_async, is_stream = "async" in request.param, "stream" in request.param
        message = message or (STREAM if is_stream else INFER)
        some: list[Any] = [as_async(server) for server in servers] if is_async else list(servers)
        transport: Any = some[0]
        if len(some) > 1:
            kind: Any = AsyncBalancedTransport if is_async else BalancedTransport
            transport = kind(ENDPOINTS[: len(some)], some)
        if not is_async:
            with MusicClient(transport=transport, retries=retries, timeout_s=20) as music:
                if is_stream:
                    (answer,) = music._stream_attempts(message, 20)
                    return answer
                return music._respond(message, music._deadline(None))

        async def main() -> Any:
            async with AsyncMusicClient(transport=transport, retries=retries, timeout_s=20) as music:
                if is_stream:
                    (answer,) = [each async for each in music._stream_attempts(message, 20)]
                    return answer
                return await music._respond(message, music._deadline(None))

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("n_servers", [1, 2, 3, 4])
@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_request_that_crashes_every_server_reaches_at_most_two(send: Send, n_servers: int, retries: int) -> None:
    servers = [Server(lost) for _ in range(n_servers)]
    with pytest.raises(ConnectionFailedError) as caught:
        send(*servers, retries=retries)
    n_expected = 1 if n_servers == 1 and retries == 0 else 2
    assert sum(server.n_asked for server in servers) == n_expected
    assert caught.value.n_lost == n_expected
    assert caught.value.request_id in ("id-1", "s", None)


def test_the_budget_holds_across_rounds_and_retries(send: Send) -> None:
    # First round: one loses it, the others refuse; the next attempt loses it again, and nothing is left.
    servers = [Server(lost), Server(refused), Server(refused)]
    with pytest.raises(ConnectionFailedError):
        send(*servers, retries=5)
    assert servers[0].n_asked == 2


def test_after_one_loss_servers_that_cannot_be_reached_cost_nothing(send: Send) -> None:
    servers = [Server(lost), Server(refused), Server(refused), Server()]
    assert send(*servers) == "answer"
    assert [server.n_asked for server in servers] == [1, 1, 1, 1]


def test_a_loss_counts_if_the_server_cannot_be_reached_afterwards(send: Send) -> None:
    server = Server(lost, refused)
    with pytest.raises(ConnectionFailedError) as caught:
        send(server, retries=2)
    assert server.n_asked == 3
    assert caught.value.n_lost == 1


def test_a_lost_request_is_answered_by_the_next_server_or_attempt(send: Send) -> None:
    assert send(Server(lost), Server()) == "answer"

    class OnceLost(Server):
        def handle(self, request: Any, *, timeout_s: float) -> Any:
            self.n_asked += 1
            if self.n_asked == 1:
                raise lost()
            return "answer"

    again = OnceLost()
    assert send(again, retries=1) == "answer"
    assert again.n_asked == 2


def test_refused_connections_are_retried_as_usual(send: Send) -> None:
    servers = [Server(refused), Server(refused)]
    with pytest.raises(ConnectionFailedError) as caught:
        send(*servers, retries=2)
    assert [server.n_asked for server in servers] == [3, 3]
    assert caught.value.n_lost == 0


def test_losses_reported_by_a_balancer_count(send: Send) -> None:
    server = Server(lambda: ServerBusyError("502", status="502", n_lost=1))
    with pytest.raises(ServerBusyError) as caught:
        send(server, retries=5)
    assert server.n_asked == 2
    assert (caught.value.n_lost, caught.value.status) == (2, "502")


@pytest.mark.parametrize("message", [ModelRequest("m"), ReadyRequest("m")])
def test_metadata_requests_are_retried_as_usual(message: Any) -> None:
    class Lost(Server):
        def handle(self, request: Any, *, timeout_s: float) -> Any:
            self.n_asked += 1
            raise lost()

    server = Lost()
    with MusicClient(transport=server, retries=3, timeout_s=20) as music, pytest.raises(ConnectionFailedError):
        music._respond(message, music._deadline(None))
    assert server.n_asked == 4


# --- what the transports say about real sockets ------------------------------------------------


@pytest.fixture(params=["sync", "async"])
def failure(request: pytest.FixtureRequest) -> Callable[[str], ClientError]:
    """`failure(url)`: the error of one request."""

    def run(url: str, message: Any = INFER) -> ClientError:
        endpoint = make_endpoint(url)
        if request.param == "sync":
            with pytest.raises(ClientError) as caught, contextlib.closing(make_transport(endpoint)) as transport:
                transport.handle(message, timeout_s=10)
            return caught.value

        async def main() -> ClientError:
            transport = make_async_transport(endpoint)
            try:
                with pytest.raises(ClientError) as caught:
                    await transport.handle(message, timeout_s=10)
            finally:
                await transport.close()
            return caught.value

        return asyncio.run(main())

    return run


@contextlib.contextmanager
def listening(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does something with each connection and then resets it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.settimeout(5)
                        act(connection)
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def read_whole_request(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(INFER.inputs["x"].tobytes()) or b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)


def answer_with(status: int) -> Callable[[socket.socket], None]:
    def act(connection: socket.socket) -> None:
        read_whole_request(connection)
        connection.sendall(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    return act


def test_a_connection_that_is_lost_after_the_request_counts(failure: Callable[..., ClientError]) -> None:
    with listening(read_whole_request) as port:
        error = failure(f"http://127.0.0.1:{port}")
    assert isinstance(error, ConnectionFailedError)
    assert error.n_lost == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_refused_connection_does_not_count(failure: Callable[..., ClientError], scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    error = failure(f"{scheme}://127.0.0.1:{port}")
    assert isinstance(error, ConnectionFailedError)
    assert error.n_lost == 0


@pytest.mark.parametrize(("status", "n_lost"), [(502, 1), (504, 1), (503, 0), (429, 0), (400, 0)])
def test_responses_of_a_load_balancer(failure: Callable[..., ClientError], status: int, n_lost: int) -> None:
    with listening(answer_with(status)) as port:
        error = failure(f"http://127.0.0.1:{port}")
    assert error.status == str(status)
    assert error.n_lost == n_lost


DYING_SERVER = """
import os, sys, grpc
from concurrent.futures import ThreadPoolExecutor
class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        def end(body, context):
            os._exit(8)
        def end_stream(bodies, context):
            next(bodies)
            os._exit(8)
            yield b""
        if details.method.endswith("ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(end_stream)
        return grpc.unary_unary_rpc_method_handler(end)
server = grpc.server(ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Methods(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Starts gRPC servers that end with the first request that they get."""
    script = tmp_path / "dying.py"
    script.write_text(DYING_SERVER)
    running: list[subprocess.Popen[str]] = []

    def start() -> str:
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return f"grpc://127.0.0.1:{int(process.stdout.readline())}"

    start.running = running  # type: ignore[attr-defined]
    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_grpc_server_that_ends_with_the_request_counts(failure: Callable[..., ClientError], dying: Any) -> None:
    error = failure(dying())
    assert isinstance(error, ConnectionFailedError)
    assert error.n_lost == 1


@pytest.mark.parametrize("message", [INFER, STREAM], ids=["call", "stream"])
def test_one_request_ends_at_most_two_of_four_servers(dying: Any, message: Any) -> None:
    urls = [dying() for _ in range(4)]
    with MusicClient(urls, retries=5, timeout_s=20) as music:
        call = music._stream_attempts(message, 20) if message is STREAM else None
        with pytest.raises(ConnectionFailedError) as caught:
            next(call) if call is not None else music._respond(message, music._deadline(None))
    assert caught.value.n_lost == 2
    n_dead = sum(process.poll() is not None for process in dying.running)
    if n_dead < 2:  # the second one may still be on its way out
        with contextlib.suppress(subprocess.TimeoutExpired):
            dying.running[1].wait(2)
        n_dead = sum(process.poll() is not None for process in dying.running)
    assert n_dead == 2


def test_a_timeout_is_not_sent_again(send: Send) -> None:
    servers = [Server(lambda: RequestTimeoutError("late")), Server()]
    with pytest.raises(RequestTimeoutError):
        send(*servers, retries=5)
    assert sum(server.n_asked for server in servers) == 1


@pytest.mark.parametrize(
    ("message", "n_lost"),
    [
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Connection refused", 0),
        ("DNS resolution failed for nobody.test:8001", 0),
        ("Received http2 header with status: 503", 0),  # a balancer without any server
        ("Received http2 header with status: 502", 1),
        ("Received http2 header with status: 504", 1),
        ("Socket closed", 1),
        ("Stream removed (recvmsg:Connection reset by peer)", 1),
        ("Stream removed (RST_STREAM (Received RST_STREAM with error code 7))", 1),
        ("keepalive watchdog timeout", 1),
        ("", 1),
    ],
)
def test_losses_are_counted_by_the_grpc_message(message: str, n_lost: int) -> None:
    error = lost_by_grpc("UNAVAILABLE", message, INFER, make_endpoint("grpc://127.0.0.1:1"))
    assert isinstance(error, ConnectionFailedError)
    assert error.n_lost == n_lost
