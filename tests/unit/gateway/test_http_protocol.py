"""Writes of the HTTP protocol to its connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tritone_gateway.http_protocol import TimedProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class RecordingTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def get_extra_info(self, name: str) -> None:
        """Return nothing about the connection."""

    def write(self, data: bytes) -> None:
        """Keep data."""
        self.written.append(data)

    def is_closing(self) -> bool:
        """Return whether `close` was called."""
        return self.closed

    def close(self) -> None:
        """Close."""
        self.closed = True

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


def responding(n_parts: int, part: bytes) -> Any:
    """Return an application that sends a response in parts, without waiting between them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(n_parts * len(part)).encode())]
        if scope["path"] == "/close":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for index in range(n_parts):
            await send({"type": "http.response.body", "body": part, "more_body": index < n_parts - 1})

    return app


async def connection(app: Any, data: bytes) -> RecordingTransport:
    """Send data to an application on a connection of its own, and wait for the response."""
    config = uvicorn.Config(app, http=TimedProtocol, lifespan="off")
    config.load()
    protocol = TimedProtocol(config=config, server_state=ServerState(), app_state={})
    transport = RecordingTransport()
    protocol.connection_made(transport)
    protocol.data_received(data)
    for _ in range(20):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    return transport


def test_headers_and_body_are_written_at_once() -> None:
    transport = asyncio.run(connection(responding(1, b"body"), REQUEST))

    assert len(transport.written) == 1
    assert transport.written[0].endswith(b"\r\n\r\nbody")


def test_a_long_body_is_not_collected() -> None:
    transport = asyncio.run(connection(responding(100, b"x" * 65_536), REQUEST))

    assert len(transport.written) == 100
    assert max(map(len, transport.written)) < 70_000
    assert b"".join(transport.written).count(b"x") == 100 * 65_536


@pytest.mark.parametrize("n_parts", [1, 3])
def test_a_response_is_complete_before_its_connection_closes(n_parts: int) -> None:
    transport = asyncio.run(connection(responding(n_parts, b"body"), REQUEST.replace(b"/ ", b"/close ", 1)))

    assert transport.closed
    assert b"".join(transport.written).endswith(b"\r\n\r\n" + n_parts * b"body")


def test_pipelined_requests_are_answered_in_order() -> None:
    transport = asyncio.run(connection(responding(1, b"body"), 3 * REQUEST))

    assert b"".join(transport.written).count(b"HTTP/1.1 200 OK") == 3


async def sent_in_parts(parts: list[bytes]) -> tuple[bytes, bool]:
    """Send parts to an application that reads the body, until the connection is closed.

    Returns:
        What was written, and whether the gateway has closed the connection.
    """

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    config = uvicorn.Config(app, http=TimedProtocol, lifespan="off")
    config.load()
    protocol = TimedProtocol(config=config, server_state=ServerState(), app_state={})
    transport = RecordingTransport()
    protocol.connection_made(transport)
    for part in parts:
        if transport.closed:
            break
        protocol.data_received(part)
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    closed = transport.closed
    protocol.connection_lost(None)
    return b"".join(transport.written), closed


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-A: aaaa\r\n" * 900),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a" * 9_000),
        (b"GET /?", b"a" * 9_000),
    ],
    ids=["many headers", "one header", "url"],
)
def test_headers_without_end_are_431(start: bytes, part: bytes) -> None:
    written, closed = asyncio.run(sent_in_parts([start, *[part] * 8]))

    assert closed
    assert written.startswith(b"HTTP/1.1 431 ")


def test_trailers_without_end_close_the_connection() -> None:
    start = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    _, closed = asyncio.run(sent_in_parts([start, *[b"X-A: aaaa\r\n" * 900] * 8]))

    assert closed


def test_bodies_and_many_requests_on_a_connection_are_not_counted_as_headers() -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 30_000 + b"\r\nContent-Length: 200000\r\n\r\n"
    written, closed = asyncio.run(sent_in_parts([head, *[b"a" * 20_000] * 10] * 4))

    assert not closed
    assert written.count(b"HTTP/1.1 200 OK") == 4
