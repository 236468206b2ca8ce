"""What the two gRPC transports share: building, reading, channel options, and the one place where
gRPC's and tritonclient's errors become ours.
"""  # noqa: D205

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritone_client._deadline import timed_out
from tritone_client._endpoint import Endpoint
from tritone_client._exceptions import (
    AccessDeniedError,
    ClientError,
    InvalidInputError,
    ModelNotFoundError,
    RequestRejectedError,
    ServerBusyError,
    ServerError,
)
from tritone_client._messages import (
    Array,
    InferRequest,
    InferResponse,
    ModelResponse,
    Request,
    dtype_name,
    id_of,
    model_of,
    nonsense,
)
from tritone_client._transports._refusals import kind_by_words, refusal, unreachable

_BY_STATUS: Final[dict[str, type[ServerError]]] = {
    "NOT_FOUND": ModelNotFoundError,
    "INVALID_ARGUMENT": RequestRejectedError,
    "OUT_OF_RANGE": RequestRejectedError,
    "PERMISSION_DENIED": AccessDeniedError,
    "UNAUTHENTICATED": AccessDeniedError,
    "RESOURCE_EXHAUSTED": ServerBusyError,
}
# The server spoke another protocol, or none: met while connecting, never during a call.
_OTHER_PROTOCOL: Final = re.compile(
    r"connect.*(socket closed|http1|http/1|frame|settings|end of tcp stream)", re.I | re.S
)


def channel_args(endpoint: Endpoint) -> list[tuple[str, int]]:
    """Options of the channel."""
    args = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Servers count pings that come oftener than every 5 minutes as an attack and hang up. The time-out
        # also bounds how long sent data may stay unacknowledged, which finds a host that vanished.
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Retries are ours, so that one policy holds for all transports; and gRPC must try a server that
        # came back soon, not after its default of up to 2 minutes.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Channels of one process share connections, and with them each other's back-off, unless told not to.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if endpoint.host in ("localhost", "::1") or endpoint.host.startswith("127."):
        args.append(("grpc.enable_http_proxy", 0))
    return args


def client_options(endpoint: Endpoint) -> dict[str, Any]:
    """Keyword arguments for either of tritonclient's gRPC clients."""
    files = {
        "root_certificates": endpoint.ca_file,
        "private_key": endpoint.client_key_file,
        "certificate_chain": endpoint.client_cert_file,
    }
    return {
        "url": endpoint.authority,
        "ssl": endpoint.tls,
        "channel_args": channel_args(endpoint),
        **{name: None if file is None else str(file) for name, file in files.items()},
    }


def metadata_headers(endpoint: Endpoint) -> dict[str, str]:
    """The headers as gRPC metadata.

    Triton looks for the key of a restricted protocol under a prefixed name; sending the API key under both
    lets one `api_key` open a proxy's door and Triton's own.
    """
    headers = dict(endpoint.headers)
    if "authorization" in headers:
        headers["triton-grpc-protocol-authorization"] = headers["authorization"]
    return headers


def infer_arguments(request: InferRequest) -> dict[str, Any]:
    """An inference as keyword arguments of tritonclient's `infer`."""
    inputs = []
    for name, array in request.inputs.items():
        tensor = triton.InferInput(name, list(array.shape), dtype_name(array))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return {
        "model_name": request.model,
        "inputs": inputs,
        "outputs": [triton.InferRequestedOutput(name, class_count=request.n_classes) for name in request.outputs],
        "request_id": request.request_id,
    }


def read_inference(request: InferRequest, result: Any) -> InferResponse:
    """Read tritonclient's `InferResult`."""
    response = result.get_response()
    outputs: dict[str, Array] = {}
    for name in request.outputs:
        array = result.as_numpy(name)
        if array is None:
            raise nonsense(request, f"the output {name!r} is missing")
        if array.dtype == np.object_:
            array = np.array([value.decode() for value in array.ravel()], object).reshape(array.shape)
        outputs[name] = array
    return InferResponse(response.model_name, response.model_version, response.id, outputs)


def read_model(metadata: Any, config: Any) -> ModelResponse:
    """Metadata and configuration, as protobuf messages, as ours."""

    def shapes(tensors: Any) -> Mapping[str, tuple[int, ...]]:
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    return ModelResponse(
        model=metadata.name,
        versions=tuple(metadata.versions),
        inputs=shapes(metadata.inputs),
        outputs=shapes(metadata.outputs),
        max_batch_size=config.config.max_batch_size,
    )


def translated(error: Exception, request: Request, endpoint: Endpoint, timeout_s: float) -> ClientError:
    """Any error of gRPC, tritonclient or protobuf as ours."""
    if isinstance(error, ClientError):
        return error
    if not isinstance(error, InferenceServerException):
        return ClientError(
            f"the request could not be made ({type(error).__name__}: {error})",
            model=model_of(request),
            request_id=id_of(request),
        )
    message = error.message() or ""
    if error.status() is None:  # tritonclient refused to build the request
        return InvalidInputError(message, model=model_of(request), request_id=id_of(request))
    status = error.status().removeprefix("StatusCode.")
    if status == "DEADLINE_EXCEEDED":
        return timed_out(request, timeout_s)
    kind = kind_by_words(message)
    if status in ("UNAVAILABLE", "CANCELLED") and kind is None:
        return _lost(status, message, request, endpoint)
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        kind = RequestRejectedError
    if status == "UNIMPLEMENTED":
        message = f"{message} (does {endpoint.authority} belong to a Triton server?)"
    return refusal(kind or _BY_STATUS.get(status, ServerError), message, request, status=status)


def _lost(status: str, message: str, request: Request, endpoint: Endpoint) -> ClientError:
    hint = None
    if status == "CANCELLED":
        hint = "was the client closed, or is the server stopping?"
    elif _OTHER_PROTOCOL.search(message):
        hint = (
            f"something listens there but does not speak gRPC: Triton's HTTP port (8000 by default) wants "
            f"http://{endpoint.authority}, its gRPC port (8001 by default) a plain host:port"
        )
    elif re.search(r"ssl|tls|certificate|handshake", message, re.I):
        hint = "check the scheme (grpc:// or grpcs://), ca_file= and the client's certificate"
    why = re.sub(r"^failed to connect to all addresses; last error: (\w+: )?", "", message) or "the server went away"
    return unreachable(endpoint, why, request, hint=hint, status=status)
