"""Several servers as one: a call that one of them cannot answer is given to another, within the call's time.

A request that may be repeated is tried once on each server before that counts as one failure to the client,
whose `retries` then begin again with all of them. A request whose connection was lost after sending is tried on
at most one more server, retries included.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing

from tritone.endpoints import Endpoint
from tritone.exceptions import RequestTimeoutError, ServerError
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
from tritone.retry import Deadline
from tritone.transports.pool import PROBE_TIMEOUT_S, Member, Pool, Round, silent


class BalancedTransport:
    """One transport to each server; see `Transport`."""

    def __init__(self, endpoints: Sequence[Endpoint], transports: Sequence[Transport]) -> None:
        self._pool = PerProcess(lambda: Pool(endpoints))
        self._transports = transports

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.handle`."""
        deadline = Deadline(timeout_s)
        turns = Round(self._pool.get(), request)
        while (member := turns.next()) is not None:
            with turns.attempt(member):
                if turns.must_probe:
                    self._probe(member, deadline)
                return self._transports[member.index].handle(request, timeout_s=deadline.check(request))
        raise turns.verdict()

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """See `Transport.stream`; another server takes over only before the first answer."""
        turns = Round(self._pool.get(), request)
        while (member := turns.next()) is not None:
            with turns.attempt(member):
                if turns.must_probe:
                    self._probe(member, Deadline(timeout_s))
                with closing(self._transports[member.index].stream(request, timeout_s=timeout_s)) as responses:
                    for response in responses:
                        turns.has_begun = True
                        yield response
                return
        raise turns.verdict()

    def close(self) -> None:
        """See `Transport.close`."""
        for transport in self._transports:
            transport.close()

    def _probe(self, member: Member, deadline: Deadline) -> None:
        try:
            self._transports[member.index].handle(ReadyRequest(), timeout_s=_patience_s(deadline))
        except RequestTimeoutError as error:
            raise silent(member) from error
        except ServerError:
            return  # a refusal is a sign of life


class AsyncBalancedTransport:
    """The same for one event loop; see `AsyncTransport`."""

    def __init__(self, endpoints: Sequence[Endpoint], transports: Sequence[AsyncTransport]) -> None:
        self._pool = PerProcess(lambda: Pool(endpoints))
        self._transports = transports

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `AsyncTransport.handle`."""
        deadline = Deadline(timeout_s)
        turns = Round(self._pool.get(), request)
        while (member := turns.next()) is not None:
            with turns.attempt(member):
                if turns.must_probe:
                    await self._probe(member, deadline)
                return await self._transports[member.index].handle(request, timeout_s=deadline.check(request))
        raise turns.verdict()

    async def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """See `AsyncTransport.stream`; another server takes over only before the first answer."""
        turns = Round(self._pool.get(), request)
        while (member := turns.next()) is not None:
            with turns.attempt(member):
                if turns.must_probe:
                    await self._probe(member, Deadline(timeout_s))
                async with aclosing(self._transports[member.index].stream(request, timeout_s=timeout_s)) as responses:
                    async for response in responses:
                        turns.has_begun = True
                        yield response
                return
        raise turns.verdict()

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        for transport in self._transports:
            await transport.close()

    async def _probe(self, member: Member, deadline: Deadline) -> None:
        try:
            await self._transports[member.index].handle(ReadyRequest(), timeout_s=_patience_s(deadline))
        except RequestTimeoutError as error:
            raise silent(member) from error
        except ServerError:
            return  # a refusal is a sign of life


def _patience_s(deadline: Deadline) -> float:
    return max(0.001, min(PROBE_TIMEOUT_S, deadline.left_s()))
