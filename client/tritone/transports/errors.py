"""What the server said, as our errors: the part that does not depend on the protocol."""

from __future__ import annotations

import re
from typing import Final

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
from tritone.messages import Request, StreamRequest, id_of, model_of

# Triton says some things with a status that also means something else, so its words decide first.
_BY_WORDS: Final = (
    # First, and from the beginning: such a message goes on with ids, which may hold any words.
    (
        re.compile(
            r"^(\[request id: [^]]*\] )?(none of the ids is known|item .* is not known|nothing is known by)", re.S
        ),
        NothingKnownError,
    ),
    # The model is there: whoever asked for this version must look which there are.
    (re.compile(r"unknown model: .* version \d+ is not (found|at ready state)", re.I), VersionChangedError),
    (
        re.compile(r"unknown model|no available versions|is not ready|model .* not found", re.I),
        ModelNotFoundError,
    ),
    (re.compile(r"is restricted, expecting header", re.I), AccessDeniedError),
    (
        # A dead stub is started again, a /dev/shm that is full empties, and other servers have theirs.
        re.compile(
            r"maximum queue size|request timeout expired|is stopping|too many requests|stub process.* healthy"
            r"|failed to increase the shared memory pool",
            re.I,
        ),
        ServerBusyError,
    ),
)
_REMEDIES: Final[dict[type[ServerError], str]] = {
    ModelNotFoundError: "check the name, and that the model was exported (`tritone export`) and loaded",
    VersionChangedError: "versions kept changing during the call; call again when the roll-out is over",
    AccessDeniedError: "pass the server's key as api_key= or its header in headers=",
    ServerBusyError: "try again later, allow more retries=, or give the server more instances",
    RequestRejectedError: "client and model do not agree; was the model exported with another version?",
}


def kind_by_words(message: str) -> type[ServerError] | None:
    """The error that the server's words name, if they name one."""
    return next((kind for pattern, kind in _BY_WORDS if pattern.search(message)), None)


def refusal(
    kind: type[ServerError], message: str, request: Request, *, status: str | None, n_lost: int = 0
) -> ServerError:
    """The server's refusal as our error, with the remedy where there is one."""
    remedy = _REMEDIES.get(kind)
    said = message.strip() or "nothing"
    request_id = id_of(request)
    about = f" to request {request_id}" if request_id and request_id not in said else ""
    text = f"the server answered{about}: {said}"
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
    status: str | None = None,
    was_sent: bool = False,
) -> ConnectionFailedError:
    """Return the error for a server that cannot be reached, or that ended, possibly after receiving the request."""
    return ConnectionFailedError(
        f"no connection to {endpoint.url}: {why}; {hint or 'is `tritone serve` running there?'}",
        model=model_of(request),
        status=status,
        request_id=id_of(request),
        n_lost=int(was_sent),
    )


def no_streaming(endpoint: Endpoint, request: StreamRequest) -> InvalidInputError:
    """The error for a stream over HTTP, where Triton has none."""
    return InvalidInputError(
        f"{endpoint.url} is HTTP, and model {request.model!r} streams its answers, which takes gRPC: give the client "
        f"the server's gRPC address (grpc://{endpoint.host}:8001 unless it was told otherwise), or ask a model that "
        f"answers once",
        model=request.model,
        request_id=request.request_id,
    )
