"""Admission of requests: request ids, authentication, and limits of requests, body sizes and receive times.

Implemented as ASGI middleware, because Starlette's body limit has neither a time limit nor a bound on the memory of all
bodies together, and because a caller without a key must be refused before the body is read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritone import TritoneError
from tritone_gateway.metrics import Metrics, RouteTemplates
from tritone_gateway.problems import ProblemError, problem_response
from tritone_gateway.security.callers import ApiCaller, Callers
from tritone_gateway.settings import MIB, GatewaySettings

REQUEST_ID_HEADER: Final = b"x-request-id"
PROTECTED: Final = ("/v1/", "/metrics")
_LOGGER: Final = logging.getLogger(__name__)
_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass
class WorkerLoad:
    """Current load of one worker process.

    Attributes:
        n_requests: requests being served.
        n_body_bytes: bytes of their bodies that have arrived.
        draining: whether the worker is shutting down and finishes its last requests.
    """

    n_requests: int = 0
    n_body_bytes: int = 0
    draining: bool = False


@dataclass(frozen=True)
class _Limits:
    max_requests: int
    max_body_bytes: int
    max_bodies_bytes: int
    body_timeout_s: float


@dataclass
class _IncomingBody:
    """Progress of receiving the body of one request."""

    load: WorkerLoad
    limits: _Limits
    deadline_s: float
    n_bytes: int = 0
    complete: bool = field(default=False)

    def add(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        self.load.n_body_bytes += n_bytes
        if self.n_bytes > self.limits.max_body_bytes:
            raise _too_large(self.limits)
        if self.load.n_body_bytes > self.limits.max_bodies_bytes:
            raise _overloaded("the bodies of the current requests use all the memory that is reserved for them")


class Admission:
    """ASGI middleware that authenticates each request, applies the limits and records its metrics."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: GatewaySettings,
        callers: Callers,
        load: WorkerLoad,
        metrics: Metrics,
        templates: RouteTemplates,
    ) -> None:
        self._app = app
        self._callers = callers
        self._load = load
        self._metrics = metrics
        self._templates = templates
        self._limits = _Limits(
            max_requests=settings.max_in_flight,
            max_body_bytes=settings.max_body_mb * MIB,
            max_bodies_bytes=settings.max_bodies_mb * MIB,
            body_timeout_s=settings.body_timeout_s,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        record = self._metrics.begin(scope, headers, request_id)
        load, load_draining = self._load, self._load.draining

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, request_id.encode())]
                if load_draining:
                    message["headers"].append((b"connection", b"close"))
                record.respond(message["status"])
            elif message["type"] == "http.response.body":
                record.add_sent(len(message.get("body", b"")))
            await send(message)

        admitted: ApiCaller | None = None
        body = _IncomingBody(load, self._limits, time.monotonic() + self._limits.body_timeout_s)
        try:
            if scope["path"].startswith(PROTECTED):
                caller = self._callers.authenticate(headers)
                record.caller = caller.name  # also recorded for a request that is refused
                await self._admit(caller)
                state["caller"] = admitted = caller
            _check_content_length(headers, self._limits)
            await self._app(scope, _limited(receive, body), send_with_id)
        except ClientDisconnect:
            pass  # before the whole body had arrived; counted as status 499
        except Exception as error:
            # The checks above raise ProblemError and TritoneError; any other exception is a bug of the gateway.
            if not isinstance(error, ProblemError | TritoneError):
                _LOGGER.exception("unexpected error", extra={"request_id": request_id})
            if record.status is not None:
                raise
            await problem_response(error, request_id)(scope, receive, send_with_id)
        finally:
            load.n_body_bytes -= body.n_bytes
            if admitted is not None:
                load.n_requests -= 1
                self._callers.release(admitted)
            route = getattr(scope.get("route"), "path", None)  # not set if the request was refused above
            record.finish(route or self._templates.find(scope["path"]), body.n_bytes)

    async def _admit(self, caller: ApiCaller) -> None:
        if self._load.n_requests >= self._limits.max_requests:
            raise _overloaded(f"this worker already serves its maximum of {self._limits.max_requests} requests")
        self._load.n_requests += 1  # before the rate store is awaited
        try:
            await self._callers.admit(caller)
        except BaseException:
            self._load.n_requests -= 1
            raise


def _limited(receive: Receive, body: _IncomingBody) -> Receive:
    """Return a `receive` that limits the size of a body and the time for receiving it."""

    async def receive_within_limits() -> Message:
        if body.complete:  # the next message is a disconnect, for which a streaming response waits without a limit
            return await receive()
        left_s = body.deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                message = await receive()
        except TimeoutError:
            raise ProblemError(
                408,
                "slow-body",
                "The body did not arrive in time",
                f"expected the whole body within {body.limits.body_timeout_s:g} s, got {body.n_bytes:,} bytes of it",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            body.add(len(message.get("body", b"")))
            body.complete = not message.get("more_body", False)
        return message

    return receive_within_limits


def _check_content_length(headers: Mapping[bytes, bytes], limits: _Limits) -> None:
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.max_body_bytes:
        raise _too_large(limits)


def _too_large(limits: _Limits) -> ProblemError:
    return ProblemError(
        413,
        "body-too-large",
        "The body is too large",
        f"expected at most {limits.max_body_bytes // MIB} MiB; send a compressed recording, or a shorter one",
    )


def _overloaded(why: str) -> ProblemError:
    return ProblemError(503, "overloaded", "The gateway is busy", f"{why}; try again", headers={"Retry-After": "1"})


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(REQUEST_ID_HEADER, b"")
    return given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
