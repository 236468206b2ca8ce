"""All options of an inference request in the v2 protocol and Triton 2.51's extensions, and values for them.

Sources: the Open Inference Protocol (v2), Triton's extensions for binary data, classification, generate, parameters,
schedule policy, sequences, shared memory and tracing, and the strings of the server's binary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import grpc
from hypothesis import strategies as st

from benchmarks.fuzzing.requests import FuzzRequest

Draw = Callable[[st.SearchStrategy[Any]], Any]

SHARED_MEMORY: Final = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
OWN: Final = "x-own"  # not part of any extension; Triton passes it to the model
REQUEST: Final = (
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"),
    *("triton_enable_empty_final_response", "headers", *SHARED_MEMORY, "classification", OWN),
)
INPUT: Final = ("binary_data_size", *SHARED_MEMORY, "classification", OWN)
OUTPUT: Final = ("binary_data", "classification", *SHARED_MEMORY, "binary_data_size", OWN)
# Each JSON type; gRPC's parameters have bool, int64, uint64, double and string.
VALUES: Final = (
    *(True, False, 0, 1, 2, -1, 10**6, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)),
    *(0.0, 1.5, -1.0, 1e308, "", "1", "true", "region", "a" * 500, "\u00e9", None, [], [1], {}, {"a": 1}),
)
CLASS_COUNTS: Final = (0, 1, 2, 10**6, -1, 1 << 63, "1", "", True, False, 1.0, 1.5, None, [1], {})

HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Accept-Encoding": ("gzip", "deflate", "gzip, deflate", "br", "identity;q=0", "*", ""),
    "Content-Encoding": ("identity", "br", "", "gzip", "deflate"),
    "Inference-Header-Content-Length": ("0", "-1", "1", "x", "", "18446744073709551616"),
    "Content-Type": ("application/octet-stream", "application/json", "text/plain", ""),
    "Expect": ("100-continue", "200-ok"),
    "Upgrade": ("h2c", "websocket"),
    "Connection": ("close", "keep-alive, upgrade", "keep-alive"),
    "Range": ("bytes=0-1", "bytes=-1"),
    "endpoint-load-metrics-format": ("text", "json", "other"),
    "traceparent": ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-x-y-01", ""),
    "tracestate": ("a=1", "=" * 600),
    "tritone-service-key": ("x", ""),
    "tritone-user-token": ("x.y", ""),
    "Authorization": ("Bearer x",),
}
METADATA: Final[Mapping[str, tuple[str, ...]]] = {
    "triton_grpc_error": ("true", "false", ""),
    "traceparent": ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-x-y-01"),
    "tracestate": ("a=1",),
    "endpoint-load-metrics-format": ("text", "json"),
    "triton-grpc-protocol-x": ("1",),
    "tritone-service-key": ("x",),
    "tritone-user-token": ("x.y",),
    "authorization": ("Bearer x",),
    "x-bin-bin": ("bytes",),
}
COMPRESSIONS: Final = (None, None, grpc.Compression.Gzip, grpc.Compression.Deflate)
DEADLINES_S: Final = (None, None, None, 0.001, 0.02, 86_400.0, 1e9)
# Names of all options.
ALL: Final = frozenset(
    {f"request: {name}" for name in REQUEST}
    | {f"input: {name}" for name in INPUT}
    | {f"output: {name}" for name in OUTPUT}
    | {f"HTTP header: {name}" for name in HEADERS}
    | {f"gRPC metadata: {name}" for name in METADATA}
    | {"gRPC: compression", "gRPC: deadline", "request: id", "request: version"}
)


def add_options(draw: Draw, ask: FuzzRequest, outputs: Iterable[str]) -> FuzzRequest:
    """Return the request with drawn options of the request, its inputs and the model's outputs."""
    some = st.sampled_from(VALUES)
    ask = replace(
        ask, parameters={**ask.parameters, **draw(st.dictionaries(st.sampled_from(REQUEST), some, max_size=3))}
    )
    if ask.tensors and draw(st.booleans()):
        place = draw(st.integers(0, len(ask.tensors) - 1))
        ask = ask.with_tensor(place, parameters=draw(st.dictionaries(st.sampled_from(INPUT), some, max_size=2)))
    names = sorted(outputs)
    if names and draw(st.booleans()):
        asked = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        given = st.dictionaries(st.sampled_from(OUTPUT), some, max_size=2)
        ask = replace(ask, outputs=tuple((name, draw(given)) for name in asked))
    return ask


def draw_headers(draw: Draw) -> dict[str, str]:
    """Draw up to three HTTP headers that Triton, a balancer or our backends interpret."""
    names = draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=3, unique=True))
    return {name: draw(st.sampled_from(HEADERS[name])) for name in names}


def draw_metadata(draw: Draw) -> tuple[tuple[str, str | bytes], ...]:
    """Draw gRPC metadata in the same way."""
    names = draw(st.lists(st.sampled_from(sorted(METADATA)), max_size=3, unique=True))
    values = ((name, draw(st.sampled_from(METADATA[name]))) for name in names)
    return tuple((name, value.encode() if name.endswith("-bin") else value) for name, value in values)


def named(
    ask: FuzzRequest, headers: Mapping[str, str] | None = None, metadata: Iterable[tuple[str, Any]] = ()
) -> Counter[str]:
    """Count the options of a request by their names in `ALL`."""
    found: Counter[str] = Counter(f"request: {name}" for name in ask.parameters)
    found.update(f"input: {name}" for tensor in ask.tensors for name in tensor.parameters)
    found.update(f"output: {name}" for _, parameters in ask.outputs for name in parameters)
    found.update(f"HTTP header: {name}" for name in headers or {})
    found.update(f"gRPC metadata: {name}" for name, _ in metadata)
    found.update(["request: id"] if ask.id else [])
    found.update(["request: version"] if ask.version else [])
    return Counter({name: n for name, n in found.items() if name in ALL})
