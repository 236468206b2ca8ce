"""What gRPC and HTTP share of the KServe v2 protocol: types and bytes of tensors, and the meaning of error messages."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

import numpy as np

from tritone.endpoints import Endpoint
from tritone.exceptions import (
    AccessDeniedError,
    ConnectionFailedError,
    InvalidInputError,
    ModelNotFoundError,
    NothingKnownError,
    RequestRejectedError,
    ServerBusyError,
    ServerError,
    VersionChangedError,
)
from tritone.messages import Array, Request, StreamRequest, id_of, model_of

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
_LENGTH: Final = struct.Struct("<I")
# Triton uses some statuses for several kinds of errors, so the message text takes precedence over the status.
_BY_WORDS: Final = (
    # Matched first and from the start of the message, because the ids that follow may contain any words.
    (
        re.compile(
            r"^(\[request id: [^]]*\] )?(none of the ids is known|item .* is not known|nothing is known by)", re.S
        ),
        NothingKnownError,
    ),
    # The model exists without this version: the client must look up the versions again.
    (re.compile(r"unknown model: .* version \d+ is not (found|at ready state)", re.I), VersionChangedError),
    (
        re.compile(r"unknown model|no available versions|is not ready|model .* not found", re.I),
        ModelNotFoundError,
    ),
    (re.compile(r"is restricted, expecting header", re.I), AccessDeniedError),
    (
        # Temporary: Triton restarts a dead stub, a full /dev/shm empties, and other servers may not be affected.
        re.compile(
            r"maximum queue size|request timeout expired|is stopping|too many requests|stub process.* healthy"
            r"|failed to increase the shared memory pool",
            re.I,
        ),
        ServerBusyError,
    ),
)
_REMEDIES: Final[dict[type[ServerError], str]] = {
    ModelNotFoundError: "check the name, and that the model is exported (`tritone export`) and loaded",
    VersionChangedError: "the versions kept changing during the call; try again when the roll-out has finished",
    AccessDeniedError: "pass the server's key as api_key= or its header in headers=",
    ServerBusyError: "try again later, pass a larger retries=, or configure more model instances",
    RequestRejectedError: "the request does not fit the model; check that both are of the same tritone version",
}


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


def tensor_bytes(array: Array) -> memoryview:
    """Return the encoded values of a tensor; a view, without a copy, if the array holds contiguous numbers.

    Args:
        array: numbers, or `bytes` objects (dtype object).
    """
    if array.dtype == np.object_:
        return memoryview(b"".join(part for value in array.flat for part in (_LENGTH.pack(len(value)), value)))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_texts(data: memoryview) -> Array:
    """Return the texts of an encoded BYTES tensor, as an array of `str` (dtype object).

    Raises:
        ValueError: the data is cut off or is not UTF-8.
    """
    texts = []
    position = 0
    while position < len(data):
        if position + _LENGTH.size > len(data):
            raise ValueError("the length of a text is cut off")
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > len(data):
            raise ValueError("a text is cut off")
        texts.append(str(data[start:position], "utf-8"))
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array


def kind_by_words(message: str) -> type[ServerError] | None:
    """Return the exception type that the text of an error message implies; None if it implies none."""
    return next((kind for pattern, kind in _BY_WORDS if pattern.search(message)), None)


def refusal(
    kind: type[ServerError], message: str, request: Request, *, status: str | None, n_lost: int = 0
) -> ServerError:
    """Return the exception for an error response, with advice where there is some."""
    remedy = _REMEDIES.get(kind)
    detail = message.strip() or "no message"
    request_id = id_of(request)
    about = f" to request {request_id}" if request_id and request_id not in detail else ""
    text = f"the server answered{about}: {detail}"
    return kind(
        f"{text}; {remedy}" if remedy else text,
        model=model_of(request),
        status=status,
        request_id=request_id,
        n_lost=n_lost,
    )


def unreachable(
    endpoint: Endpoint,
    why: str,
    request: Request,
    *,
    hint: str | None = None,
    reason: str | None = None,
    status: str | None = None,
    was_sent: bool = False,
) -> ConnectionFailedError:
    """Return the error for a server that cannot be reached, or that ended, possibly after receiving the request."""
    return ConnectionFailedError(
        f"no connection to {endpoint.url}: {why}; {hint or 'is `tritone serve` running there?'}",
        model=model_of(request),
        status=status,
        request_id=id_of(request),
        reason=reason or ("lost" if was_sent else "unreachable"),
        endpoint=endpoint.url,
        n_lost=int(was_sent),
    )


def no_streaming(endpoint: Endpoint, request: StreamRequest) -> InvalidInputError:
    """Return the error for a stream over HTTP, which Triton supports only over gRPC."""
    return InvalidInputError(
        f"model {request.model!r} streams its responses: expected a gRPC address, got {endpoint.url}; connect to the "
        f"server's gRPC port (grpc://{endpoint.host}:8001 by default), or use a model that does not stream",
        argument="url",
        model=request.model,
        request_id=request.request_id,
    )


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
