"""Requests and responses, independent of the protocol, and the interface of transports.

A transport turns one `Request` into one `Response` or raises a `ClientError`; it neither retries nor keeps state about
models. Any object with these methods will do; `tritone.testing.MockTransport` is one for tests.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError, ServerError

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class ReadyRequest:
    """Ask whether the server, or one of its models, is ready."""

    model: str | None = None
    idempotent: bool = True


@dataclass(frozen=True)
class ReadyResponse:
    """The response to a `ReadyRequest`."""

    ready: bool


@dataclass(frozen=True)
class ModelRequest:
    """Ask for the metadata and the configuration of a model."""

    model: str
    idempotent: bool = True


@dataclass(frozen=True)
class ModelResponse:
    """The response to a `ModelRequest`.

    Attributes:
        versions: the versions that are ready, in the order of the server.
        inputs: shape by tensor name, the batch axis included, -1 where it varies.
        outputs: as `inputs`.
        max_batch_size: 0 if the model does not batch.
        parameters: `parameters` of its config.pbtxt, as text.
    """

    model: str
    versions: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    max_batch_size: int
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InferRequest:
    """Run a model.

    Attributes:
        inputs: C-contiguous arrays by tensor name; text is `bytes` in an array of type object.
        outputs: names of the requested outputs.
        version: of the model; the latest one of the server if None.
        n_lost: how often its connection was already lost after sending; see `ClientError.n_lost`.
        priority: in the queue of a model with priorities, see `constants.PRIORITIES`; 0 for the model's default.
        headers: sent in addition to those of the endpoint, names in lower case; not shown in `repr`, since they hold
            secrets.
    """

    model: str
    request_id: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    idempotent: bool = True
    version: str | None = None
    n_lost: int = 0
    priority: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class InferResponse:
    """The response to an `InferRequest`.

    Attributes:
        version: of the model that ran.
        outputs: arrays by tensor name; text is `str` in an array of type object.
    """

    model: str
    version: str
    request_id: str
    outputs: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StreamRequest:
    """Run a model that sends many responses to one request (a decoupled model).

    Attributes:
        inputs: as of `InferRequest`.
        outputs: as of `InferRequest`; each response has all of them.
        version: as of `InferRequest`.
        n_lost: as of `InferRequest`.
    """

    model: str
    request_id: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    idempotent: bool = True
    version: str | None = None
    n_lost: int = 0


Request: TypeAlias = ReadyRequest | ModelRequest | InferRequest | StreamRequest
RequestT = TypeVar("RequestT", bound=Request)
Response: TypeAlias = ReadyResponse | ModelResponse | InferResponse


class Transport(Protocol):
    """Sends requests to a server; may be used by many threads at once."""

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Yield the responses to one request, each within `timeout_s` seconds; closing stops the work of the server.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Return the response to one request within `timeout_s` seconds.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    def close(self) -> None:
        """Close all connections; may be called more than once."""


class AsyncTransport(Protocol):
    """Sends requests to a server from one event loop."""

    def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses to one request, each within `timeout_s` seconds; closing stops the work of the server.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Return the response to one request within `timeout_s` seconds.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    async def close(self) -> None:
        """Close all connections; may be called more than once."""


DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def dtype_name(array: Array) -> str:
    """Return KServe's name for the type of an array.

    Raises:
        InvalidInputError: the protocol has no such type.
    """
    try:
        return _NAMES[array.dtype]
    except KeyError:
        raise InvalidInputError(
            f"an array cannot be sent: expected one of the types {', '.join(DTYPES)}, got {array.dtype}",
            argument="inputs",
        ) from None


def latest_version(versions: Sequence[str]) -> str | None:
    """Return the version that Triton uses by default, the highest number; None without versions."""
    numbers = [int(version) for version in versions if re.fullmatch(r"[0-9]{1,19}", str(version))]
    return str(max(numbers)) if numbers else None


def model_of(request: Request) -> str | None:
    """Return the name of the model of a request."""
    return request.model


def id_of(request: Request) -> str | None:
    """Return the id of a request, if it has one."""
    return request.request_id if isinstance(request, InferRequest | StreamRequest) else None


def lost_before(request: Request) -> int:
    """Return how often a request's connection was lost after sending in earlier attempts."""
    return request.n_lost if isinstance(request, InferRequest | StreamRequest) else 0


def after_losses(request: RequestT, n_lost: int) -> RequestT:
    """Return the request for the next attempt; requests without tensors do not count losses."""
    if n_lost and isinstance(request, InferRequest | StreamRequest):
        return replace(request, n_lost=n_lost)
    return request


def missing_output(request: Request, name: str) -> ServerError:
    """Return the error for a response without a requested output."""
    return ServerError(
        f"the response of model {model_of(request)!r} lacks the requested output {name!r}",
        model=model_of(request),
        request_id=id_of(request),
        reason="missing_output",
        output=name,
    )


def malformed(request: Request, what: str) -> ServerError:
    """Return the error for a malformed response."""
    return ServerError(
        f"malformed response: {what}; check that the address belongs to a Triton (KServe v2) server",
        model=model_of(request),
        request_id=id_of(request),
        reason="malformed",
    )
