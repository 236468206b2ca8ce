"""Load balancing over several servers: choose the server of each request and avoid servers that failed.

A server that cannot be reached is avoided for a back-off that doubles with each failure. After that, one caller checks
its health with a short time limit before requests go there again, because a host that drops packets would otherwise
cost a call all of its time. Of the healthy servers, the one with the fewest calls in progress is chosen; ties are
broken in rotation. Which errors are tried on another server is decided by `tritone.retry.ServerAttempts`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Final

from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, ConnectionFailedError, RequestTimeoutError, ServerError
from tritone.messages import (
    AsyncTransport,
    InferResponse,
    ReadyRequest,
    Request,
    Response,
    StreamRequest,
    Transport,
)
from tritone.processes import PerProcess
from tritone.retry import Deadline, ServerAttempts

FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
PROBE_TIMEOUT_S: Final = 1.0

_logger = logging.getLogger("tritone")


@dataclass
class PooledServer:
    """One server of a pool.

    Attributes:
        n_in_progress: calls without a response yet.
        n_failed: failures since its last response.
        avoided_until_s: on the monotonic clock; 0 for a healthy server.
    """

    index: int
    endpoint: Endpoint
    n_in_progress: int = 0
    n_failed: int = 0
    avoided_until_s: float = 0.0
    is_probing: bool = False


class ServerPool:
    """The state of several servers; thread-safe."""

    def __init__(self, endpoints: Sequence[Endpoint], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.servers = tuple(PooledServer(index, endpoint) for index, endpoint in enumerate(endpoints))
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0

    def take(self, tried: Sequence[PooledServer], *, only_healthy: bool = False) -> tuple[PooledServer, bool] | None:
        """Return the server to use next and whether it needs a health check first; None if all were tried.

        Each `take` is followed by one `give_back`.

        Args:
            tried: servers to leave out.
            only_healthy: leave out servers that are avoided, too.
        """
        with self._lock:
            left = [server for server in self.servers if server not in tried and not (only_healthy and server.n_failed)]
            if not left:
                return None
            now_s = self._clock()
            for server in left:
                if server.n_failed and not server.is_probing and server.avoided_until_s <= now_s:
                    server.is_probing = True
                    server.n_in_progress += 1
                    return server, True
            healthy = [server for server in left if not server.n_failed]
            # Without a healthy server, the one whose back-off ends first is tried.
            if not healthy:
                chosen = min(left, key=lambda server: server.avoided_until_s)
            else:
                n = len(self.servers)
                chosen = min(healthy, key=lambda server: (server.n_in_progress, (server.index - self._turn) % n))
                self._turn = (chosen.index + 1) % n
            chosen.n_in_progress += 1
            return chosen, False

    def give_back(self, server: PooledServer, error: BaseException | None) -> None:
        """Record the outcome of a call; any response, even an error, shows that the server is up."""
        with self._lock:
            server.n_in_progress -= 1
            server.is_probing = False
            if isinstance(error, ConnectionFailedError | RequestTimeoutError):
                server.n_failed += 1
                longest_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(server.n_failed - 1, 10))
                avoided_s = longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, guards nothing
                server.avoided_until_s = self._clock() + avoided_s
                _logger.debug("%s is not used for %.2f s (failure %d)", server.endpoint.url, avoided_s, server.n_failed)
            elif error is None or isinstance(error, ClientError):
                if server.n_failed:
                    _logger.info("%s is available again", server.endpoint.url)
                server.n_failed, server.avoided_until_s = 0, 0.0


class BalancedTransport:
    """Balances the calls of threads over servers; implements `Transport`."""

    def __init__(self, endpoints: Sequence[Endpoint], transports: Sequence[Transport]) -> None:
        self._pool = PerProcess(lambda: ServerPool(endpoints))
        self._transports = transports

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.handle`."""
        deadline = Deadline(timeout_s)
        attempts = ServerAttempts(self._pool.get(), request)
        while (server := attempts.next()) is not None:
            with attempts.attempt(server):
                if attempts.must_probe:
                    self._probe(server, deadline)
                return self._transports[server.index].handle(request, timeout_s=deadline.check(request))
        raise attempts.error()

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """See `Transport.stream`; another server takes over only before the first response."""
        attempts = ServerAttempts(self._pool.get(), request)
        while (server := attempts.next()) is not None:
            with attempts.attempt(server):
                if attempts.must_probe:
                    self._probe(server, Deadline(timeout_s))
                with closing(self._transports[server.index].stream(request, timeout_s=timeout_s)) as responses:
                    for response in responses:
                        attempts.has_begun = True
                        yield response
                return
        raise attempts.error()

    def close(self) -> None:
        """See `Transport.close`."""
        for transport in self._transports:
            transport.close()

    def _probe(self, server: PooledServer, deadline: Deadline) -> None:
        try:
            self._transports[server.index].handle(ReadyRequest(), timeout_s=_probe_timeout_s(deadline))
        except RequestTimeoutError as error:
            raise _health_check_failed(server) from error
        except ServerError:
            return  # an error response shows that the server is up


class AsyncBalancedTransport:
    """Balances the calls of one event loop over servers; implements `AsyncTransport`."""

    def __init__(self, endpoints: Sequence[Endpoint], transports: Sequence[AsyncTransport]) -> None:
        self._pool = PerProcess(lambda: ServerPool(endpoints))
        self._transports = transports

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `AsyncTransport.handle`."""
        deadline = Deadline(timeout_s)
        attempts = ServerAttempts(self._pool.get(), request)
        while (server := attempts.next()) is not None:
            with attempts.attempt(server):
                if attempts.must_probe:
                    await self._probe(server, deadline)
                return await self._transports[server.index].handle(request, timeout_s=deadline.check(request))
        raise attempts.error()

    async def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """See `AsyncTransport.stream`; another server takes over only before the first response."""
        attempts = ServerAttempts(self._pool.get(), request)
        while (server := attempts.next()) is not None:
            with attempts.attempt(server):
                if attempts.must_probe:
                    await self._probe(server, Deadline(timeout_s))
                async with aclosing(self._transports[server.index].stream(request, timeout_s=timeout_s)) as responses:
                    async for response in responses:
                        attempts.has_begun = True
                        yield response
                return
        raise attempts.error()

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        for transport in self._transports:
            await transport.close()

    async def _probe(self, server: PooledServer, deadline: Deadline) -> None:
        try:
            await self._transports[server.index].handle(ReadyRequest(), timeout_s=_probe_timeout_s(deadline))
        except RequestTimeoutError as error:
            raise _health_check_failed(server) from error
        except ServerError:
            return  # an error response shows that the server is up


def _probe_timeout_s(deadline: Deadline) -> float:
    return max(0.001, min(PROBE_TIMEOUT_S, deadline.left_s()))


def _health_check_failed(server: PooledServer) -> ConnectionFailedError:
    """Return the error for a health check that timed out."""
    return ConnectionFailedError(
        f"no connection to {server.endpoint.url}: health check timed out after {PROBE_TIMEOUT_S:g} s",
        reason="no_response",
        endpoint=server.endpoint.url,
    )
