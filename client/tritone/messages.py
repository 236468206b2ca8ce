"""Requests and responses, independent of the protocol; the interface of transports, and flows.

A transport turns one `Request` into one `Response` or raises a `ClientError`; it neither retries nor keeps state about
models. Any object with these methods will do; `tritone.testing.MockTransport` is one for tests.

A flow is the sequence of requests of one operation, written as a generator that does no input or output: it yields
requests, receives their responses (or has their errors thrown into it) and returns the result of the operation.
`MusicClient` and `AsyncMusicClient` run the same flows and differ only in how they send the requests.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy.typing as npt

from tritone.exceptions import ClientError
from tritone.processes import PerProcess

Array: TypeAlias = npt.NDArray[Any]
T = TypeVar("T")


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
        input_types: KServe's name of the type, such as FP32, by input name; empty if unknown.
    """

    model: str
    versions: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    max_batch_size: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    input_types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StatisticsRequest:
    """Ask what a loaded model has done; all loaded models if `model` is None."""

    model: str | None = None
    idempotent: bool = True


@dataclass(frozen=True)
class ModelStatistics:
    """What one version of a loaded model has done since it was loaded.

    Attributes:
        n_inferences: rows that it has processed.
        n_executions: batches that it has processed.
        n_failures: requests that failed.
        last_inference_s: Unix time of the last one; None if there was none.
    """

    model: str
    version: str
    n_inferences: int
    n_executions: int
    n_failures: int
    last_inference_s: float | None


@dataclass(frozen=True)
class StatisticsResponse:
    """The response to a `StatisticsRequest`."""

    models: tuple[ModelStatistics, ...]


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
        parameters: text by name, for backends that read parameters of requests.
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
    parameters: Mapping[str, str] = field(default_factory=dict)


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


Request: TypeAlias = ReadyRequest | ModelRequest | StatisticsRequest | InferRequest | StreamRequest
RequestT = TypeVar("RequestT", bound=Request)
Response: TypeAlias = ReadyResponse | ModelResponse | StatisticsResponse | InferResponse


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


@dataclass(frozen=True)
class Pause:
    """Asks the client to wait before the flow starts again with other model versions; see `tritone.retry`.

    Attributes:
        n_starts: number of starts so far, at least 1.
        error: raised if the time of the call does not allow the wait.
    """

    n_starts: int
    error: ClientError


Flow: TypeAlias = Generator[Request | Pause, Response | None, T]


def _new_ids() -> tuple[str, itertools.count[int]]:
    """Return a random prefix and a counter for the ids of one process."""
    return secrets.token_hex(4), itertools.count(1)


_ids = PerProcess(_new_ids)  # a forked child would otherwise repeat its parent's ids


def next_request_id(operation: str) -> str:
    """Return a unique request id, such as `classify-1a2b3c4d-7`."""
    prefix, counter = _ids.get()
    return f"{operation}-{prefix}-{next(counter)}"


def ready_flow(model: str | None) -> Flow[bool]:
    """Ask whether the server, or one of its models, is ready."""
    return cast(ReadyResponse, (yield ReadyRequest(model))).ready
