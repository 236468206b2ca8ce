"""HTTP/1.1 connections with limits of time, for uvicorn."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_DISCARD_S: Final = 5.0
_MAX_JOINED_BYTES: Final = 65_536
_TIMEOUT_RESPONSE: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _JoinedWrites:
    """A transport that sends what is written in one turn of the event loop at once.

    uvicorn writes the headers and the body of a response separately, which costs the gateway and its client a system
    call each.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._n_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send data before the event loop waits again."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._n_bytes += len(data)
        if self._n_bytes >= _MAX_JOINED_BYTES:  # the transport then pauses a writer that is too fast
            self._flush()

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._n_bytes = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose request does not arrive in time, or whose response is not read.

    uvicorn bounds only the idle time between requests (https://github.com/Kludex/uvicorn/issues/157), so a client that
    sends a header a second would hold a connection forever. The time for the body of an accepted request is bounded by
    `Admission`; here, the body of a request that was answered early is discarded for some seconds at most.

    A caller that reads nothing for `send_timeout_s` while a response waits for it would otherwise keep the response's
    memory, its place among the requests at once, and the model of a stream, for as long as it likes.
    """

    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        joined: Any = _JoinedWrites(transport, self.loop)
        super().connection_made(joined)
        self._arm(self._header_timeout_s)

    def on_message_begin(self) -> None:
        """Wait for the headers."""
        super().on_message_begin()
        self._arm(self._header_timeout_s)

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting."""
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that nobody reads."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._arm(_MAX_DISCARD_S)

    def pause_writing(self) -> None:
        """Wait for the caller to read."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Stop waiting."""
        self._stop_awaiting_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        self._stop_awaiting_reading()
        super().connection_lost(exc)

    @property
    def _header_timeout_s(self) -> float:
        return float(self.app_state.get("header_timeout_s", 10.0))

    def _arm(self, timeout_s: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(timeout_s, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_reading(self) -> None:
        n_unread = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(
            float(self.app_state.get("send_timeout_s", 60.0)), self._end_unread, n_unread
        )

    def _stop_awaiting_reading(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _end_unread(self, n_unread: int) -> None:
        """End the connection unless some of the response was read meanwhile."""
        if self.transport.get_write_buffer_size() < n_unread:
            self._await_reading()
        else:
            self._send_timer = None
            self.transport.abort()

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TIMEOUT_RESPONSE)
        self.transport.close()
