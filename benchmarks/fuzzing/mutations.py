"""Mutations of valid requests: each makes one mistake that a client can make.

`mutated_requests` draws requests with Hypothesis. Contents come from a NumPy generator with a drawn seed, since drawing
large tensors with Hypothesis would be slow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzzing.options import CLASS_COUNTS, add_options
from benchmarks.fuzzing.requests import (
    ITEM_BYTES,
    MOST_BYTES,
    FuzzRequest,
    RequestTensor,
    fill,
    optional_tensors,
    valid_request,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]
Mutation = Callable[[Draw, FuzzRequest, np.random.Generator], FuzzRequest]

HUGE = (1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 40, 1 << 62, (1 << 63) - 1)
ODD_TYPES = ("", "FLOAT", "fp32", "FP32 ", "TYPE_FP32", "INVALID", "BF16", "FP8", "\x00", "BYTES" * 50)
PATHS = (
    *("../genre_cnn", "..", ".", "/", "//", "genre_cnn/../taste_vae", "%2e%2e", "%2e%2e%2fetc%2fpasswd", "..%2f..%2f"),
    *("../../../../etc/passwd", "genre_cnn\x00", "\x00", "genre_cnn/versions/1", "genre_cnn ", "GENRE_CNN", "*", "?"),
    *("genre_cnn.candidate", "x" * 300, "y" * 5000, "\u202egnn", "%", "%zz", "${HOME}", "'; --", "<a>", "\n", "é"),
)
VERSIONS = (
    "0",
    "-1",
    "2",
    "99999999999999999999",
    "1.0",
    "01",
    " 1",
    "one",
    "../1",
    "1/../1",
    "%31",
    "\x00",
    "1" * 400,
)
ODD_TEXT = (
    *("\x00", "\x01\x02\x1b[31m", "a\r\nX-Injected: 1", "\u2028", "{}", '"', "\\", "\ud800", "ü" * 100, "z" * 70_000),
    *("%s%n%x", "${jndi:x}", "<id_unknown>"),
)
ODD_NUMBERS = (0, 1, -1, 7, 1.5, 1e308, 1 << 31, 1 << 63, -(1 << 63), True, "1", "", None, [], {})
ODD_FLOATS = (
    *(float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1e-45, 1e-39, -1e-39),
    *(3.4e38, -3.4e38, 1.0, -1.0, 2.0, 1e10),
)


def _place(draw: Draw, ask: FuzzRequest) -> int | None:
    return draw(st.integers(0, len(ask.tensors) - 1)) if ask.tensors else None


def _resized(tensor: RequestTensor, shape: tuple[int, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Return a new shape, with data of that size if it is possible."""
    n_items = int(np.prod([abs(size) for size in shape], dtype=object)) if shape else 1
    if n_items * ITEM_BYTES.get(tensor.datatype, 8) > MOST_BYTES or min(shape, default=0) < 0:
        return {"shape": shape}
    if n_items == tensor.n_items:
        return {"shape": shape}
    return {"shape": shape, "data": fill(tensor.datatype, n_items, rng)}


def _datatype(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    place = _place(draw, ask)
    if place is None:
        return ask
    tensor = ask.tensors[place]
    datatype = draw(st.sampled_from((*ITEM_BYTES, "BYTES", *ODD_TYPES)))
    changes: dict[str, Any] = {"datatype": datatype}
    if draw(st.booleans()) and tensor.n_items * ITEM_BYTES.get(datatype, 8) <= MOST_BYTES:
        changes["data"] = fill(datatype, tensor.n_items, rng)
    return ask.with_tensor(place, **changes)


def _rank(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    place = _place(draw, ask)
    if place is None:
        return ask
    shape = list(ask.tensors[place].shape)
    at = draw(st.integers(0, len(shape)))
    how = draw(st.sampled_from(("one more", "one less", "none", "flat", "many")))
    if how == "one more":
        shape.insert(at, 1)
    elif how == "one less" and shape:
        shape.pop(at - 1)
    elif how == "flat":
        shape = [ask.tensors[place].n_items]
    else:
        shape = [] if how == "none" else [*shape, *[1] * draw(st.sampled_from((7, 40, 1000)))]
    return ask.with_tensor(place, **_resized(ask.tensors[place], tuple(shape), rng))


def _size(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Change a size together with the data, so that the request reaches the backend."""
    place = _place(draw, ask)
    if place is None or not ask.tensors[place].shape:
        return ask
    shape = list(ask.tensors[place].shape)
    at = draw(st.integers(0, len(shape) - 1))
    shape[at] = draw(st.sampled_from((0, 1, 2, 3, shape[at] + 1, max(0, shape[at] - 1), 5, 17, 65)))
    return ask.with_tensor(place, **_resized(ask.tensors[place], tuple(shape), rng))


def _batch(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Change the number of rows of all or some inputs."""
    rows = draw(st.sampled_from((2, 3, 17, 33, 65)))
    for place, tensor in enumerate(ask.tensors):
        if tensor.shape and draw(st.integers(0, 3)):
            ask = ask.with_tensor(place, **_resized(tensor, (rows, *tensor.shape[1:]), rng))
    return ask


def _dims(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Set impossible sizes without changing the data."""
    place = _place(draw, ask)
    if place is None or not ask.tensors[place].shape:
        return ask
    shape = list(ask.tensors[place].shape)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(shape) - 1))
        shape[at] = draw(st.sampled_from((0, -1, -2, -(1 << 63), *HUGE)))
    return ask.with_tensor(place, shape=tuple(shape))


def _bytes(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    place = _place(draw, ask)
    if place is None:
        return ask
    data = ask.tensors[place].data
    cut = draw(st.integers(0, max(0, min(len(data), 64))))
    more = rng.bytes(draw(st.sampled_from((1, 3, 4, 8, 4096))))
    spoiled = draw(st.sampled_from((data[: len(data) - cut], b"", data + more, data[cut:], more)))
    return ask.with_tensor(place, data=spoiled)


def _values(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Set unusual numbers of the right type: NaN, infinity, denormals, extremes."""
    place = _place(draw, ask)
    if place is None:
        return ask
    tensor = ask.tensors[place]
    size = ITEM_BYTES.get(tensor.datatype)
    if size is None or not tensor.data:
        return _words(draw, ask, rng)
    if tensor.datatype in ("FP32", "FP64"):
        value = struct.pack("<f" if size == 4 else "<d", draw(st.sampled_from(ODD_FLOATS)))
    else:
        value = draw(
            st.sampled_from((b"\xff" * size, b"\x80" * size, b"\x00" * (size - 1) + b"\x80", b"\x7f" * size))
            | st.integers(-3, 300).map(lambda n: n.to_bytes(8, "little", signed=True)[:size])
        )
    n_items = len(tensor.data) // size
    if n_items == 0 or draw(st.booleans()):
        return ask.with_tensor(place, data=value * n_items)
    spoiled = bytearray(tensor.data)
    for at in rng.integers(0, n_items, draw(st.integers(1, 3))).tolist():
        spoiled[at * size : (at + 1) * size] = value
    return ask.with_tensor(place, data=bytes(spoiled))


def _noise(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Set random bits in most tensors."""
    for place, tensor in enumerate(ask.tensors):
        if draw(st.integers(0, 3)):
            ask = ask.with_tensor(place, data=rng.bytes(len(tensor.data)))
    return ask


def _text_places(ask: FuzzRequest) -> list[int]:
    return [place for place, tensor in enumerate(ask.tensors) if tensor.datatype == "BYTES"]


def _lengths(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Add text with a wrong length."""
    places = _text_places(ask)
    if not places:
        return _bytes(draw, ask, rng)
    place = draw(st.sampled_from(places))
    length = draw(st.sampled_from((0, 1, 3, 5, 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC)))
    text = draw(st.sampled_from((b"", b"a", b"abcd", b"\x00" * 8)))
    data = length.to_bytes(4, "little") + text
    if draw(st.booleans()):
        data = ask.tensors[place].data + data
    return ask.with_tensor(place, data=data)


def _words(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Set unusual text: not UTF-8, empty, very long, with control characters."""
    places = _text_places(ask)
    if not places:
        return _noise(draw, ask, rng)
    place = draw(st.sampled_from(places))
    odd = (
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\x00",
        b"",
        b"x" * 100_000,
        b"\xf4\x90\x80\x80",
        b"a\nb",
        b"track-1",
    )
    words = [draw(st.sampled_from(odd) | st.binary(max_size=12)) for _ in range(draw(st.integers(1, 3)))]
    tensor = ask.tensors[place]
    shape = (*tensor.shape[:-1], len(words)) if tensor.shape else (len(words),)
    return ask.with_tensor(place, shape=shape, data=b"".join(struct.pack("<I", len(each)) + each for each in words))


def _names(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    """Remove, repeat, rename, add or reorder inputs."""
    place = _place(draw, ask)
    if place is None:
        return ask
    tensors = list(ask.tensors)
    how = draw(st.sampled_from(("missing", "twice", "renamed", "unknown", "none", "many", "order")))
    other = draw(st.sampled_from(("", "audio2", "AUDIO", "\x00", "k" * 3000, "../audio", "é", "INPUT__0")))
    if how == "missing":
        del tensors[place]
    elif how == "twice":
        tensors.insert(draw(st.integers(0, len(tensors))), tensors[place])
    elif how == "renamed":
        tensors[place] = replace(tensors[place], name=other)
    elif how == "unknown":
        tensors.append(RequestTensor(other, "FP32", (1, 1), bytes(4)))
    elif how == "many":
        tensors += [RequestTensor(f"x{number}", "INT8", (1,), b"\x00") for number in range(500)]
    else:
        tensors = [] if how == "none" else tensors[::-1]
    return replace(ask, tensors=tuple(tensors))


def _outputs(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    names = st.sampled_from(("mood", "", "\x00", "embedding", "scores", "frames", "item_ids", "o" * 5000, "../x", "é"))
    given = st.dictionaries(
        st.sampled_from(("classification", "binary_data", "shared_memory_region", "shared_memory_byte_size", "x")),
        st.sampled_from(ODD_NUMBERS),
        max_size=2,
    )
    outputs = draw(st.lists(st.tuples(names, given), min_size=1, max_size=3))
    return replace(ask, outputs=tuple(outputs))


def _parameters(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    names = st.sampled_from(
        (
            *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"),
            *("binary_data_size", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"),
            *("triton_enable_empty_final_response", "headers", "x", "", "é", "triton_x", "\x00"),
        )
    )
    values = st.sampled_from((*ODD_NUMBERS, *ODD_TEXT)) | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats()
    return replace(ask, parameters=draw(st.dictionaries(names, values, min_size=1, max_size=4)))


def _id(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    return replace(ask, id=draw(st.sampled_from(ODD_TEXT) | st.binary(min_size=1, max_size=8)))


def _model(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    return replace(ask, model=draw(st.sampled_from(PATHS) | st.text(max_size=12)))


def _version(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    return replace(ask, version=draw(st.sampled_from(VERSIONS) | st.integers(-(1 << 63), 1 << 63).map(str)))


def _contents(draw: Draw, ask: FuzzRequest, rng: np.random.Generator) -> FuzzRequest:
    return replace(ask, contents=draw(st.sampled_from(("typed", "both", "fewer", "more"))))


MUTATIONS: Mapping[str, Mutation] = {
    "datatype": _datatype,
    "rank": _rank,
    "size": _size,
    "rows": _batch,
    "impossible size": _dims,
    "bytes": _bytes,
    "values": _values,
    "any bits": _noise,
    "text's lengths": _lengths,
    "text": _words,
    "inputs": _names,
    "outputs": _outputs,
    "parameters": _parameters,
    "request id": _id,
    "model name": _model,
    "version": _version,
    "contents": _contents,
}
VALID = "valid"
OPTIONS = "options"
CLASSES = "classes"
SEVERAL = "several at once"


@st.composite
def mutated_requests(draw: Draw, configs: Mapping[str, Any]) -> tuple[str, FuzzRequest]:
    """Return the kind of mutation and the request."""
    config = configs[draw(st.sampled_from(sorted(configs)))]
    rng = np.random.default_rng(draw(st.integers(0, (1 << 32) - 1)))
    ask = valid_request(config, rng)
    kind = draw(st.sampled_from((VALID, SEVERAL, SEVERAL, OPTIONS, OPTIONS, OPTIONS, CLASSES, *MUTATIONS)))
    if kind == VALID:
        return kind, ask
    outputs = [each.name for each in config.output]
    if kind == CLASSES and outputs:
        count = draw(st.sampled_from(CLASS_COUNTS))
        return kind, replace(ask, outputs=((draw(st.sampled_from(outputs)), {"classification": count}),))
    if kind in (OPTIONS, CLASSES):
        return kind, add_options(draw, ask, outputs)
    offered = optional_tensors(config, rng)
    if offered:
        known = {tensor.name for tensor in ask.tensors}
        chosen = draw(st.lists(st.sampled_from(offered), max_size=4, unique_by=lambda tensor: tensor.name))
        ask = replace(ask, tensors=(*ask.tensors, *(each for each in chosen if each.name not in known)))
    if kind != SEVERAL:
        return kind, MUTATIONS[kind](draw, ask, rng)
    for each in draw(st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=2, max_size=3, unique=True)):
        ask = MUTATIONS[each](draw, ask, rng)
    return kind, add_options(draw, ask, outputs) if draw(st.booleans()) else ask
