"""gRPC transport for one event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import grpc.aio

from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError
from tritone.messages import (
    InferRequest,
    InferResponse,
    ModelRequest,
    ReadyResponse,
    Request,
    Response,
    StatisticsRequest,
    StreamRequest,
)
from tritone.processes import (
    Use,
    check_usable,
)
from tritone.retry import Deadline, timed_out
from tritone.transports import grpc_wire as wire


@dataclass(frozen=True)
class _Opened:
    """A connection, and the process that opened it."""

    connection: wire.Connection
    use: Use
    pid: int


class AsyncGrpcTransport:
    """Sends requests over one gRPC channel, which the first request opens in the running event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._opened: _Opened | None = None
        self._closed = False

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `AsyncTransport.handle`."""
        try:
            return await self._answer(request, Deadline(timeout_s))
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error

    async def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """See `AsyncTransport.stream`."""
        call: Any = None
        pid = os.getpid()
        try:
            messages = iter((wire.stream_message(request),))
            call = self._connection().stub.ModelStreamInfer(
                messages, metadata=wire.metadata_for(request, self._endpoint)
            )
            received = aiter(call)
            while (message := await _next(received, request, timeout_s)) is not None:
                response = wire.read_stream_response(request, message)
                if response is not None:
                    yield response
        except asyncio.CancelledError:
            # gRPC also raises this when the channel is closed; in that case the task was not cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise wire.lost("CANCELLED", "", request, self._endpoint) from None
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error
        finally:  # also if the caller stops early, drops the stream or is cancelled
            if call is not None and pid == os.getpid():
                call.cancel()

    async def close(self) -> None:
        """See `AsyncTransport.close`."""
        self._closed = True
        if self._opened is not None and self._opened.pid == os.getpid():
            opened, self._opened = self._opened, None  # dropping the last channel ends gRPC's thread
            await opened.connection.channel.close()
            opened.use.end()

    def _connection(self) -> wire.Connection:
        if self._closed:
            raise ClientError("this client is closed; create a new one", reason="closed")
        check_usable()
        if self._opened is None or self._opened.pid != os.getpid():
            use = Use(lasts=True)
            try:
                self._opened = _Opened(wire.connect(self._endpoint, grpc.aio), use, os.getpid())
            except OSError as error:  # a certificate file
                use.end()
                raise wire.unreadable_file(error, self._endpoint) from error
        return self._opened.connection

    async def _answer(self, request: Request, deadline: Deadline) -> Response:
        connection = self._connection()
        stub = connection.stub
        if isinstance(request, InferRequest):
            message = wire.infer_message(request)
            return wire.read_inference(request, await self._call(connection.infer, message, request, deadline))
        if isinstance(request, ModelRequest):
            metadata = await self._call(stub.ModelMetadata, wire.metadata_request(request), request, deadline)
            config = await self._call(stub.ModelConfig, wire.config_request(request, metadata), request, deadline)
            return wire.read_model(metadata, config)
        if isinstance(request, StatisticsRequest):
            return wire.read_statistics(
                await self._call(stub.ModelStatistics, wire.statistics_request(request), request, deadline)
            )
        if request.model is None:
            return ReadyResponse((await self._call(stub.ServerReady, wire.SERVER_READY, request, deadline)).ready)
        message = wire.ready_request(request.model)
        return ReadyResponse((await self._call(stub.ModelReady, message, request, deadline)).ready)

    async def _call(self, method: Any, message: Any, request: Request, deadline: Deadline) -> Any:
        return await method(
            message, metadata=wire.metadata_for(request, self._endpoint), timeout=deadline.check(request)
        )


async def _next(received: Any, request: StreamRequest, timeout_s: float) -> Any:
    """Return the next response; None after the last one."""
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(received, None)
    except TimeoutError:
        raise timed_out(request, timeout_s) from None
