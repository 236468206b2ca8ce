"""The parts that both gRPC transports share: messages, channel options, and the translation of gRPC's errors.

Streams use the generated stub directly: tritonclient allows one stream at a time per client and waits for a thread when
it ends. A call is cheap on a channel that is open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritone.endpoints import Endpoint
from tritone.exceptions import (
    AccessDeniedError,
    ClientError,
    ModelNotFoundError,
    RequestRejectedError,
    ServerBusyError,
    ServerError,
)
from tritone.messages import (
    Array,
    InferRequest,
    InferResponse,
    ModelRequest,
    ModelResponse,
    Request,
    StreamRequest,
    dtype_name,
    id_of,
    latest_version,
    malformed,
    missing_output,
    model_of,
)
from tritone.retry import timed_out
from tritone.tracing import trace_headers
from tritone.transports.codec import tensor_bytes
from tritone.transports.errors import kind_by_words, refusal, unreachable

_RAW_INPUT_TAG: Final = b"\x3a"  # field 7 of ModelInferRequest, `raw_input_contents`, as length-delimited bytes
_BY_STATUS: Final[dict[str, type[ServerError]]] = {
    "NOT_FOUND": ModelNotFoundError,
    "INVALID_ARGUMENT": RequestRejectedError,
    "OUT_OF_RANGE": RequestRejectedError,
    "PERMISSION_DENIED": AccessDeniedError,
    "UNAUTHENTICATED": AccessDeniedError,
    "RESOURCE_EXHAUSTED": ServerBusyError,
}
# An answer of a stream carries an error as text alone, without a status. (The header `triton_grpc_error` asks for
# statuses, but 2.51 heeds it for some errors only, and complains of itself in its log for each.)
_INVALID: Final = re.compile(r"expect|must be|differ|invalid", re.I)
# The server spoke another protocol, or none: met while connecting, never during a call.
_OTHER_PROTOCOL: Final = re.compile(
    r"connect.*(socket closed|http1|http/1|frame|settings|end of tcp stream)", re.I | re.S
)


def channel_args(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    """Options of the channel."""
    args: list[tuple[str, int | str]] = [
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
        # Connections are direct on both transports; gRPC alone would go by http_proxy, https_proxy and grpc_proxy.
        ("grpc.enable_http_proxy", 0),
    ]
    if endpoint.tls_name is not None:
        args.append(("grpc.ssl_target_name_override", endpoint.tls_name))
    return args


# The request was not sent: no connection was established, or a load balancer had no server available.
_NOT_SENT: Final = re.compile(
    r"failed to connect|connection refused|name resolution|DNS|no route to host|network is unreachable"
    r"|http2? (header with )?status(:| code) 503",
    re.I,
)


@dataclass(frozen=True)
class Connection:
    """A channel to Triton.

    Attributes:
        stub: all calls of the service; each takes and answers protobuf messages.
        infer: `ModelInfer`, but takes the bytes of `infer_message`.
    """

    channel: Any
    stub: Any
    infer: Any


def connect(endpoint: Endpoint, grpc_module: Any) -> Connection:
    """Open a channel; nothing is sent before the first call.

    Args:
        endpoint: where to.
        grpc_module: `grpc` for threads, `grpc.aio` for the running event loop.
    """
    options = channel_args(endpoint)
    if endpoint.tls:
        credentials = grpc.ssl_channel_credentials(
            _content(endpoint.ca_file), _content(endpoint.client_key_file), _content(endpoint.client_cert_file)
        )
        channel = grpc_module.secure_channel(endpoint.authority, credentials, options=options)
    else:
        channel = grpc_module.insecure_channel(endpoint.authority, options=options)
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=None,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    return Connection(channel, service_pb2_grpc.GRPCInferenceServiceStub(channel), infer)


def _content(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def call_metadata(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """The headers as gRPC metadata.

    Triton looks for the key of a restricted protocol under a prefixed name; sending the API key under both
    lets one `api_key` open a proxy's door and Triton's own.
    """
    headers = dict(endpoint.headers)
    if "authorization" in headers:
        headers["triton-grpc-protocol-authorization"] = headers["authorization"]
    return tuple((name.lower(), value) for name, value in headers.items())  # gRPC refuses capitals


def traced(metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The metadata with that of the current trace, if there is one."""
    return (*metadata, *trace_headers().items())


def metadata_for(request: Request, metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The metadata of one request; its own headers replace the endpoint's of the same name."""
    if isinstance(request, InferRequest) and request.headers:
        kept = (each for each in metadata if each[0] not in request.headers)
        metadata = (*kept, *request.headers.items())
    return traced(metadata)


SERVER_READY: Final = service_pb2.ServerReadyRequest()


def ready_request(model: str) -> Any:
    """Is this model ready?"""
    return service_pb2.ModelReadyRequest(name=model)


def metadata_request(request: ModelRequest) -> Any:
    """What are this model's tensors?"""
    return service_pb2.ModelMetadataRequest(name=request.model)


def config_request(request: ModelRequest, metadata: Any) -> Any:
    """How is this model served, in the version of the metadata? Behind a balancer another server may answer."""
    return service_pb2.ModelConfigRequest(name=request.model, version=latest_version(metadata.versions))


def infer_message(request: InferRequest) -> bytes:
    """An inference as the bytes of a `ModelInferRequest`.

    Protobuf allows fields in any order, so the tensors follow the rest of the message as they lie in memory: one
    copy. Setting them in a message and serialising it copies each three times more, which is a third of what a
    20 s clip costs the caller beyond the model.
    """
    built = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    if request.priority:
        built.parameters["priority"].uint64_param = request.priority
    for name, array in request.inputs.items():
        built.inputs.add(name=name, datatype=dtype_name(array), shape=array.shape)
    for name in request.outputs:
        built.outputs.add(name=name)
    parts: list[Any] = [built.SerializeToString()]
    for array in request.inputs.values():
        raw = tensor_bytes(array)
        parts += (_RAW_INPUT_TAG, _varint(raw.nbytes), raw)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Protobuf's variable-length form of a whole number."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))


def read_inference(request: InferRequest | StreamRequest, response: Any) -> InferResponse:
    """Read a `ModelInferResponse`."""
    result = triton.InferResult(response)
    outputs: dict[str, Array] = {}
    for name in request.outputs:
        array = result.as_numpy(name)
        if array is None:
            raise missing_output(request, name)
        if array.dtype == np.object_:
            try:
                array = np.array([value.decode() for value in array.ravel()], object).reshape(array.shape)
            except UnicodeDecodeError as error:
                raise malformed(request, f"the output {name!r} is not UTF-8 ({error})") from error
        outputs[name] = array
    return InferResponse(response.model_name, response.model_version, response.id, outputs)


def stream_message(request: StreamRequest) -> Any:
    """A request as protobuf."""
    built = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for name, array in request.inputs.items():
        built.inputs.add(name=name, datatype=dtype_name(array), shape=array.shape)
        built.raw_input_contents.append(bytes(tensor_bytes(array)))
    for name in request.outputs:
        built.outputs.add(name=name)
    return built


def read_stream_response(request: StreamRequest, answer: Any) -> InferResponse | None:
    """One answer of the stream; None for one that says nothing but that this was all.

    Raises:
        ServerError: of the fitting kind, if the answer is a refusal or makes no sense.
    """
    if answer.error_message:
        kind = kind_by_words(answer.error_message)
        if kind is None:
            kind = RequestRejectedError if _INVALID.search(answer.error_message) else ServerError
        raise refusal(kind, answer.error_message, request, status=None)
    if not answer.infer_response.outputs:
        return None
    return read_inference(request, answer.infer_response)


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
        parameters={name: value.string_value for name, value in config.config.parameters.items()},
    )


def translated(error: Exception, request: Request, endpoint: Endpoint, timeout_s: float) -> ClientError:
    """Any error of gRPC or protobuf as ours."""
    if isinstance(error, ClientError):
        return error
    if isinstance(error, TimeoutError):
        return timed_out(request, timeout_s)
    if isinstance(error, grpc.RpcError):
        message, status = error.details() or "", error.code().name
    else:
        return ClientError(
            f"the request could not be made ({type(error).__name__}: {error})",
            model=model_of(request),
            request_id=id_of(request),
        )
    if status == "DEADLINE_EXCEEDED":
        return timed_out(request, timeout_s)
    kind = kind_by_words(message)
    if status in ("UNAVAILABLE", "CANCELLED") and kind is None:
        return lost(status, message, request, endpoint)
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        kind = RequestRejectedError
    if status == "UNIMPLEMENTED":
        message = f"{message} (does {endpoint.authority} belong to a Triton server?)"
    return refusal(kind or _BY_STATUS.get(status, ServerError), message, request, status=status)


def speaks_another_protocol(message: str) -> bool:
    """Return whether gRPC's message says that the other side does not speak gRPC as asked."""
    return bool(_OTHER_PROTOCOL.search(message))


def lost(status: str, message: str, request: Request, endpoint: Endpoint) -> ClientError:
    """The error for a server that cannot be reached or went away, with the likely cause."""
    hint = None
    if status == "CANCELLED":
        hint = "was the client closed, or is the server stopping?"
    elif speaks_another_protocol(message):
        hint = (
            f"something listens there but does not speak gRPC as asked: Triton's HTTP port (8000 by default) wants "
            f"http://{endpoint.authority}, its gRPC port (8001 by default) a plain host:port, or grpcs:// where it has "
            f"TLS (and a client's certificate, if it asks for one)"
        )
    elif re.search(r"ssl|tls|certificate|handshake", message, re.I):
        hint = "check the scheme (grpc:// or grpcs://), ca_file= and the client's certificate"
    why = re.sub(r"^failed to connect to all addresses; last error: (\w+: )?", "", message) or "the server went away"
    was_sent = not _NOT_SENT.search(message)
    return unreachable(endpoint, why, request, hint=hint, status=status, was_sent=was_sent)
