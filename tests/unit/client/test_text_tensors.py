"""Tests of text tensors over both protocols and real sockets: each server echoes the tensors that it received."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from tritone import InferRequest, InferResponse, ServerError
from tritone.endpoints import make_endpoint
from tritone.transports import make_async_transport, make_transport
from tritone.transports.protocol import (
    read_texts,
    tensor_bytes,
)

TEXTS = ["", "42", "Björk", "夜に駆ける", "\0", "a" * 70_000, "🎵"]


def text(values: list[Any], shape: tuple[int, ...] = (1, -1)) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


ENCODED = text([value.encode() for value in TEXTS])
REQUEST = InferRequest(
    "recommender",
    "id-7",
    {"k": np.array([[5]], np.int32), "history": ENCODED, "explain": np.array([[True]])},
    ("history", "k", "explain"),
)


def test_bytes_are_as_tritons_own_client_writes_them() -> None:
    assert bytes(tensor_bytes(ENCODED)) == serialize_byte_tensor(ENCODED).item()
    assert read_texts(tensor_bytes(ENCODED)).tolist() == TEXTS
    assert bytes(tensor_bytes(text([]))) == b""
    assert read_texts(memoryview(b"")).shape == (0,)
    turned = text([b"a", b"b", b"c", b"d"], (2, 2)).T
    assert read_texts(tensor_bytes(turned)).tolist() == ["a", "c", "b", "d"]
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert bytes(tensor_bytes(numbers.T)) == numbers.T.tobytes()
    assert bytes(tensor_bytes(numbers[:0])) == b""


@pytest.mark.parametrize("data", [b"\1", b"\2\0\0\0a", b"\1\0\0\0a\1\0", b"\xff\xff\xff\xffa", b"\1\0\0\0\xff"])
def test_invalid_text_bytes(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|utf-8"):
        read_texts(memoryview(data))


# --- over sockets -------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    spoil: Callable[[bytes], bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        n_head = int(self.headers["inference-header-content-length"])
        head = json.loads(body[:n_head])
        raw, offset = {}, n_head
        for tensor in head["inputs"]:
            n_bytes = tensor["parameters"]["binary_data_size"]
            raw[tensor["name"]] = (tensor, body[offset : offset + n_bytes])
            offset += n_bytes
        assert offset == len(body)
        echoed = [raw[output["name"]] for output in head["outputs"]]
        data = b"".join(part for _, part in echoed)
        answer = {"id": head["id"], "model_name": "recommender", "model_version": "1"}
        text = json.dumps({**answer, "outputs": [tensor for tensor, _ in echoed]}).encode()
        data = type(self).spoil(data)
        self.send_response(200)
        self.send_header("inference-header-content-length", str(len(text)))
        self.send_header("content-length", str(len(text) + len(data)))
        self.end_headers()
        self.wfile.write(text + data)

    def log_message(self, *args: Any) -> None: ...


def same(data: bytes) -> bytes:
    return data


@pytest.fixture
def http_server() -> Iterator[Any]:
    handler = type("EchoHandler", (Handler,), {"spoil": staticmethod(same)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", lambda spoil: setattr(handler, "spoil", staticmethod(spoil))
    server.shutdown()
    server.server_close()


@pytest.fixture
def grpc_server() -> Iterator[Any]:
    spoils: list[Callable[[bytes], bytes]] = [same]

    def infer(request: Any, context: Any) -> Any:
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        raw = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
        tensors = {tensor.name: tensor for tensor in request.inputs}
        for output in request.outputs:
            tensor = tensors[output.name]
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.append(spoils[0](raw[tensor.name]))
        return answer

    servicer = service_pb2_grpc.GRPCInferenceServiceServicer()
    servicer.ModelInfer = infer  # type: ignore[method-assign]
    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", lambda spoil: spoils.__setitem__(0, spoil)
    server.stop(None).wait()
    pool.shutdown()


@pytest.fixture(params=["http", "grpc"])
def server(request: pytest.FixtureRequest) -> Any:
    """(url, function that changes the answers' bytes)."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[[str], InferResponse]:
    def run(url: str) -> Any:
        if request.param == "sync":
            transport = make_transport(make_endpoint(url))
            try:
                return transport.handle(REQUEST, timeout_s=10)
            finally:
                transport.close()

        async def main() -> Any:
            transport = make_async_transport(make_endpoint(url))
            try:
                return await transport.handle(REQUEST, timeout_s=10)
            finally:
                await transport.close()

        return asyncio.run(main())

    return run


def test_texts_survive_a_round_trip(server: Any, ask: Any) -> None:
    url, _ = server
    response = ask(url)
    assert response.outputs["history"].tolist() == [TEXTS]
    assert response.outputs["history"].dtype == object
    assert response.outputs["k"].tolist() == [[5]]
    assert response.outputs["explain"].tolist() == [[True]]
    assert response.request_id == "id-7"


def test_a_response_that_is_not_utf8(server: Any, ask: Any) -> None:
    url, spoil = server
    spoil(lambda data: data.replace("Björk".encode(), b"Bj\xff\xffrk"))
    with pytest.raises(ServerError) as caught:
        ask(url)
    assert (caught.value.model, caught.value.request_id) == ("recommender", "id-7")
    assert caught.value.reason == "malformed"
