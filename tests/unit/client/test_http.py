"""Tests of the HTTP transports against real sockets: a small server whose behaviour each test chooses."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tritone import (
    AccessDeniedError,
    AsyncMusicClient,
    ClientError,
    ConnectionFailedError,
    InferRequest,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    NothingKnownError,
    ReadyRequest,
    Request,
    RequestRejectedError,
    RequestTimeoutError,
    Response,
    ServerBusyError,
    ServerError,
)
from tritone.endpoints import make_endpoint
from tritone.exceptions import VersionChangedError
from tritone.transports import make_async_transport, make_transport

WINDOWS = np.arange(12, dtype=np.float32).reshape(3, 4)
INFER = InferRequest("m", "id-7", {"audio": WINDOWS}, ("sums",))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.act(self, b"")

    def do_POST(self) -> None:
        self.server.act(self, self.rfile.read(int(self.headers["content-length"])))

    def setup(self) -> None:
        super().setup()
        self.server.n_connections += 1

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    """`act(handler, body)` answers each request."""

    act: Callable[[Handler, bytes], None]
    n_connections = 0
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: Any) -> None: ...  # clients that hang up are part of the tests


def sums(handler: Handler, body: bytes) -> None:
    """Answers a KServe v2 inference with the sum of each window, as numbers or as class names."""
    n_head = int(handler.headers["inference-header-content-length"])
    head = json.loads(body[:n_head])
    (tensor,) = head["inputs"]
    assert tensor["datatype"] == "FP32"
    assert tensor["parameters"]["binary_data_size"] == len(body) - n_head
    values = np.frombuffer(body[n_head:], np.float32).reshape(tensor["shape"]).sum(axis=1, keepdims=True)
    output: dict[str, Any] = {"name": "sums", "datatype": "FP32", "shape": list(values.shape)}
    answer = {"id": head["id"], "model_name": "m", "model_version": "3", "outputs": [output]}
    output["parameters"] = {"binary_data_size": values.nbytes}
    text = json.dumps(answer).encode()
    handler.answer(200, text + values.tobytes(), inference_header_content_length=str(len(text)))


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(act: Callable[[Handler, bytes], None] = sums) -> Server:
        server = Server(("127.0.0.1", 0), Handler)
        server.act = act
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Response]:
    """`ask(server, request)` with a transport of its own."""

    def run(server: Server | str, message: Request, *, timeout_s: float = 5.0, **options: Any) -> Response:
        url = server if isinstance(server, str) else f"http://127.0.0.1:{server.server_port}"
        endpoint = make_endpoint(url, **options)
        if request.param == "sync":
            transport = make_transport(endpoint)
            try:
                return transport.handle(message, timeout_s=timeout_s)
            finally:
                transport.close()

        async def main() -> Response:
            transport = make_async_transport(endpoint)
            try:
                return await transport.handle(message, timeout_s=timeout_s)
            finally:
                await transport.close()

        return asyncio.run(main())

    return run


def test_numbers_and_versions(ask: Any, serving: Any) -> None:
    server = serving()
    response = ask(server, INFER)
    np.testing.assert_array_equal(response.outputs["sums"], WINDOWS.sum(axis=1, keepdims=True))
    assert (response.model, response.version, response.request_id) == ("m", "3", "id-7")
    turned = InferRequest("m", "x", {"audio": np.asfortranarray(WINDOWS)[::-1]}, ("sums",))  # not contiguous
    np.testing.assert_array_equal(ask(server, turned).outputs["sums"], WINDOWS[::-1].sum(axis=1, keepdims=True))


def test_a_large_body_without_warnings(ask: Any, serving: Any) -> None:
    windows = np.ones((40, 66_150), np.float32)
    response = ask(serving(), InferRequest("m", "x", {"audio": windows}, ("sums",)))
    np.testing.assert_allclose(response.outputs["sums"], 66_150)


def test_the_version_that_is_asked_for(ask: Any, serving: Any) -> None:
    paths = []

    def act(handler: Handler, body: bytes) -> None:
        paths.append(handler.path)
        if body:
            sums(handler, body)
        else:
            tensors = [{"name": "x", "shape": [-1, 4]}]
            described = {"name": "m", "versions": ["9", "10"], "inputs": tensors, "outputs": tensors}
            handler.answer(200, json.dumps({**described, "max_batch_size": 8}).encode())

    server = serving(act)
    assert ask(server, replace(INFER, version="12")).outputs["sums"].shape == (3, 1)
    assert ask(server, ModelRequest("m")).max_batch_size == 8
    # Behind a balancer the second question may go elsewhere: to a server that has the same version, or refuses.
    assert paths == ["/v2/models/m/versions/12/infer", "/v2/models/m", "/v2/models/m/versions/10/config"]


def test_paths_and_headers(ask: Any, serving: Any) -> None:
    seen = []

    def act(handler: Handler, body: bytes) -> None:
        seen.append((handler.path, handler.headers["authorization"], handler.headers["x-team"]))
        handler.answer(200, b"{}")

    server = serving(act)
    url = f"http://127.0.0.1:{server.server_port}/behind/a/proxy"
    assert ask(url, ReadyRequest(), api_key="k", headers={"X-Team": "t"}).ready
    assert ask(url, ReadyRequest("m"), api_key="k").ready
    assert seen == [
        ("/behind/a/proxy/v2/health/ready", "Bearer k", "t"),
        ("/behind/a/proxy/v2/models/m/ready", "Bearer k", None),
    ]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, '{"error": "unexpected inference input"}', RequestRejectedError),
        (400, '{"error": "item \\"x\\" is not known"}', NothingKnownError),
        (413, "too large", RequestRejectedError),
        (401, "", AccessDeniedError),
        (403, '{"error": "This API is restricted, expecting header \'x\'"}', AccessDeniedError),
        (404, '{"error": "Request for unknown model: \'m\' is not found"}', ModelNotFoundError),
        (503, '{"error": "Request for unknown model: \'m\' has no available versions"}', ModelNotFoundError),
        (404, '{"error": "Request for unknown model: \'m\' version 2 is not found"}', VersionChangedError),
        (503, '{"error": "Request for unknown model: \'m\' version 2 is not at ready state"}', VersionChangedError),
        (404, "<html>nginx</html>", ServerError),
        (429, "", ServerBusyError),
        (503, '{"error": "Exceeds maximum queue size"}', ServerBusyError),
        (502, "<html>bad gateway</html>", ServerBusyError),
        (500, '{"error": "Stub process is not healthy."}', ServerBusyError),
        (500, '{"error": "Failed to increase the shared memory pool size for key \'x\'"}', ServerBusyError),
        (302, "", ServerError),
        (200, "", ServerError),
        (200, "not json", ServerError),
        (200, "[]", ServerError),
        (200, "null", ServerError),
        (200, "{}", ServerError),
        (200, '{"model_name": "m", "model_version": "1", "outputs": [{"name": "sums"}]}', ServerError),
        (200, b"\xff\xfe", ServerError),
    ],
)
@pytest.mark.parametrize("message", [INFER, ModelRequest("m")], ids=["infer", "model"])
def test_error_responses_and_malformed_responses(
    ask: Any, serving: Any, *, status: int, body: Any, kind: type, message: Any
) -> None:
    data = body if isinstance(body, bytes) else body.encode()
    server = serving(lambda handler, _: handler.answer(status, data, location="http://127.0.0.1:1/"))
    with pytest.raises(ServerError) as caught:
        ask(server, message)
    assert type(caught.value) is kind
    assert caught.value.model == "m"
    if status != 200:
        assert (caught.value.status, caught.value.reason) == (str(status), None)
    else:
        assert (caught.value.status, caught.value.reason) == (None, "malformed")
    if message is INFER:
        assert caught.value.request_id == "id-7"


def test_a_response_without_a_requested_output(ask: Any, serving: Any) -> None:
    server = serving(
        lambda handler, _: handler.answer(200, b'{"model_name": "m", "model_version": "1", "outputs": []}')
    )
    with pytest.raises(ServerError) as caught:
        ask(server, INFER)
    assert (caught.value.reason, caught.value.output) == ("missing_output", "sums")


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ({"binary_data_size": 4000}, b"\0\0\0\0"),
        ({"binary_data_size": -4}, b""),
        ({"binary_data_size": "four"}, b"\0\0\0\0"),
        ({"binary_data_size": 8}, b"\0" * 8),
    ],
)
def test_a_body_that_contradicts_its_header(ask: Any, serving: Any, head: Any, tail: bytes) -> None:
    output = {"name": "sums", "datatype": "FP32", "shape": [1], "parameters": head}
    text = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
    act = lambda handler, _: handler.answer(200, text + tail, inference_header_content_length=str(len(text)))  # noqa: E731
    with pytest.raises(ServerError) as caught:
        ask(serving(act), INFER)
    assert caught.value.reason == "malformed"


def test_a_server_that_is_not_ready(ask: Any, serving: Any) -> None:
    server = serving(lambda handler, _: handler.answer(400, b'{"error": "Model version not ready"}'))
    assert not ask(server, ReadyRequest("m")).ready
    denied = serving(lambda handler, _: handler.answer(403, b""))
    with pytest.raises(AccessDeniedError):
        ask(denied, ReadyRequest())


# --- connections -------------------------------------------------------------------------------


def silent_listener(*answers: bytes) -> socket.socket:
    """Accepts connections and sends the pieces, one every 50 ms, whatever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(peer: socket.socket) -> None:
        with peer, suppress(OSError):  # clients hang up
            peer.recv(1 << 16)
            for answer in answers:
                peer.sendall(answer)
                time.sleep(0.05)
            # Whoever closes with something unread resets the connection, and the answer with it.
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(1)
            while peer.recv(1 << 16):
                pass

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        ((b"\0\0\x18\x04\0\0\0\0\0\0\x04\0\x10\0\0\0",), ConnectionFailedError, "gRPC port"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), ConnectionFailedError, "does not speak HTTP"),
        ((b"",), ConnectionFailedError, "no connection"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nshort",), ConnectionFailedError, "no connection"),
        ((b"HTTP/1.1 ", b"200 ", b"OK\r\n", *[b"x-a: b\r\n"] * 100), RequestTimeoutError, "within 0.4 s"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", *[b"x"] * 100), RequestTimeoutError, "within 0.4 s"),
        (tuple([b""] * 100), RequestTimeoutError, "within 0.4 s"),
    ],
)
def test_other_protocols_and_silent_listeners(ask: Any, answers: tuple[bytes, ...], kind: type, says: str) -> None:
    with silent_listener(*answers) as listener:
        began_s = time.monotonic()
        with pytest.raises(kind) as caught:
            ask(f"http://127.0.0.1:{listener.getsockname()[1]}", INFER, timeout_s=0.4)
        assert time.monotonic() - began_s < 1.5
        assert caught.value.request_id == "id-7"
        assert says in str(caught.value)


def test_a_port_without_a_listener(ask: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionFailedError) as caught:
        ask(f"http://127.0.0.1:{port}", INFER)
    assert (caught.value.model, caught.value.reason) == ("m", "unreachable")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ECONNREFUSED
    with pytest.raises(ConnectionFailedError) as caught:
        ask("http://no-such-host.invalid:8000", INFER)
    assert (caught.value.reason, caught.value.endpoint) == ("unreachable", "http://no-such-host.invalid:8000")


def test_a_server_without_tls_at_an_https_address(ask: Any, serving: Any) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        ask(f"https://127.0.0.1:{serving().server_port}", INFER, timeout_s=2)
    assert caught.value.reason == "tls"


def test_connections_are_kept_and_the_dead_replaced(serving: Any) -> None:
    server = serving()
    transport = make_transport(make_endpoint(f"http://127.0.0.1:{server.server_port}"))
    for _ in range(5):
        transport.handle(INFER, timeout_s=5)
    assert server.n_connections == 1

    def once(handler: Handler, body: bytes) -> None:
        sums(handler, body)
        handler.close_connection = True  # without having said so

    server.act = once
    for _ in range(3):
        transport.handle(INFER, timeout_s=5)
        time.sleep(0.05)
    assert server.n_connections == 3
    transport.close()
    with pytest.raises(ClientError) as caught:
        transport.handle(INFER, timeout_s=5)
    assert caught.value.reason == "closed"


def test_a_response_that_ends_with_the_connection(ask: Any, serving: Any) -> None:
    def act(handler: Handler, body: bytes) -> None:
        handler.wfile.write(b'HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n{"error": "because')
        handler.wfile.flush()
        time.sleep(0.05)
        handler.wfile.write(b'"}')
        handler.close_connection = True

    with pytest.raises(RequestRejectedError, match="because"):  # the message came in two parts
        ask(serving(act), INFER)


def test_threads_never_share_a_connection(serving: Any) -> None:
    server = serving()
    transport = make_transport(make_endpoint(f"http://127.0.0.1:{server.server_port}"))

    def check(number: int) -> bool:
        windows = np.full((number % 5 + 1, 4), number, np.float32)
        response: Any = transport.handle(InferRequest("m", str(number), {"audio": windows}, ("sums",)), timeout_s=10)
        return response.request_id == str(number) and bool((response.outputs["sums"] == 4 * number).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(200)))
    assert server.n_connections <= 8
    transport.close()


def test_the_clients_choose_their_transport() -> None:
    from tritone.transports.grpc_sync import GrpcTransport
    from tritone.transports.http_async import AsyncHttpTransport
    from tritone.transports.http_sync import HttpTransport

    with MusicClient("localhost:1") as music:
        assert isinstance(music._transport, GrpcTransport)
    with MusicClient("http://localhost:1") as music:
        assert isinstance(music._transport, HttpTransport)
    assert isinstance(AsyncMusicClient("http://localhost:1")._transport, AsyncHttpTransport)
