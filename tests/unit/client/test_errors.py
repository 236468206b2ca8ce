"""Tests that every error of gRPC, tritonclient and sockets is translated to an exception of Tritone with its fields."""

from __future__ import annotations

import asyncio
import copy
import http.client
import pickle
import socket
import ssl
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import tritone
from tritone import (
    AccessDeniedError,
    ClientError,
    ConnectionFailedError,
    InferRequest,
    InvalidAudioError,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    NothingKnownError,
    ReadyRequest,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    TritoneError,
)
from tritone.endpoints import make_endpoint
from tritone.exceptions import VersionChangedError
from tritone.processes import PerProcess
from tritone.transports import make_async_transport, make_transport
from tritone.transports.grpc_wire import Connection

INFER = InferRequest("genre_cnn", "id-7", {"audio": np.zeros((1, 4), np.float32)}, ("embedding",))
REQUESTS = [INFER, ModelRequest("genre_cnn"), ReadyRequest(), ReadyRequest("genre_cnn")]


class RpcError(grpc.RpcError):  # type: ignore[misc]
    """As a call raises it."""

    def __init__(self, status: str, message: str | None) -> None:
        super().__init__(status, message)
        self._status, self._message = status, message

    def code(self) -> Any:
        return SimpleNamespace(name=self._status)  # as of grpc.StatusCode, which has no codes of the future

    def details(self) -> str | None:
        return self._message


GRPC = [
    (RpcError("NOT_FOUND", "Request for unknown model: 'x' is not found"), ModelNotFoundError),
    (RpcError("NOT_FOUND", "Request for unknown model: 'x' version 2 is not found"), VersionChangedError),
    (RpcError("UNAVAILABLE", "Request for unknown model: 'x' version 2 is not at ready state"), VersionChangedError),
    (RpcError("UNAVAILABLE", "Request for unknown model: 'x' has no available versions"), ModelNotFoundError),
    (RpcError("INVALID_ARGUMENT", "unexpected shape"), RequestRejectedError),
    (RpcError("INVALID_ARGUMENT", "none of the ids is known ('unknown model'), and nothing else"), NothingKnownError),
    (RpcError("INVALID_ARGUMENT", "[request id: a-1] item 'x\ny' is not known"), NothingKnownError),
    (RpcError("INTERNAL", "nothing is known by sound about what is asked for"), NothingKnownError),
    (RpcError("INVALID_ARGUMENT", "mood is 'item x is not known'"), RequestRejectedError),
    (RpcError("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)"), RequestRejectedError),
    (RpcError("RESOURCE_EXHAUSTED", "quota"), ServerBusyError),
    (RpcError("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size"), ServerBusyError),
    (RpcError("UNAVAILABLE", "Request timeout expired"), ServerBusyError),
    (
        RpcError("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-x'"),
        AccessDeniedError,
    ),
    (RpcError("UNAUTHENTICATED", "who?"), AccessDeniedError),
    (RpcError("PERMISSION_DENIED", "no"), AccessDeniedError),
    (RpcError("UNAVAILABLE", "failed to connect to all addresses"), ConnectionFailedError),
    (RpcError("UNAVAILABLE", "Socket closed"), ConnectionFailedError),
    (RpcError("UNAVAILABLE", ""), ConnectionFailedError),
    (RpcError("UNAVAILABLE", None), ConnectionFailedError),
    (RpcError("CANCELLED", "Locally cancelled by application!"), ConnectionFailedError),
    (RpcError("DEADLINE_EXCEEDED", "Deadline Exceeded"), RequestTimeoutError),
    (RpcError("INTERNAL", "Stub process 'x' is not healthy."), ServerBusyError),
    (RpcError("INTERNAL", "Failed to increase the shared memory pool size for key 'x' to 9 bytes."), ServerBusyError),
    (RpcError("UNIMPLEMENTED", "unknown service"), ServerError),
    (RpcError("UNKNOWN", "?"), ServerError),
    (RpcError("A_CODE_OF_THE_FUTURE", "?"), ServerError),
    (ValueError("Cannot invoke RPC on closed channel!"), ClientError),
    (RuntimeError("?"), ClientError),
    (TypeError("?"), ClientError),
    (RequestTimeoutError("ours"), RequestTimeoutError),
]
HTTP = [
    (ConnectionRefusedError(111, "Connection refused"), ConnectionFailedError),
    (ConnectionResetError(104, "reset"), ConnectionFailedError),
    (BrokenPipeError(32, "pipe"), ConnectionFailedError),
    (socket.gaierror(-2, "Name or service not known"), ConnectionFailedError),
    (OSError(101, "Network is unreachable"), ConnectionFailedError),
    (OSError("no number"), ConnectionFailedError),
    (EOFError(), ConnectionFailedError),
    (ssl.SSLCertVerificationError("certificate verify failed"), ConnectionFailedError),
    (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), ConnectionFailedError),
    (TimeoutError("timed out"), RequestTimeoutError),
    (TimeoutError(), RequestTimeoutError),
    (http.client.BadStatusLine("\0\0"), ConnectionFailedError),
    (http.client.IncompleteRead(b"x", 5), ConnectionFailedError),
    (http.client.RemoteDisconnected("gone"), ConnectionFailedError),
    (http.client.LineTooLong("header"), ConnectionFailedError),
    (UnicodeError("label too long"), ClientError),
    (ValueError("?"), ClientError),
    (RuntimeError("Session is closed"), ClientError),
    (ServerBusyError("ours"), ServerBusyError),
]


def check(caught: ClientError, kind: type, failure: Exception, request: Any) -> None:
    assert type(caught) is kind
    assert str(caught)
    if isinstance(failure, ClientError):
        return
    assert caught.__cause__ is failure
    assert caught.model == request.model
    assert caught.request_id == getattr(request, "request_id", None)
    if isinstance(failure, RpcError) and kind is not RequestTimeoutError:
        assert caught.status == failure.code().name


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize(("failure", "kind"), GRPC, ids=str)
def test_grpc(failure: Exception, kind: type, request_: Any, monkeypatch: Any) -> None:
    transport: Any = make_transport(make_endpoint("localhost:1"))

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise copy.copy(failure) if isinstance(failure, ClientError) else failure

    stub = SimpleNamespace(**dict.fromkeys(("ModelMetadata", "ModelConfig", "ServerReady", "ModelReady"), fail))
    connection = Connection(transport._connection.get().channel, stub, fail)
    monkeypatch.setattr(transport, "_connection", PerProcess(lambda: connection))
    with pytest.raises(ClientError) as caught:
        transport.handle(request_, timeout_s=1)
    check(caught.value, kind, failure, request_)
    transport.close()

    async def main() -> ClientError:
        transport: Any = make_async_transport(make_endpoint("localhost:1"))
        opened = Connection(transport._connection().channel, stub, fail)
        monkeypatch.setattr(transport, "_opened", replace(transport._opened, connection=opened))
        with pytest.raises(ClientError) as caught:
            await transport.handle(request_, timeout_s=1)
        await transport.close()
        return caught.value

    check(asyncio.run(main()), kind, failure, request_)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize(("failure", "kind"), HTTP, ids=repr)
def test_http(failure: Exception, kind: type, request_: Any, monkeypatch: Any) -> None:
    from tritone.transports import http_async, http_sync

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise failure

    async def fail_later(*args: Any, **kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(http_sync.HttpTransport, "_exchange", fail)
    monkeypatch.setattr(http_async.AsyncHttpTransport, "_exchange", fail_later)
    endpoint = make_endpoint("http://localhost:1")
    with pytest.raises(ClientError) as caught:
        make_transport(endpoint).handle(request_, timeout_s=1)
    check(caught.value, kind, failure, request_)
    with pytest.raises(ClientError) as caught:
        asyncio.run(make_async_transport(endpoint).handle(request_, timeout_s=1))
    check(caught.value, kind, failure, request_)


@pytest.mark.parametrize("url", ["localhost:1", "http://localhost:1"])
def test_an_array_that_cannot_be_sent(url: str) -> None:
    request = InferRequest("m", "x", {"audio": np.array(["a"])}, ("y",))
    transport = make_transport(make_endpoint(url))
    with pytest.raises(InvalidInputError) as caught:
        transport.handle(request, timeout_s=1)
    assert caught.value.argument == "inputs"
    transport.close()


def test_every_error_is_a_tritone_error() -> None:
    kinds = [getattr(tritone, name) for name in tritone.__all__ if name.endswith("Error")]
    assert len(kinds) == 19
    assert all(issubclass(kind, TritoneError) for kind in kinds)
    assert issubclass(RequestTimeoutError, TimeoutError)
    assert issubclass(ConnectionFailedError, ConnectionError)
    assert issubclass(InvalidInputError, ValueError)


def test_errors_survive_pickling_and_copying() -> None:
    audio = InvalidAudioError("a.wav: is silent", path="a.wav", reason="silent")
    busy = ServerBusyError("full", model="m", status="503", request_id="x")
    for again in (pickle.loads(pickle.dumps(audio)), copy.copy(audio)):  # noqa: S301 - from worker processes
        assert (str(again), again.path, again.reason, again.model) == ("a.wav: is silent", "a.wav", "silent", None)
    for same in (pickle.loads(pickle.dumps(busy)), copy.copy(busy)):  # noqa: S301
        assert (type(same), str(same), same.model, same.status) == (ServerBusyError, "full", "m", "503")


def test_a_message_of_any_length_is_shortened_in_its_middle() -> None:
    text = str(InvalidInputError(f"invalid bars: got {'x' * 100_000}; give a number"))
    assert len(text) < 5_000
    assert text.startswith("invalid bars")
    assert text.endswith("; give a number")
