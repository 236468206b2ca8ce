"""Tests of streamed responses over gRPC, with a real gRPC server in this process."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritone import (
    ClientError,
    ConnectionFailedError,
    InferResponse,
    InvalidInputError,
    ModelNotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.endpoints import make_endpoint
from tritone.exceptions import VersionChangedError
from tritone.messages import StreamRequest
from tritone.transports import make_async_transport, make_transport

TIMEOUT_S = 10.0
REQUEST = StreamRequest("composer", "stream-1", {"noise": np.arange(6, dtype=np.float32).reshape(1, 3, 2)}, ("x",))


class Server:
    """Streams what `script` yields: numbers as answers, text as errors in an answer, None as an empty end."""

    def __init__(self) -> None:
        self.script: Callable[[Any], Iterator[Any]] = lambda _context: iter(())
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.ended = threading.Event()
        servicer = service_pb2_grpc.GRPCInferenceServiceServicer()
        servicer.ModelStreamInfer = self._stream  # type: ignore[method-assign]
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _stream(self, requests: Any, context: Any) -> Iterator[Any]:
        self.ended.clear()
        context.add_callback(self.ended.set)
        self.metadata = {entry.key: entry.value for entry in context.invocation_metadata()}
        for request in requests:
            self.requests.append(request)
            for answer in self.script(context):
                yield _answer(request, answer)

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()


def _answer(request: Any, answer: Any) -> Any:
    if isinstance(answer, str):
        return service_pb2.ModelStreamInferResponse(error_message=answer)
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="7", id=request.id)
    if answer is not None:
        response.outputs.add(name="x", datatype="INT64", shape=[1, 1])
        response.raw_output_contents.append(np.array([[answer]], np.int64).tobytes())
    return service_pb2.ModelStreamInferResponse(infer_response=response)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


class Stream:
    """One form for both kinds of transport: `next()` and `close()`."""

    def __init__(self, answers: Any, loop: asyncio.AbstractEventLoop | None) -> None:
        self._answers, self._loop = answers, loop

    def next(self) -> int | None:
        """The next number, None at the end."""
        if self._loop:
            answer = self._loop.run_until_complete(anext(self._answers, None))
        else:
            answer = next(self._answers, None)
        return None if answer is None else int(answer.outputs["x"].item())

    def rest(self) -> list[int]:
        return list(iter(self.next, None))  # type: ignore[arg-type]

    def close(self) -> None:
        if self._loop:
            self._loop.run_until_complete(self._answers.aclose())
        else:
            self._answers.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, server: Server) -> Iterator[Callable[..., Any]]:
    """`connect()` answers a function that begins a stream; it has `close_transport`."""
    loop = asyncio.new_event_loop() if request.param == "async" else None
    made: list[Any] = []

    def make(port: int = server.port, **options: Any) -> Any:
        endpoint = make_endpoint(f"127.0.0.1:{port}", **options)
        transport: Any = make_async_transport(endpoint) if loop else make_transport(endpoint)
        made.append(transport)

        def begin(asked: StreamRequest = REQUEST, timeout_s: float = TIMEOUT_S) -> Stream:
            return Stream(transport.stream(asked, timeout_s=timeout_s), loop)

        begin.close_transport = lambda: _close(transport, loop)  # type: ignore[attr-defined]
        return begin

    yield make
    for transport in made:
        _close(transport, loop)
    if loop:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _close(transport: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    closed = transport.close()
    if loop:
        loop.run_until_complete(closed)


def endless(context: Any) -> Iterator[int]:
    for number in range(100_000):
        if not context.is_active():
            return
        yield number
        time.sleep(0.005)


def test_responses_arrive_in_order_without_the_empty_final_one(server: Server, connect: Any) -> None:
    server.script = lambda _: iter((4, 5, 6, None))
    assert connect()().rest() == [4, 5, 6]
    assert connect()(replace(REQUEST, version="12")).rest() == [4, 5, 6]
    assert [request.model_version for request in server.requests] == ["", "12"]
    sent = server.requests[0]
    assert (sent.model_name, sent.id, sent.outputs[0].name) == ("composer", "stream-1", "x")
    assert (sent.inputs[0].name, sent.inputs[0].datatype, list(sent.inputs[0].shape)) == ("noise", "FP32", [1, 3, 2])
    np.testing.assert_array_equal(np.frombuffer(sent.raw_input_contents[0], np.float32), np.arange(6))
    assert server.ended.wait(TIMEOUT_S)


def test_nothing_is_sent_before_the_first_response_is_requested(server: Server, connect: Any) -> None:
    connect()().close()
    assert server.requests == []


def test_responses_are_yielded_as_they_arrive(server: Server, connect: Any) -> None:
    go_on = threading.Event()

    def script(_: Any) -> Iterator[int]:
        yield 1
        go_on.wait(TIMEOUT_S)
        yield 2

    server.script = script
    stream = connect()()
    assert stream.next() == 1
    go_on.set()
    assert stream.rest() == [2]


def test_responses_have_model_and_version(server: Server) -> None:
    server.script = lambda _: iter((1,))
    with closing(make_transport(make_endpoint(f"127.0.0.1:{server.port}"))) as transport:
        (answer,) = transport.stream(REQUEST, timeout_s=TIMEOUT_S)
    assert isinstance(answer, InferResponse)
    assert (answer.model, answer.version, answer.request_id) == ("composer", "7", "stream-1")


def test_key_and_headers_are_sent(server: Server, connect: Any) -> None:
    server.script = lambda _: iter((1,))
    connect(api_key="secret", headers={"X-Tenant": "choir"})().rest()
    assert server.metadata["authorization"] == "Bearer secret"
    assert server.metadata["triton-grpc-protocol-authorization"] == "Bearer secret"
    assert server.metadata["x-tenant"] == "choir"


def test_several_streams_share_a_channel_and_do_not_mix(server: Server) -> None:
    server.script = lambda _: iter(range(50))
    with closing(make_transport(make_endpoint(f"127.0.0.1:{server.port}"))) as transport:

        def numbers(_: int) -> list[int]:
            return [int(answer.outputs["x"].item()) for answer in transport.stream(REQUEST, timeout_s=TIMEOUT_S)]

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(numbers, range(6))) == [list(range(50))] * 6


# --- it ends early ------------------------------------------------------------------------------------------


def test_closing_a_stream_cancels_the_call(server: Server, connect: Any) -> None:
    server.script = endless
    stream = connect()()
    assert [stream.next(), stream.next()] == [0, 1]
    stream.close()
    assert server.ended.wait(1)
    assert stream.next() is None


def test_an_exception_in_the_loop_cancels_the_call(server: Server) -> None:
    server.script = endless
    with closing(make_transport(make_endpoint(f"127.0.0.1:{server.port}"))) as transport:

        def listen() -> None:
            with closing(transport.stream(REQUEST, timeout_s=TIMEOUT_S)) as answers:
                for _ in answers:
                    raise KeyError("the caller's own")

        with pytest.raises(KeyError):
            listen()
        assert server.ended.wait(1)


def test_dropping_a_stream_cancels_the_call(server: Server) -> None:
    server.script = endless
    with closing(make_transport(make_endpoint(f"127.0.0.1:{server.port}"))) as transport:
        kept = [transport.stream(REQUEST, timeout_s=TIMEOUT_S)]
        next(kept[0])
        kept.clear()
        gc.collect()
        assert server.ended.wait(1)


async def test_cancelling_a_task_cancels_the_call(server: Server) -> None:
    server.script = endless
    transport = make_async_transport(make_endpoint(f"127.0.0.1:{server.port}"))
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in transport.stream(REQUEST, timeout_s=TIMEOUT_S):
            heard.set()

    task = asyncio.create_task(listen())
    try:
        await asyncio.wait_for(heard.wait(), TIMEOUT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.ended.wait, 1)
    finally:
        await transport.close()


def test_closing_the_transport_ends_its_streams(server: Server, connect: Any) -> None:
    server.script = endless
    begin = connect()
    stream = begin()
    stream.next()
    begin.close_transport()
    with pytest.raises(ConnectionFailedError) as ended:
        stream.rest()
    assert (ended.value.status, ended.value.reason) == ("CANCELLED", "lost")
    with pytest.raises(ClientError) as closed:
        begin().next()
    assert (type(closed.value), closed.value.reason) == (ClientError, "closed")


# --- it fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Request for unknown model: 'composer' is not found", ModelNotFoundError),
        ("Request for unknown model: 'composer' version 2 is not found", VersionChangedError),
        ("too many requests: 64 pieces are being streamed already", ServerBusyError),
        ("the model is being unloaded, or the server is stopping; ask again", ServerBusyError),
        ("[request id: 1] unexpected shape for input 'x'", RequestRejectedError),
        ("input temperature is nan; expected a finite number above 0", RequestRejectedError),
        ("the composer failed (KeyError); see the server's log", ServerError),
    ],
)
def test_errors_in_a_stream_have_the_fitting_type(
    server: Server, connect: Any, said: str, kind: type[ServerError]
) -> None:
    server.script = lambda _: iter((1, said))
    stream = connect()()
    assert stream.next() == 1
    with pytest.raises(ServerError) as caught:
        stream.next()
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert (caught.value.model, caught.value.request_id) == ("composer", "stream-1")
    assert server.ended.wait(1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, RequestRejectedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerBusyError),
        (grpc.StatusCode.UNAVAILABLE, ConnectionFailedError),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_a_stream_that_ends_with_a_status(
    server: Server, connect: Any, status: grpc.StatusCode, kind: type[ClientError]
) -> None:
    def script(context: Any) -> Iterator[int]:
        yield 1
        context.abort(status, "enough")

    server.script = script
    stream = connect()()
    assert stream.next() == 1
    with pytest.raises(kind) as caught:
        stream.next()
    assert caught.value.status == status.name
    assert "enough" in str(caught.value)  # the server's message


def test_a_stream_response_without_an_output(server: Server, connect: Any) -> None:
    server.script = lambda _: iter((1,))
    wanted = StreamRequest("composer", "stream-1", dict(REQUEST.inputs), ("x", "y"))
    with pytest.raises(ServerError) as caught:
        connect()(wanted).next()
    assert (caught.value.reason, caught.value.output) == ("missing_output", "y")
    assert (caught.value.model, caught.value.request_id) == ("composer", "stream-1")


def test_the_time_limit_applies_to_each_response(server: Server, connect: Any) -> None:
    hold = threading.Event()

    def script(_: Any) -> Iterator[int]:
        for number in range(6):
            time.sleep(0.1)
            yield number
        hold.wait(TIMEOUT_S)

    server.script = script
    stream = connect()(timeout_s=0.4)
    assert [stream.next() for _ in range(6)] == list(range(6))
    begun_s = time.monotonic()
    with pytest.raises(RequestTimeoutError) as caught:
        stream.next()
    assert (caught.value.model, caught.value.timeout_s) == ("composer", 0.4)
    assert 0.3 < time.monotonic() - begun_s < 5
    assert server.ended.wait(1)
    hold.set()


def test_a_server_that_stops_during_a_stream(server: Server, connect: Any) -> None:
    server.script = endless
    stream = connect()()
    stream.next()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    with pytest.raises(ConnectionFailedError) as caught:
        stream.rest()
    assert caught.value.reason == "lost"
    stopping.join()


def test_an_unreachable_server(connect: Any) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        connect(port=1)().next()
    assert (caught.value.reason, caught.value.n_lost) == ("unreachable", 0)
    assert str(caught.value.endpoint).endswith(":1")


def test_an_array_that_cannot_be_sent(server: Server, connect: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()(StreamRequest("composer", "stream-1", {"x": np.zeros(1, complex)}, ("x",))).next()
    assert caught.value.argument == "inputs"
    assert server.requests == []


@pytest.mark.parametrize("make", [make_transport, make_async_transport])
def test_streams_over_http_are_refused(make: Any) -> None:
    transport = make(make_endpoint("http://localhost:8000"))
    with pytest.raises(InvalidInputError) as caught:
        transport.stream(REQUEST, timeout_s=TIMEOUT_S)
    assert (caught.value.model, caught.value.argument) == ("composer", "url")
