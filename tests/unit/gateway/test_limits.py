"""Limits of body size, time and concurrency, tested over a socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.gateways import listening, received, request_head
from tests.support.tones import tone_file

from tritone.testing import FakeComposer, FakeGenreModel

BUFFER = 8_192


def test_headers_that_do_not_arrive_in_time_close_the_connection(tmp_path: Path) -> None:
    with listening(tmp_path, header_timeout_s=0.3) as port, socket.create_connection(("127.0.0.1", port), 5) as slow:
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\n")
        for _ in range(10):
            time.sleep(0.1)
            try:
                slow.sendall(b"X: y\r\n")
            except OSError:
                break
        assert received(slow)[:12] in (b"HTTP/1.1 408", b"")


def test_a_connection_without_a_request_is_closed(tmp_path: Path) -> None:
    with listening(tmp_path, header_timeout_s=0.2) as port, socket.create_connection(("127.0.0.1", port), 5) as idle:
        assert received(idle).startswith(b"HTTP/1.1 408")


def test_a_body_that_does_not_arrive_in_time_is_408(tmp_path: Path) -> None:
    with listening(tmp_path, body_timeout_s=0.3) as port, socket.create_connection(("127.0.0.1", port), 5) as slow:
        slow.sendall(request_head("/v1/classify", "Content-Type: audio/ogg", "Content-Length: 1000"))
        slow.sendall(b"Ogg")
        response = received(slow)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"urn:tritone:problem:slow-body" in response


def test_an_announced_oversize_body_is_413_before_it_is_sent(tmp_path: Path) -> None:
    with listening(tmp_path, max_body_mb=1) as port, socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(
            request_head("/v1/classify", "Content-Type: audio/ogg", f"Content-Length: {5 << 20}", "Connection: close")
        )
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_an_oversize_body_without_a_length_is_413(tmp_path: Path) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with listening(tmp_path, max_body_mb=1) as port, socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request_head("/v1/classify", "Content-Type: audio/ogg", "Transfer-Encoding: chunked"))
        for _ in range(20):
            connection.sendall(chunk)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_the_memory_for_all_bodies_is_limited(tmp_path: Path) -> None:
    head = request_head("/v1/classify", "Content-Type: audio/ogg", f"Content-Length: {1 << 20}")
    with listening(tmp_path, max_body_mb=1, max_bodies_mb=1, body_timeout_s=5) as port:
        with socket.create_connection(("127.0.0.1", port), 5) as first:
            first.sendall(head + bytes(900_000))
            time.sleep(0.3)
            with socket.create_connection(("127.0.0.1", port), 5) as second:
                second.sendall(head + bytes(500_000))
                response = second.recv(65_536)
        assert response.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in response.lower()
        time.sleep(0.3)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/classify", data=tone_file(), headers={"Content-Type": "audio/ogg"}
        )
        assert urllib.request.urlopen(request, timeout=5).status == 200  # noqa: S310


def test_more_requests_than_allowed_get_503_and_the_others_are_served(tmp_path: Path) -> None:
    fake = FakeGenreModel()
    gate = threading.Event()

    async def slow(request: object) -> object:
        if type(request).__name__ == "InferRequest":
            while not gate.is_set():
                await asyncio.sleep(0.01)
        return fake(request)

    recording = tone_file()
    statuses: list[int] = []

    def send(port: int) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/classify", data=recording, headers={"Content-Type": "audio/ogg"}
        )
        try:
            statuses.append(urllib.request.urlopen(request, timeout=10).status)  # noqa: S310
        except urllib.error.HTTPError as error:
            statuses.append(error.code)

    with listening(tmp_path, slow, max_in_flight=2) as port:
        threads = [threading.Thread(target=send, args=(port,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        send(port)
        assert statuses == [503]
        gate.set()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [200, 200, 503]


def test_a_disconnect_stops_the_stream(tmp_path: Path) -> None:
    closed = threading.Event()

    class Slow(FakeComposer):
        def split(self, outputs: Any) -> Iterator[Any]:
            for part in super().split(outputs):
                time.sleep(0.02)
                try:
                    yield part
                except GeneratorExit:  # closed before the end
                    closed.set()
                    raise

    with listening(tmp_path, Slow()) as port, socket.create_connection(("127.0.0.1", port), 5) as connection:
        body = json.dumps({"bars": 64, "seed": 1}).encode()
        connection.sendall(
            request_head(
                "/v1/compose",
                "Content-Type: application/json",
                "Accept: text/event-stream",
                f"Content-Length: {len(body)}",
            )
            + body
        )
        assert connection.recv(15).startswith(b"HTTP/1.1 200")
        connection.close()
        assert closed.wait(5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_first_fails_readiness_and_then_finishes_requests(tmp_path: Path, workers: int) -> None:
    command = [
        *(sys.executable, "-m", "tritone_cli", "gateway", "--server", "localhost:1", "--port", "0", "--json"),
        *("--workers", str(workers), "--drain", "1.5", "--keys-file", str(tmp_path / "keys.json")),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert urllib.request.urlopen(f"{url}/livez", timeout=5).status == 200  # noqa: S310
            process.send_signal(signal.SIGTERM)
            time.sleep(1.0 if workers > 1 else 0.5)
            with urllib.request.urlopen(f"{url}/livez", timeout=5) as response:  # noqa: S310
                assert response.headers["connection"] == "close"
            with pytest.raises(urllib.error.HTTPError) as raised:
                urllib.request.urlopen(f"{url}/readyz", timeout=5)  # noqa: S310
            assert json.load(raised.value)["reason"] == "the gateway is shutting down"
            process.wait(10)
        finally:
            process.kill()
    with pytest.raises(OSError):  # noqa: PT011 - any: nothing listens
        urllib.request.urlopen(f"{url}/livez", timeout=5)  # noqa: S310


@contextmanager
def slow_reader(port: int, path: str, body: bytes = b"", *headers: str) -> Iterator[socket.socket]:
    """Send a request and yield the connection, whose buffer for the response is small."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", port))
        method = "POST" if body else "GET"
        head = request_head(path, *headers, f"Content-Length: {len(body)}", "Connection: close", method=method)
        connection.sendall(head + body)
        yield connection


class CountingComposer(FakeComposer):
    """Writes many notes; counts the bars that a stream draws from it, and notes when it is closed early."""

    def __init__(self) -> None:
        super().__init__()
        self.n_drawn = 0
        self.closed = threading.Event()

    def run(self, inputs: Any) -> Any:
        outputs = super().run(inputs)
        outputs["frames"][:, :, :40] = 2
        return outputs

    def split(self, outputs: Any) -> Iterator[Any]:
        for part in super().split(outputs):
            self.n_drawn += 1
            try:
                yield part
            except GeneratorExit:
                self.closed.set()
                raise


LONG = json.dumps({"bars": 200, "seed": 1}).encode()
EVENTS = "Content-Type: application/json", "Accept: text/event-stream"


def test_an_unread_stream_pauses_and_then_stops_the_model(tmp_path: Path) -> None:
    model = CountingComposer()
    with (
        listening(tmp_path, model, send_buffer=BUFFER, send_timeout_s=1) as port,
        slow_reader(port, "/v1/compose", LONG, *EVENTS),
    ):
        assert model.closed.wait(10)
        n_drawn = model.n_drawn
        time.sleep(0.2)
    assert model.n_drawn == n_drawn
    assert n_drawn < 50, "the gateway keeps more of a stream than its buffer holds"


def test_a_stream_that_is_read_slowly_is_complete(tmp_path: Path) -> None:
    model = CountingComposer()
    with (
        listening(tmp_path, model, send_buffer=BUFFER, send_timeout_s=0.5) as port,
        slow_reader(port, "/v1/compose", LONG, *EVENTS) as connection,
    ):
        content = b""
        for _ in range(4):
            time.sleep(0.35)
            n_left = 100_000
            while n_left:
                part = connection.recv(n_left)
                content += part
                n_left -= len(part)
        content += received(connection)
    assert content.count(b"event: bars") > 200
    assert b"event: piece" in content
    assert not model.closed.is_set()


def test_unread_files_use_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "1.ogg").open("wb") as file:
        file.truncate(64 << 20)
    with listening(tmp_path, recordings=tmp_path, send_timeout_s=1) as port, ExitStack() as stack:
        before = psutil.Process().memory_info().rss
        connections = [stack.enter_context(slow_reader(port, "/v1/tracks/1/audio")) for _ in range(8)]
        time.sleep(0.5)
        assert psutil.Process().memory_info().rss - before < 32 << 20
        time.sleep(1.5)
        assert max(n_received(connection) for connection in connections) < 32 << 20


def n_received(connection: socket.socket) -> int:
    """Return how many bytes arrive before the connection ends in one way or another."""
    n_bytes = 0
    with suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            n_bytes += len(part)
    return n_bytes


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_disconnect_during_the_body_is_not_logged_as_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, framing: str
) -> None:
    def metrics() -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()

    with listening(tmp_path) as port:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(request_head("/v1/classify", "Content-Type: audio/ogg", framing))
            connection.sendall(b"a\r\n0123456789\r\n" if "chunked" in framing else b"0123456789")
            time.sleep(0.1)
        line = 'tritone_gateway_requests_total{method="POST",route="/v1/classify",status="499"} 1.0'
        deadline_s = time.monotonic() + 5
        while line not in metrics() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert line in metrics()
    assert "unexpected error" not in caplog.text
