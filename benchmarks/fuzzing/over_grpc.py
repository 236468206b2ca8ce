"""Send malformed requests over gRPC as bytes, since client libraries cannot express most of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from benchmarks.fuzzing.mutations import VALID, Draw, mutated_requests
from benchmarks.fuzzing.options import COMPRESSIONS, DEADLINES_S, draw_metadata, named
from benchmarks.fuzzing.outcomes import FAILED, HANG, LEFT, NOT_SENT, OK, REFUSED, Guard, Outcome, fatal, fatal_shapes
from benchmarks.fuzzing.requests import FuzzRequest

SERVICE: Final = "/inference.GRPCInferenceService/"
OPEN_METHODS: Final = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    "ModelInfer",
)
ADMIN_METHODS: Final = (
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
)
TOKENS: Final = ((), (("triton-grpc-protocol-tritone-admin-token", "x" * 43),), (("tritone-admin-token", ""),))
LIMIT_S: Final = 20.0
_FAILURES: Final = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}
_TYPED: Final = {
    **{"BOOL": ("bool_contents", np.bool_), "INT8": ("int_contents", np.int8), "INT16": ("int_contents", np.int16)},
    **{
        "INT32": ("int_contents", np.int32),
        "INT64": ("int64_contents", np.int64),
        "UINT8": ("uint_contents", np.uint8),
    },
    **{"UINT16": ("uint_contents", np.uint16), "UINT32": ("uint_contents", np.uint32)},
    **{"UINT64": ("uint64_contents", np.uint64), "FP32": ("fp32_contents", np.float32)},
    "FP64": ("fp64_contents", np.float64),
}
Send = Callable[["GrpcTarget"], Outcome]
Attempt = tuple[str, str, str, Send | str]


class GrpcTarget:
    """A channel to a server; it is thread-safe."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options)

    def unary(
        self,
        method: str,
        body: bytes,
        metadata: Any = (),
        *,
        timeout_s: float | None = LIMIT_S,
        compression: Any = None,
    ) -> Outcome:
        """Call a method with the given bytes; exceeding a time limit below 1 s is part of the mutation."""
        try:
            self._channel.unary_unary(method)(body, metadata=metadata, timeout=timeout_s, compression=compression)
        except grpc.RpcError as error:
            if timeout_s is not None and timeout_s < 1 and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return Outcome(LEFT)
            return _outcome(error)
        return Outcome(OK, "OK")

    def stream(
        self, bodies: list[bytes], metadata: Any = (), *, n_answers: int | None = None, compression: Any = None
    ) -> Outcome:
        """Stream requests and read all responses, or `n_answers` responses and then cancel."""
        call = self._channel.stream_stream(SERVICE + "ModelStreamInfer")(
            iter(bodies), metadata=metadata, timeout=LIMIT_S, compression=compression
        )
        said = ""
        try:
            for n_seen, body in enumerate(call):
                answer = service_pb2.ModelStreamInferResponse.FromString(body)
                said = said or answer.error_message
                if n_answers is not None and n_seen + 1 >= n_answers:
                    call.cancel()
                    return Outcome(LEFT)
        except grpc.RpcError as error:
            return _outcome(error)
        # A stream reports errors without a code; these words identify server errors of Triton and our backends.
        broken = any(word in said for word in ("model failed", "composer failed", "recommender failed", "not healthy"))
        return Outcome(FAILED if broken else REFUSED if said else OK, "stream", said[:300])

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _outcome(error: Any) -> Outcome:
    code, said = error.code().name, (error.details() or "")[:300]
    if code == "DEADLINE_EXCEEDED":
        return Outcome(HANG, code, said)
    lost = code == "UNAVAILABLE" and ("connect" in said or "Socket closed" in said or "GOAWAY" in said)
    return Outcome(FAILED if lost or code in _FAILURES else REFUSED, code, said)


def message(ask: FuzzRequest) -> Any:
    """Return the protobuf message; values that protobuf cannot represent are replaced."""
    text = ask.id if isinstance(ask.id, str) else ask.id.decode("latin-1")
    request = service_pb2.ModelInferRequest(
        model_name=_utf8(ask.model), model_version=_utf8(ask.version), id=_utf8(text)
    )
    _set_parameters(request, ask.parameters)
    for tensor in ask.tensors:
        shape = [((size + (1 << 63)) % (1 << 64)) - (1 << 63) for size in tensor.shape]
        added = request.inputs.add(name=_utf8(tensor.name), datatype=tensor.datatype, shape=shape)
        _set_parameters(added, tensor.parameters)
        if ask.contents in ("typed", "both"):
            _set_contents(added, tensor.datatype, tensor.data)
        if ask.contents != "typed":
            request.raw_input_contents.append(tensor.data)
    if ask.contents == "more":
        request.raw_input_contents.append(b"\x00" * 4)
    if ask.contents == "fewer" and request.raw_input_contents:
        request.raw_input_contents.pop()
    for name, parameters in ask.outputs:
        _set_parameters(request.outputs.add(name=_utf8(name)), parameters)
    return request


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _set_contents(tensor: Any, datatype: str, data: bytes) -> None:
    if datatype in _TYPED:
        name, dtype = _TYPED[datatype]
        size = np.dtype(dtype).itemsize
        values = np.frombuffer(data[: len(data) // size * size], dtype)[:5000]
        getattr(tensor.contents, name).extend(values.tolist())
    else:
        tensor.contents.bytes_contents.append(data[4:5000])


def _set_parameters(request: Any, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        choice = request.parameters[_utf8(name)]
        if isinstance(value, bool):
            choice.bool_param = value
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            choice.int64_param = value
        elif isinstance(value, int) and 0 <= value < 1 << 64:
            choice.uint64_param = value
        elif isinstance(value, float):
            choice.double_param = value
        elif isinstance(value, str):
            choice.string_param = _utf8(value)


@st.composite
def attempts(draw: Draw, configs: Mapping[str, Any], guard: Guard, sent: Counter[str]) -> Attempt:
    """Draw (category, expected kind of outcome or empty, description, function that sends it or reason not to).

    Args:
        sent: counts the options of the requests.
    """
    shape = draw(st.sampled_from(("ask",) * 8 + ("stream", "bytes", "bytes", "admin")))
    if shape == "admin":
        return _admin(draw)
    if shape == "bytes":
        return _any_bytes(draw, configs, guard)
    category, ask = draw(mutated_requests(configs))
    request = message(ask)
    words = f"{ask.model} {category}: {_short(request)}"
    why = fatal(ask, guard)
    if why is not None:
        return category, NOT_SENT, words, why
    body = request.SerializeToString()
    must = OK if category == VALID else ""
    call: dict[str, Any] = {}
    if category != VALID and draw(st.booleans()):
        call = {"metadata": draw_metadata(draw), "compression": draw(st.sampled_from(COMPRESSIONS))}
    sent.update(named(ask, metadata=call.get("metadata", ())))
    sent.update(["gRPC: compression"] if call.get("compression") is not None else [])
    if shape == "stream" or (ask.decoupled and draw(st.integers(0, 3))):
        n_answers = draw(st.none() | st.integers(0, 2)) if category != VALID else None
        n_requests = draw(st.integers(1, 3)) if category != VALID else 1
        must = must if ask.decoupled else ""  # other models may reject streams
        return (
            f"stream, {category}",
            must,
            words,
            lambda target: target.stream([body] * n_requests, n_answers=n_answers, **call),
        )
    if ask.decoupled:  # unary calls cannot call decoupled models
        must = ""
    if call and (deadline_s := draw(st.sampled_from(DEADLINES_S))) is not None:
        call["timeout_s"] = deadline_s
        sent["gRPC: deadline"] += 1
    return category, must, words, lambda target: target.unary(SERVICE + "ModelInfer", body, **call)


def _short(request: Any) -> str:
    shapes = ", ".join(f"{each.name[:30]}:{each.datatype[:12]}{list(each.shape)[:6]}" for each in request.inputs[:8])
    n_bytes = [len(each) for each in request.raw_input_contents[:8]]
    return f"[{shapes}] bytes {n_bytes} parameters {str(dict(request.parameters))[:100]!r}"


def _admin(draw: Draw) -> tuple[str, str, str, Send | str]:
    method = draw(st.sampled_from(ADMIN_METHODS))
    metadata = draw(st.sampled_from(TOKENS))
    load = service_pb2.RepositoryModelUnloadRequest(model_name=draw(st.sampled_from(("genre_cnn", "recommender", ""))))
    body = draw(st.sampled_from((b"", load.SerializeToString())) | st.binary(max_size=40))
    return (
        "admin without a token",
        REFUSED,
        f"{method} {body!r}",
        lambda target: target.unary(SERVICE + method, body, metadata),
    )


def _any_bytes(draw: Draw, configs: Mapping[str, Any], guard: Guard) -> tuple[str, str, str, Send | str]:
    """Draw bytes that are not a message, or a message with a few bytes changed."""
    if draw(st.booleans()):
        method = draw(st.sampled_from((*OPEN_METHODS, "ModelStreamInfer", "NoSuchMethod", "")))
        body = draw(st.binary(max_size=60))
        category = "bytes that are no message"
    else:
        method, category = "ModelInfer", "message with bytes changed"
        whole = bytearray(message(draw(mutated_requests(configs))[1]).SerializeToString())
        whole = whole[:4096] if draw(st.booleans()) else whole
        for _ in range(draw(st.integers(1, 6))):
            if whole:
                whole[draw(st.integers(0, min(len(whole), 400) - 1))] = draw(st.integers(0, 255))
        body = bytes(whole)
    with contextlib.suppress(DecodeError):
        found = service_pb2.ModelInferRequest.FromString(body)
        why = fatal_shapes(
            ((each.shape, each.datatype) for each in found.inputs), fixes=guard.fixes
        ) or guard.fatal_outputs((each.name, each.parameters) for each in found.outputs)
        if why is not None:
            return category, NOT_SENT, "", why
    words = f"{method} {body[:200]!r}"
    if method == "ModelStreamInfer":
        return category, "", words, lambda target: target.stream([body])
    return category, "", words, lambda target: target.unary(SERVICE + method, body)
