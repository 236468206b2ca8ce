"""HTTP transport for one event loop, based on aiohttp.

tritonclient depends on aiohttp, but its own asynchronous client passes whole bodies as bytes. That copies the audio
twice, and aiohttp warns about each body over 1 MB.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from tritone.endpoints import Endpoint
from tritone.exceptions import ProcessBoundError
from tritone.messages import InferResponse, Request, Response, StreamRequest
from tritone.retry import Deadline
from tritone.transports import http_wire as wire
from tritone.transports.protocol import no_streaming


class AsyncHttpTransport:
    """Sends requests over one aiohttp session, which the first request opens in the running event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tls = endpoint.ssl_context() if endpoint.tls else None
        self._session: aiohttp.ClientSession | None = None
        self._pid = 0  # of the process that opened the session

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `AsyncTransport.handle`."""
        deadline = Deadline(timeout_s)
        try:
            replies = [await self._exchange(wire.first_call(request, self._endpoint), request, deadline)]
            if (call := wire.second_call(request, replies[0], self._endpoint)) is not None:
                replies.append(await self._exchange(call, request, deadline))
            return wire.read(request, replies)
        except Exception as error:
            # aiohttp does not report how much it sent; it is certain that nothing was only if no connection was made.
            was_sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise wire.translated(error, request, self._endpoint, timeout_s, was_sent=was_sent) from error

    def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """See `AsyncTransport.stream`; raises, because Triton does not stream over HTTP."""
        raise no_streaming(self._endpoint, request)

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        # In a forked child, closing would remove the sockets from the event loop's epoll, which the parent shares.
        if self._session is not None and self._pid == os.getpid():
            await self._session.close()

    async def _exchange(self, call: wire.Call, request: Request, deadline: Deadline) -> wire.Reply:
        if self._session is None:
            self._session, self._pid = self._opened(), os.getpid()
        if self._pid != os.getpid():
            raise ProcessBoundError(
                "this AsyncMusicClient has connections of the parent process; create a client in each process",
                reason="forked",
            )
        async with self._session.request(
            call.method,
            f"http{'s' if self._tls else ''}://{self._endpoint.authority}{call.path}",
            data=_streamed(call.body) if call.body else None,
            headers=call.headers,
            timeout=aiohttp.ClientTimeout(total=deadline.check(request)),
            allow_redirects=False,  # a redirect would forward the key
        ) as response:
            body = await response.read()
            return wire.Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, body)

    def _opened(self) -> aiohttp.ClientSession:
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, **options),
            headers={"accept-encoding": "identity"},  # compressing numbers gains little and costs time
            cookie_jar=aiohttp.DummyCookieJar(),
        )


async def _streamed(parts: tuple[memoryview, ...]) -> AsyncIterator[memoryview]:
    """Yield the body in pieces, so that other tasks can run in between; its length is in the headers."""
    size = 1 << 18
    for part in parts:
        for start in range(0, part.nbytes, size):
            yield part[start : start + size]
