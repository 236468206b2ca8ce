"""What the client asks and what a transport answers, free of any protocol.

A transport turns one `Request` into one `Response` or raises a `ClientError`; it neither retries nor
remembers. Anything with a fitting `handle` will do, so unit tests need no server:

```python
class Recorded:
    def handle(self, request: Request, *, timeout_s: float) -> Response: ...
    def close(self) -> None: ...

client = MusicClient(transport=Recorded())
```
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError, ServerError

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class ReadyRequest:
    """Can the server, or this model of it, answer?"""

    model: str | None = None
    idempotent: bool = True


@dataclass(frozen=True)
class ReadyResponse:
    """Answers a `ReadyRequest`."""

    ready: bool


@dataclass(frozen=True)
class ModelRequest:
    """What does this model take and answer?"""

    model: str
    idempotent: bool = True


@dataclass(frozen=True)
class ModelResponse:
    """Answers a `ModelRequest`.

    Attributes:
        versions: those that are ready, as the server lists them.
        inputs: shape by tensor name, the batch axis included, -1 where it varies.
        outputs: as `inputs`.
        max_batch_size: 0 if the model does not batch.
        parameters: of its configuration, all as text.
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
        outputs: names of the outputs that are wanted.
        n_classes: above 0, ask for the outputs' classes instead of their numbers (Triton's classification
            extension, the only way to a label file): each output is then an array of
            `value:index:label` strings of shape (n_batch, at most n_classes).
        version: the only one that may answer; the server's latest if None.
        n_lost: how often its connection was already lost after sending; see `ClientError.n_lost`.
        priority: in the queue of a model with priorities, see `constants.PRIORITIES`; 0 for the model's default.
        headers: sent in addition to those of the endpoint, names in lower case; not shown in `repr`, since they hold
            secrets.
    """

    model: str
    request_id: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    n_classes: int = 0
    idempotent: bool = True
    version: str | None = None
    n_lost: int = 0
    priority: int = 0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class InferResponse:
    """Answers an `InferRequest`.

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
    """Run a model that gives many answers to one request (a decoupled one).

    Attributes:
        inputs: as of `InferRequest`.
        outputs: as of `InferRequest`; each answer has all of them.
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
    """Carries requests to a server and may be used by many threads at once."""

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Answer one request many times, the next within `timeout_s` seconds; closing stops the server's work.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Answer one request within `timeout_s` seconds.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    def close(self) -> None:
        """Let go of all connections; may be called more than once."""


class AsyncTransport(Protocol):
    """Carries requests to a server from one event loop."""

    def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """Answer one request many times, the next within `timeout_s` seconds; closing stops the server's work.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Answer one request within `timeout_s` seconds.

        Raises:
            ClientError: of the fitting kind; nothing else.
        """

    async def close(self) -> None:
        """Let go of all connections; may be called more than once."""


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
    """KServe's name for an array's type.

    Raises:
        InvalidInputError: if the protocol has none.
    """
    try:
        return _NAMES[array.dtype]
    except KeyError:
        raise InvalidInputError(
            f"an array of type {array.dtype} cannot be sent; expected one of {', '.join(DTYPES)}"
        ) from None


def latest_version(versions: Sequence[str]) -> str | None:
    """The version that Triton asks by default: the highest number; None if there is none."""
    numbers = [int(version) for version in versions if version.isdecimal()]
    return str(max(numbers)) if numbers else None


def model_of(request: Request) -> str | None:
    """The model that a request is about."""
    return request.model


def id_of(request: Request) -> str | None:
    """The id that a request carries."""
    return request.request_id if isinstance(request, InferRequest | StreamRequest) else None


def lost_before(request: Request) -> int:
    """Return how often a request's connection was lost after sending in earlier attempts."""
    return request.n_lost if isinstance(request, InferRequest | StreamRequest) else 0


def after_losses(request: RequestT, n_lost: int) -> RequestT:
    """Return the request for the next attempt; requests without tensors do not count losses."""
    if n_lost and isinstance(request, InferRequest | StreamRequest):
        return replace(request, n_lost=n_lost)
    return request


class MissingOutputError(ServerError):
    """The answer lacks an output that was asked for."""


def missing_output(request: Request, name: str) -> MissingOutputError:
    """The error for an answer without one of the outputs that were asked for."""
    return MissingOutputError(
        f"model {model_of(request)!r} answered without {name!r}, which was asked for",
        model=model_of(request),
        request_id=id_of(request),
    )


def nonsense(request: Request, what: str) -> ServerError:
    """The error for an answer that is none."""
    return ServerError(
        f"the server's answer makes no sense: {what}; is it a Triton (KServe v2) server?",
        model=model_of(request),
        request_id=id_of(request),
    )
