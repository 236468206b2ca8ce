"""gRPC transport for threads."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator
from typing import Any

import grpc

from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, ProcessBoundError
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
from tritone.processes import PerProcess, inside_grpc
from tritone.retry import Deadline, timed_out
from tritone.transports import grpc_wire as wire


class GrpcTransport:
    """Sends requests over one gRPC channel, which all threads share."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._closed = False
        self._connection = PerProcess(self._connected, keep=True)

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """See `Transport.handle`."""
        try:
            deadline = Deadline(timeout_s)
            with inside_grpc(timeout_s=timeout_s):
                return self._answer(request, deadline)
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """See `Transport.stream`."""
        call: Any = None
        pid = os.getpid()
        try:
            with inside_grpc(lasts=True, timeout_s=timeout_s):
                self._check_open()
                messages = iter((wire.stream_message(request),))
                stub = self._connection.get().stub
                call = stub.ModelStreamInfer(messages, metadata=wire.metadata_for(request, self._endpoint))
                received: queue.SimpleQueue[Any] = queue.SimpleQueue()
                # gRPC has no timeout for a single response of a stream, so a thread waits for it.
                threading.Thread(target=_pass_on, args=(call, received), name="tritone-stream", daemon=True).start()
                while (message := _next(received, request, timeout_s)) is not None:
                    if isinstance(message, Exception):
                        raise message
                    response = wire.read_stream_response(request, message)
                    if response is not None:
                        yield response
                        if pid != os.getpid():
                            raise ProcessBoundError(
                                "this stream belongs to the parent process: the process was forked while the stream "
                                "was open; start a stream in each process",
                                reason="forked",
                            )
        except Exception as error:
            raise wire.translated(error, request, self._endpoint, timeout_s) from error
        finally:  # also if the caller stops early or drops the stream
            if call is not None and pid == os.getpid():
                call.cancel()

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        connection = self._connection.get_if_made_here()
        if connection is not None:  # closing a channel that was copied by a fork could hang
            with inside_grpc():
                connection.channel.close()

    def _connected(self) -> wire.Connection:
        try:
            with inside_grpc():
                return wire.connect(self._endpoint, grpc)
        except OSError as error:  # a certificate file
            raise wire.unreadable_file(error, self._endpoint) from error

    def _check_open(self) -> None:
        if self._closed:  # gRPC would raise a ValueError
            raise ClientError("this client is closed; create a new one", reason="closed")

    def _answer(self, request: Request, deadline: Deadline) -> Response:
        self._check_open()
        connection = self._connection.get()
        stub = connection.stub
        if isinstance(request, InferRequest):
            message = wire.infer_message(request)
            return wire.read_inference(request, self._call(connection.infer, message, request, deadline))
        if isinstance(request, ModelRequest):
            metadata = self._call(stub.ModelMetadata, wire.metadata_request(request), request, deadline)
            config = self._call(stub.ModelConfig, wire.config_request(request, metadata), request, deadline)
            return wire.read_model(metadata, config)
        if isinstance(request, StatisticsRequest):
            return wire.read_statistics(
                self._call(stub.ModelStatistics, wire.statistics_request(request), request, deadline)
            )
        if request.model is None:
            return ReadyResponse(self._call(stub.ServerReady, wire.SERVER_READY, request, deadline).ready)
        return ReadyResponse(self._call(stub.ModelReady, wire.ready_request(request.model), request, deadline).ready)

    def _call(self, method: Any, message: Any, request: Request, deadline: Deadline) -> Any:
        return method(message, metadata=wire.metadata_for(request, self._endpoint), timeout=deadline.check(request))


def _pass_on(call: Any, received: queue.SimpleQueue[Any]) -> None:
    """Put the responses of a call into a queue, followed by None or by the error that ended it."""
    try:
        for message in call:
            received.put(message)
    except Exception as error:
        received.put(error)
    else:
        received.put(None)


def _next(received: queue.SimpleQueue[Any], request: StreamRequest, timeout_s: float) -> Any:
    try:
        return received.get(timeout=timeout_s)
    except queue.Empty:
        raise timed_out(request, timeout_s) from None
