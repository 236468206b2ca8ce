"""Shared parts of the HTTP transports: KServe v2 requests with binary tensors (not copied), and error translation.

Protocol: https://github.com/kserve/open-inference-protocol and Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tritone.endpoints import Endpoint
from tritone.exceptions import (
    AccessDeniedError,
    ClientError,
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
    ReadyRequest,
    ReadyResponse,
    Request,
    Response,
    StatisticsRequest,
    StatisticsResponse,
    id_of,
    latest_version,
    model_of,
)
from tritone.retry import timed_out
from tritone.tracing import trace_headers
from tritone.transports.protocol import (
    DTYPES,
    dtype_name,
    kind_by_words,
    malformed,
    missing_output,
    read_texts,
    refusal,
    tensor_bytes,
    unreachable,
)

HEADER_LENGTH: Final = "inference-header-content-length"
_OK: Final = 200
_LOST: Final = (502, 504)  # from a load balancer: the server received the request and ended, or did not respond
_BY_STATUS: Final[dict[int, type[ServerError]]] = {
    400: RequestRejectedError,
    401: AccessDeniedError,
    403: AccessDeniedError,
    413: RequestRejectedError,
    429: ServerBusyError,
    502: ServerBusyError,
    503: ServerBusyError,
    504: ServerBusyError,
}


@dataclass(frozen=True)
class Call:
    """One HTTP request.

    Attributes:
        body: parts to send one after the other; the tensors are views of the caller's arrays.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: tuple[memoryview, ...] = ()


@dataclass(frozen=True)
class Reply:
    """One HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def first_call(request: Request, endpoint: Endpoint) -> Call:
    """Return the first HTTP call of a request; for most requests it is the only one."""
    headers = {**endpoint.current_headers(), **trace_headers()}
    if isinstance(request, InferRequest):
        headers.update(request.headers)
        return _infer_call(request, _model_path(request.model, endpoint, request.version), headers)
    if isinstance(request, ModelRequest):
        return Call("GET", _model_path(request.model, endpoint), headers)
    if isinstance(request, StatisticsRequest):
        models = _model_path(request.model, endpoint) if request.model else f"{endpoint.path}/v2/models"
        return Call("GET", f"{models}/stats", headers)
    path = f"{_model_path(request.model, endpoint)}/ready" if request.model else f"{endpoint.path}/v2/health/ready"
    return Call("GET", path, headers)


def second_call(request: Request, reply: Reply, endpoint: Endpoint) -> Call | None:
    """Return the second HTTP call of a request, or None if it needs only one.

    After the metadata of a model, its configuration is read, in the version of the metadata, because another server
    may respond behind a load balancer.

    Raises:
        ServerError: the reply is an error or is malformed.
    """
    if not isinstance(request, ModelRequest):
        return None
    if reply.status != _OK:
        raise _refused(request, reply)
    try:
        version = latest_version(json.loads(reply.body).get("versions", ()))
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise malformed(request, f"{type(error).__name__}: {error}") from error
    path = f"{_model_path(request.model, endpoint, version)}/config"
    return Call("GET", path, {**endpoint.current_headers(), **trace_headers()})


def read(request: Request, replies: list[Reply]) -> Response:
    """Return the response that the HTTP replies contain.

    Raises:
        ServerError: a reply is an error or is malformed; the subclass depends on the error.
    """
    if isinstance(request, ReadyRequest) and not _is_denied(replies[0]):
        return ReadyResponse(replies[0].status == _OK)
    for reply in replies:
        if reply.status != _OK:
            raise _refused(request, reply)
    try:
        if isinstance(request, InferRequest):
            return _read_inference(request, replies[0])
        if isinstance(request, StatisticsRequest):
            return _read_statistics(json.loads(replies[0].body))
        return _read_model(*(json.loads(reply.body) for reply in replies))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise malformed(request, f"{type(error).__name__}: {error}") from error


def translated(  # noqa: PLR0911 - a list of cases
    error: Exception, request: Request, endpoint: Endpoint, timeout_s: float, *, was_sent: bool
) -> ClientError:
    """Return the `ClientError` for an error of sockets, TLS or an HTTP library.

    Args:
        was_sent: whether the server may have received the whole request.
    """
    if isinstance(error, ClientError):
        return error
    if isinstance(error, TimeoutError):
        return timed_out(request, timeout_s)
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError) or "SSL" in text or "certificate" in text.lower():
        hint = "check the scheme (http:// or https://), ca_file= and the client's certificate"
        return unreachable(endpoint, text, request, hint=hint, reason="tls")
    if isinstance(error, OSError | EOFError):
        number = getattr(error, "errno", None)
        why = os.strerror(number) if isinstance(number, int) and number > 0 else text
        tls_hint = "is `tritone serve` running there, and behind TLS (https://)?" if endpoint.tls else None
        return unreachable(endpoint, why, request, hint=tls_hint, was_sent=was_sent)
    if re.search(r"status ?line|Expected HTTP|HTTP/|Invalid method|Bad status", f"{type(error).__name__} {text}", re.I):
        why, hint = (
            "the server does not speak HTTP/1.1",
            f"if {endpoint.port} is Triton's gRPC port (8001 by default), use {endpoint.authority} without http://",
        )
        return unreachable(endpoint, why, request, hint=hint, reason="wrong_protocol")
    if type(error).__module__.partition(".")[0] in ("http", "aiohttp"):
        return unreachable(endpoint, f"{type(error).__name__}: {text}", request, was_sent=was_sent)
    return ClientError(
        f"the request could not be sent ({type(error).__name__}: {text})",
        model=model_of(request),
        request_id=id_of(request),
    )


def _model_path(model: str, endpoint: Endpoint, version: str | None = None) -> str:
    path = f"{endpoint.path}/v2/models/{model}"
    return f"{path}/versions/{version}" if version else path


def _infer_call(request: InferRequest, path: str, headers: Mapping[str, str]) -> Call:
    raw = {name: tensor_bytes(array) for name, array in request.inputs.items()}
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": dtype_name(array),
            "parameters": {"binary_data_size": raw[name].nbytes},
        }
        for name, array in request.inputs.items()
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in request.outputs]
    fields: dict[str, Any] = {"id": request.request_id, "inputs": inputs, "outputs": outputs}
    parameters: dict[str, str | int] = dict(request.parameters)
    if request.priority:
        parameters["priority"] = request.priority
    if parameters:
        fields["parameters"] = parameters
    head = json.dumps(fields).encode()
    parts = (memoryview(head), *raw.values())
    return Call(
        "POST",
        f"{path}/infer",
        {
            **headers,
            "content-type": "application/octet-stream",
            "content-length": str(sum(part.nbytes for part in parts)),
            HEADER_LENGTH: str(len(head)),
        },
        parts,
    )


def _read_inference(request: InferRequest, reply: Reply) -> InferResponse:
    n_head = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    head = json.loads(reply.body[:n_head])
    outputs: dict[str, Array] = {}
    offset = n_head
    for tensor in head["outputs"]:
        n_bytes = tensor.get("parameters", {}).get("binary_data_size")
        if n_bytes is None:
            dtype: Any = DTYPES.get(tensor["datatype"], np.object_)
            array = np.array(tensor["data"], dtype)
        elif tensor["datatype"] == "BYTES":
            array = read_texts(memoryview(reply.body)[offset : offset + n_bytes])
            offset += n_bytes
        else:
            count = n_bytes // np.dtype(DTYPES[tensor["datatype"]]).itemsize
            array = np.frombuffer(reply.body, DTYPES[tensor["datatype"]], count, offset)
            offset += n_bytes
        outputs[tensor["name"]] = array.reshape(tensor["shape"])
    for name in request.outputs:
        if name not in outputs:
            raise missing_output(request, name)
    return InferResponse(head["model_name"], str(head["model_version"]), head.get("id", ""), outputs)


def _read_model(metadata: Any, config: Any) -> ModelResponse:
    def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
        return {tensor["name"]: tuple(int(size) for size in tensor["shape"]) for tensor in tensors}

    return ModelResponse(
        model=metadata["name"],
        versions=tuple(metadata.get("versions", ())),
        inputs=shapes(metadata["inputs"]),
        outputs=shapes(metadata["outputs"]),
        max_batch_size=int(config.get("max_batch_size", 0)),
        parameters={name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()},
        input_types={tensor["name"]: str(tensor.get("datatype", "")) for tensor in metadata["inputs"]},
    )


def _read_statistics(answer: Any) -> StatisticsResponse:
    return StatisticsResponse(
        tuple(
            ModelStatistics(
                model=each["name"],
                version=str(each["version"]),
                n_inferences=int(each.get("inference_count", 0)),
                n_executions=int(each.get("execution_count", 0)),
                n_failures=int(each.get("inference_stats", {}).get("fail", {}).get("count", 0)),
                last_inference_s=each["last_inference"] / 1_000 if each.get("last_inference") else None,
            )
            for each in answer["model_stats"]
        )
    )


def _is_denied(reply: Reply) -> bool:
    return reply.status in (401, 403)


def _refused(request: Request, reply: Reply) -> ServerError:
    try:
        message = str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message = f"status {reply.status} without a JSON message"  # the body may hold anything
    kind = kind_by_words(message) or _BY_STATUS.get(reply.status, ServerError)
    if reply.status in (404, 405) and kind is ServerError:
        message += " (check that the address, with the path before /v2, belongs to a Triton server)"
    return refusal(kind, message, request, status=str(reply.status), n_lost=int(reply.status in _LOST))
