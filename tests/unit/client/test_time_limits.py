"""Tests that no call takes longer than its `timeout_s`, whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.certificates import make_certificates

from tritone import AsyncMusicClient, ClientError, ConnectionFailedError, MusicClient, RequestTimeoutError
from tritone.messages import StreamRequest

TIMEOUT_S = 1.0
SLACK_S = 8.0  # for a busy machine; what is tested for would take far longer, or for ever
AUDIO = (np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32), 22_050)
STREAM = StreamRequest("composer", "s", {"x": np.zeros((1, 4), np.float32)}, ("x",))
# An HTTP/2 connection that is set up and then gives no answer: empty SETTINGS, and the acknowledgement of the client's.
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"

Act = Callable[[socket.socket], None]


def silent(connection: socket.socket) -> None:
    """Accept, and never read or answer."""


def half_answer(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


def drip(connection: socket.socket) -> None:
    """A byte now and then, so that no wait for a packet is long."""
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(600):
        connection.sendall(b"x-a: b\r\n")
        time.sleep(0.1)


def settings_only(connection: socket.socket) -> None:
    connection.sendall(SETTINGS)


ACTS: dict[str, list[Act]] = {
    "grpc": [silent, settings_only],
    "grpcs": [silent],  # in the midst of the handshake
    "http": [silent, half_answer, drip],
    "https": [silent],
}
CASES = [(scheme, act) for scheme, acts in ACTS.items() for act in acts]


@contextlib.contextmanager
def acting(act: Act, backlog: int | None = None) -> Iterator[int]:
    """The port of something that accepts connections, acts on each, and keeps it open."""
    kept: list[socket.socket] = []
    listening = socket.create_server(("127.0.0.1", 0), backlog=backlog)

    def on(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            act(connection)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(listening.accept()[0])
                threading.Thread(target=on, args=(kept[-1],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in kept:
            connection.close()


def run(kind: str, url: str, method: str, *args: Any, **options: Any) -> float:
    """Seconds until the call raised a ClientError."""

    async def main() -> None:
        async with AsyncMusicClient(url, **options) as music:
            await getattr(music, method)(*args, timeout_s=TIMEOUT_S)

    def call() -> None:
        with MusicClient(url, **options) as music:
            getattr(music, method)(*args, timeout_s=TIMEOUT_S)

    begun_s = time.monotonic()
    with pytest.raises(ClientError) as caught:
        asyncio.run(main()) if kind == "async" else call()
    assert isinstance(caught.value, RequestTimeoutError | ConnectionFailedError)
    return time.monotonic() - begun_s


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("scheme", "act"), CASES, ids=lambda each: getattr(each, "__name__", each))
@pytest.mark.parametrize(("method", "args"), [("server_ready", ()), ("embed", (AUDIO,))], ids=["ready", "embed"])
def test_a_server_that_accepts_and_does_not_answer(
    kind: str, scheme: str, act: Act, method: str, args: tuple[Any, ...]
) -> None:
    with acting(act) as port:
        assert run(kind, f"{scheme}://127.0.0.1:{port}", method, *args) < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_pool_of_silent_servers(kind: str, scheme: str) -> None:
    with acting(silent) as first, acting(silent) as second:
        url = f"{scheme}://127.0.0.1:{first},{scheme}://127.0.0.1:{second}"
        assert run(kind, url, "server_ready") < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_host_that_swallows_packets(kind: str, scheme: str) -> None:
    """A listener whose queue is full drops further connection requests, as a firewall does."""
    with socket.socket() as listening, contextlib.ExitStack() as fillers:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        assert run(kind, f"{scheme}://127.0.0.1:{port}", "server_ready") < TIMEOUT_S + SLACK_S


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of HTTP for threads, which resolves names itself; gRPC and aiohttp resolve in threads of their own."""
    original, over = socket.getaddrinfo, threading.Event()

    def hangs(host: Any, *args: Any, **options: Any) -> Any:
        if host == "slow.example":
            if options.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "not an address")
            over.wait(60)
        return original(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    try:
        assert run("sync", "http://slow.example:8000", "server_ready") < TIMEOUT_S + SLACK_S
    finally:
        over.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_unknown_host_is_an_error_at_once(kind: str, scheme: str) -> None:
    assert run(kind, f"{scheme}://does-not-exist.invalid:8001", "server_ready") < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("act", [silent, settings_only])
def test_a_stream_without_a_response(kind: str, act: Act) -> None:
    with acting(act) as port:
        url = f"grpc://127.0.0.1:{port}"

        async def main() -> None:
            async with (
                AsyncMusicClient(url) as music,
                contextlib.aclosing(music._transport.stream(STREAM, timeout_s=TIMEOUT_S)) as stream,
            ):
                await anext(stream)

        def call() -> None:
            with (
                MusicClient(url) as music,
                contextlib.closing(music._transport.stream(STREAM, timeout_s=TIMEOUT_S)) as stream,
            ):
                next(stream)

        begun_s = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            asyncio.run(main()) if kind == "async" else call()
        assert time.monotonic() - begun_s < TIMEOUT_S + SLACK_S


def test_a_server_that_reads_slowly_over_tls(tmp_path: Path) -> None:
    """The request is larger than all buffers, and the server takes a little of it now and then.

    For threads only, where writing is ours. With asyncio the call ends in time too, but aiohttp closes a TLS connection
    whose peer does not read only after that, which would be a warning here.
    """
    files = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_cert, files.server_key)

    def reads_slowly(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection:
            head = connection.recv(1 << 14)
            if head.startswith(b"GET") and b"/config" not in head:
                body = (
                    b'{"name": "genre_cnn", "versions": ["1"], "inputs": [{"name": "audio", "shape": [-1, 66150]}], '
                    b'"outputs": [{"name": "probabilities", "shape": [-1, 2]}, {"name": "emotions", "shape": [-1, 9]}, '
                    b'{"name": "embedding", "shape": [-1, 256]}]}'
                )
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                connection.recv(1 << 14)
                body = b'{"max_batch_size": 64}'
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            while connection.recv(1 << 12):
                time.sleep(0.2)

    long = (np.random.default_rng(0).uniform(-1, 1, 22_050 * 120).astype(np.float32), 22_050)
    with acting(reads_slowly) as port:
        took_s = run("sync", f"https://localhost:{port}", "embed", long, ca_file=files.ca, retries=0)
    assert took_s < TIMEOUT_S + SLACK_S
