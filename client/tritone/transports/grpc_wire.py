"""Shared parts of the gRPC transports: messages, channel options and error translation.

Streams use the generated stub directly, because tritonclient allows one stream at a time per client and joins a thread
when it ends.
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
    InvalidInputError,
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
    ModelStatistics,
    Request,
    StatisticsRequest,
    StatisticsResponse,
    StreamRequest,
    id_of,
    latest_version,
    model_of,
)
from tritone.retry import timed_out
from tritone.tracing import trace_headers
from tritone.transports.protocol import (
    dtype_name,
    kind_by_words,
    malformed,
    missing_output,
    refusal,
    tensor_bytes,
    unreachable,
)

_RAW_INPUT_TAG: Final = b"\x3a"  # field 7 of ModelInferRequest, `raw_input_contents`, as length-delimited bytes
_BY_STATUS: Final[dict[str, type[ServerError]]] = {
    "NOT_FOUND": ModelNotFoundError,
    "INVALID_ARGUMENT": RequestRejectedError,
    "OUT_OF_RANGE": RequestRejectedError,
    "PERMISSION_DENIED": AccessDeniedError,
    "UNAUTHENTICATED": AccessDeniedError,
    "RESOURCE_EXHAUSTED": ServerBusyError,
}
# A response of a stream carries an error as text only, without a status. (The header `triton_grpc_error` requests
# statuses, but Triton 2.51 sets them for some errors only, and logs an error of its own for each.)
_INVALID: Final = re.compile(r"expect|must be|differ|invalid", re.I)
# The other side does not speak gRPC. Occurs while connecting, never during a call.
_OTHER_PROTOCOL: Final = re.compile(
    r"connect.*(socket closed|http1|http/1|frame|settings|end of tcp stream)", re.I | re.S
)


def channel_args(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    """Return the channel options."""
    args: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Servers close connections with pings more often than every 5 minutes. The timeout also bounds how long sent
        # data may stay unacknowledged, which detects a host that disappeared.
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # `tritone.retry` retries, with one policy for all transports. gRPC must reconnect soon to a server that is
        # back; its default delay is up to 2 minutes.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # By default, the channels of a process share connections, and with them their back-off.
        ("grpc.use_local_subchannel_pool", 1),
        # No proxies, as over HTTP; gRPC would use http_proxy, https_proxy and grpc_proxy by default.
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


# `recommender_events` reports UNAVAILABLE while its store is down; the server itself is reachable. HTTP needs no such
# pattern, because its status is 503.
_STORE_DOWN: Final = re.compile(r"^(\[request id: [^]]*\] )?event store ")


@dataclass(frozen=True)
class Connection:
    """A channel to Triton.

    Attributes:
        stub: all calls of the service; each takes and returns protobuf messages.
        infer: `ModelInfer`, which takes the bytes of `infer_message`.
    """

    channel: Any
    stub: Any
    infer: Any


def connect(endpoint: Endpoint, grpc_module: Any) -> Connection:
    """Create a channel; it connects at the first call.

    Args:
        endpoint: the server.
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


def unreadable_file(error: OSError, endpoint: Endpoint) -> InvalidInputError:
    """Return the error for a TLS file that disappeared or became unreadable after the client had been created."""
    files = ("ca_file", "client_cert_file", "client_key_file")
    return InvalidInputError(
        f"{error.filename}: cannot be read ({error.strerror})",
        argument=next((name for name in files if str(getattr(endpoint, name)) == str(error.filename)), None),
        reason="missing",
    )


def _content(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


def call_metadata(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """Return the headers of the next request to an endpoint as gRPC metadata.

    Triton expects the key of a restricted protocol under a prefixed name. The API key is sent under both names, so
    that one `api_key` serves a proxy and Triton.
    """
    headers = dict(endpoint.current_headers())
    if "authorization" in headers:
        headers["triton-grpc-protocol-authorization"] = headers["authorization"]
    return tuple((name.lower(), value) for name, value in headers.items())  # gRPC rejects upper case


def traced(metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the metadata with the headers of the current trace added, if one is active."""
    return (*metadata, *trace_headers().items())


def metadata_for(request: Request, endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """Return the metadata of one request; its headers replace those of the endpoint with the same name."""
    metadata = call_metadata(endpoint)
    if isinstance(request, InferRequest) and request.headers:
        kept = (each for each in metadata if each[0] not in request.headers)
        metadata = (*kept, *request.headers.items())
    return traced(metadata)


SERVER_READY: Final = service_pb2.ServerReadyRequest()


def ready_request(model: str) -> Any:
    """Return the message that asks whether a model is ready."""
    return service_pb2.ModelReadyRequest(name=model)


def statistics_request(request: StatisticsRequest) -> Any:
    """Return the message that asks for the statistics of one model, or of all."""
    return service_pb2.ModelStatisticsRequest(name=request.model)


def metadata_request(request: ModelRequest) -> Any:
    """Return the message that asks for the metadata of a model."""
    return service_pb2.ModelMetadataRequest(name=request.model)


def config_request(request: ModelRequest, metadata: Any) -> Any:
    """Return the message that asks for the configuration of a model.

    It names the version of the metadata, because another server may respond behind a load balancer.
    """
    return service_pb2.ModelConfigRequest(name=request.model, version=latest_version(metadata.versions))


def infer_message(request: InferRequest) -> bytes:
    """Return an inference request as the bytes of a serialised `ModelInferRequest`.

    Protobuf allows fields in any order, so the raw tensors are appended to the rest of the message with a single copy.
    Setting them in a message and serialising it makes three more copies of each, a third of the client's time for a
    20 s clip.
    """
    built = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    if request.priority:
        built.parameters["priority"].uint64_param = request.priority
    for name, value in request.parameters.items():
        built.parameters[name].string_param = value
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
    """Return a whole number as a protobuf varint."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))


def read_inference(request: InferRequest | StreamRequest, response: Any) -> InferResponse:
    """Return the response of a `ModelInferResponse`.

    Raises:
        ServerError: the response is malformed.
    """
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
    """Return a stream request as a protobuf message."""
    built = service_pb2.ModelInferRequest(
        model_name=request.model, model_version=request.version, id=request.request_id
    )
    for name, array in request.inputs.items():
        built.inputs.add(name=name, datatype=dtype_name(array), shape=array.shape)
        built.raw_input_contents.append(bytes(tensor_bytes(array)))
    for name in request.outputs:
        built.outputs.add(name=name)
    return built


def read_stream_response(request: StreamRequest, message: Any) -> InferResponse | None:
    """Return one response of a stream; None for an empty final response.

    Raises:
        ServerError: the response is an error or is malformed; the subclass depends on the error.
    """
    if message.error_message:
        kind = kind_by_words(message.error_message)
        if kind is None:
            kind = RequestRejectedError if _INVALID.search(message.error_message) else ServerError
        raise refusal(kind, message.error_message, request, status=None)
    if not message.infer_response.outputs:
        return None
    return read_inference(request, message.infer_response)


def read_model(metadata: Any, config: Any) -> ModelResponse:
    """Return the model description from the protobuf messages with its metadata and configuration."""

    def shapes(tensors: Any) -> Mapping[str, tuple[int, ...]]:
        return {tensor.name: tuple(tensor.shape) for tensor in tensors}

    return ModelResponse(
        model=metadata.name,
        versions=tuple(metadata.versions),
        inputs=shapes(metadata.inputs),
        outputs=shapes(metadata.outputs),
        max_batch_size=config.config.max_batch_size,
        parameters={name: value.string_value for name, value in config.config.parameters.items()},
        input_types={tensor.name: tensor.datatype for tensor in metadata.inputs},
    )


def read_statistics(response: Any) -> StatisticsResponse:
    """Return the statistics of models from the protobuf message."""
    return StatisticsResponse(
        tuple(
            ModelStatistics(
                model=each.name,
                version=each.version,
                n_inferences=each.inference_count,
                n_executions=each.execution_count,
                n_failures=each.inference_stats.fail.count,
                last_inference_s=each.last_inference / 1_000 if each.last_inference else None,
            )
            for each in response.model_stats
        )
    )


def translated(error: Exception, request: Request, endpoint: Endpoint, timeout_s: float) -> ClientError:
    """Return the `ClientError` for an error of gRPC or protobuf."""
    if isinstance(error, ClientError):
        return error
    if isinstance(error, TimeoutError):
        return timed_out(request, timeout_s)
    if isinstance(error, grpc.RpcError):
        message, status = error.details() or "", error.code().name
    else:
        return ClientError(
            f"the request could not be sent ({type(error).__name__}: {error})",
            model=model_of(request),
            request_id=id_of(request),
        )
    if status == "DEADLINE_EXCEEDED":
        return timed_out(request, timeout_s)
    kind = kind_by_words(message)
    if status == "UNAVAILABLE" and _STORE_DOWN.search(message):
        kind = ServerBusyError
    if status in ("UNAVAILABLE", "CANCELLED") and kind is None:
        return lost(status, message, request, endpoint)
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        kind = RequestRejectedError
    if status == "UNIMPLEMENTED":
        message = f"{message} (does {endpoint.authority} belong to a Triton server?)"
    return refusal(kind or _BY_STATUS.get(status, ServerError), message, request, status=status)


def speaks_another_protocol(message: str) -> bool:
    """Return whether an error message of gRPC means that the other side does not speak gRPC, or differs in TLS."""
    return bool(_OTHER_PROTOCOL.search(message))


def lost(status: str, message: str, request: Request, endpoint: Endpoint) -> ClientError:
    """Return the error for a server that cannot be reached or was lost, with the likely cause."""
    hint = reason = None
    if status == "CANCELLED":
        hint = "the client may have been closed, or the server may be stopping"
    elif speaks_another_protocol(message):
        reason = "wrong_protocol"
        hint = (
            f"the port is open but does not speak gRPC, or differs in TLS: use http://{endpoint.authority} for "
            f"Triton's HTTP port (8000 by default), host:port for its gRPC port (8001 by default), or grpcs:// with "
            f"TLS (and a client certificate if the server requires one)"
        )
    elif re.search(r"ssl|tls|certificate|handshake", message, re.I):
        reason = "tls"
        hint = "check the scheme (grpc:// or grpcs://), ca_file= and the client's certificate"
    why = re.sub(r"^failed to connect to all addresses; last error: (\w+: )?", "", message) or "the connection was lost"
    was_sent = not _NOT_SENT.search(message)
    return unreachable(endpoint, why, request, hint=hint, reason=reason, status=status, was_sent=was_sent)
