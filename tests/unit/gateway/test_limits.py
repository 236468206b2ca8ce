"""Limits of size, time and number, against a gateway that listens on a socket."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.unit.gateway.conftest import tone

from tritone import AsyncMusicClient
from tritone.testing import AsyncMockTransport, FakeGenreModel
from tritone_gateway import GatewaySettings, create_app
from tritone_gateway.server import TimedProtocol


@contextmanager
def listening(tmp_path: Path, handler: object = None, **settings: object) -> Iterator[int]:
    """Yield the port of a gateway that runs in a thread."""
    music = AsyncMusicClient(retries=0, transport=AsyncMockTransport(handler or FakeGenreModel()))
    app = create_app(GatewaySettings(keys_file=tmp_path / "keys.json", **settings), music=music)
    server = uvicorn.Server(uvicorn.Config(app, http=TimedProtocol, log_config=None, ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def request_head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def test_headers_that_do_not_arrive_end_the_connection(tmp_path: Path) -> None:
    with listening(tmp_path, header_timeout_s=0.3) as port, socket.create_connection(("127.0.0.1", port), 5) as slow:
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\n")
        for _ in range(10):
            time.sleep(0.1)
            try:
                slow.sendall(b"X: y\r\n")
            except OSError:
                break
        assert received(slow)[:12] in (b"HTTP/1.1 408", b"")


def test_a_connection_without_a_request_ends(tmp_path: Path) -> None:
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


def test_memory_of_all_bodies_is_bounded(tmp_path: Path) -> None:
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
            f"http://127.0.0.1:{port}/v1/classify", data=tone(), headers={"Content-Type": "audio/ogg"}
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

    recording = tone()
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


def test_a_caller_that_goes_away_stops_the_stream(tmp_path: Path) -> None:
    from tritone.testing import FakeComposer

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
def test_sigterm_finishes_requests_and_readiness_says_no_first(tmp_path: Path, workers: int) -> None:
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
            assert json.load(raised.value)["reason"] == "the gateway is about to stop"
            process.wait(10)
        finally:
            process.kill()
    with pytest.raises(OSError):  # noqa: PT011 - any: nothing listens
        urllib.request.urlopen(f"{url}/livez", timeout=5)  # noqa: S310
