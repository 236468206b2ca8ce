"""uvicorn protocol for HTTP/1.1 with limits on the size of headers and on the time to receive and to read."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_DISCARD_S: Final = 5.0
_MAX_JOINED_BYTES: Final = 65_536
_MAX_HEAD_BYTES: Final = 65_536
_HEAD_TOO_LARGE_RESPONSE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)
_TIMEOUT_RESPONSE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _JoinedWrites:
    """Transport that joins the writes of one iteration of the event loop.

    uvicorn writes the headers and the body of a response separately, which costs one more system call at both ends.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._n_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Queue data to be sent at the end of this iteration of the event loop."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._n_bytes += len(data)
        if self._n_bytes >= _MAX_JOINED_BYTES:  # so that the transport can pause the writer
            self._flush()

    def close(self) -> None:
        """Send the queued data and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._n_bytes = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class TimedProtocol(HttpToolsProtocol):
    """HTTP/1.1 protocol that closes connections whose request does not arrive, or whose response is not read, in time.

    uvicorn bounds only the idle time between requests (https://github.com/Kludex/uvicorn/issues/157), so a client that
    sends a header a second would hold a connection forever. `Admission` limits the time for the body of an accepted
    request; here, the rest of a body whose response is already sent is discarded for at most `_MAX_DISCARD_S`.

    Neither uvicorn nor its parser limits the size of headers, and the parser's time is quadratic in the size of one
    header, which would block the event loop. The protocol therefore counts the bytes that arrive without a part of a
    body or the end of the headers among them; trailers and extensions of chunks are counted likewise.

    A connection whose caller reads nothing for `send_timeout_s` is closed. It would otherwise occupy the memory of the
    response, one of the concurrent requests, and the model of a stream, without a limit.
    """

    _n_head_bytes: int = 0
    _receive_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit of the first request."""
        joined: Any = _JoinedWrites(transport, self.loop)
        super().connection_made(joined)
        self._start_receive_timer(self._header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Parse data, and close the connection if too much of it is not part of a body."""
        self._n_head_bytes += len(data)
        super().data_received(data)
        if self._n_head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self._close_with(_HEAD_TOO_LARGE_RESPONSE)

    def on_message_begin(self) -> None:
        """Start the time limit of the headers."""
        super().on_message_begin()
        self._start_receive_timer(self._header_timeout_s)

    def on_headers_complete(self) -> None:
        """Stop the time limit of the headers."""
        self._n_head_bytes = 0
        self._stop_receive_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Reset the number of bytes that are not part of a body."""
        self._n_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the time limit of an unread body."""
        self._n_head_bytes = 0
        self._stop_receive_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the time limit of the rest of an unread body."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._start_receive_timer(_MAX_DISCARD_S)

    def pause_writing(self) -> None:
        """Start the time limit for the caller to read."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """Stop the time limit for the caller to read."""
        self._stop_send_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all time limits."""
        self._stop_receive_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    @property
    def _header_timeout_s(self) -> float:
        return float(self.app_state.get("header_timeout_s", 10.0))

    def _start_receive_timer(self, timeout_s: float) -> None:
        self._stop_receive_timer()
        self._receive_timer = self.loop.call_later(timeout_s, self._on_receive_timeout)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _start_send_timer(self) -> None:
        n_unread = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(
            float(self.app_state.get("send_timeout_s", 60.0)), self._abort_if_unread, n_unread
        )

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _abort_if_unread(self, n_unread: int) -> None:
        """Abort the connection if the caller has read nothing since the timer started."""
        if self.transport.get_write_buffer_size() < n_unread:
            self._start_send_timer()
        else:
            self._send_timer = None
            self.transport.abort()

    def _on_receive_timeout(self) -> None:
        self._receive_timer = None
        if not self.transport.is_closing():
            self._close_with(_TIMEOUT_RESPONSE)

    def _close_with(self, response: bytes) -> None:
        """Close the connection, with a response unless another one is being sent."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(response)
        self.transport.close()
