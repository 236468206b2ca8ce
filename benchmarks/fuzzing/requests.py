"""Requests as data: valid ones are built from a model's configuration, like canaries, and then mutated.

`over_http` and `over_grpc` send them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype

from tritone_serving.calls import Array
from tritone_serving.canary import FEW, make_inputs

MOST_BYTES = 1 << 21  # of one tensor, to bound the traffic
ITEM_BYTES = {
    **{"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2},
    **{"INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8},
}
WORDS = (b"track-1", b"track-4", b"piece/3", b"tension", b"nobody", b"\xc3\x96rtchen", b"")


@dataclass(frozen=True)
class RequestTensor:
    """One input as sent; `shape`, `data` and `datatype` need not agree."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """Number of items by the shape, as an unbounded integer."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FuzzRequest:
    """One inference request.

    Attributes:
        outputs: requested outputs, each with its parameters; empty for all.
        contents: how gRPC carries the data: `raw`, `typed`, `both`, or `fewer` or `more` raw contents than tensors.
    """

    model: str
    tensors: tuple[RequestTensor, ...]
    decoupled: bool = False
    version: str = ""
    id: str | bytes = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[tuple[str, dict[str, Any]], ...] = ()
    contents: str = "raw"

    def with_tensor(self, place: int, **changes: Any) -> FuzzRequest:
        """Return the request with one tensor changed."""
        tensors = list(self.tensors)
        tensors[place] = replace(tensors[place], **changes)
        return replace(self, tensors=tuple(tensors))


def packed(array: Array) -> bytes:
    """Return the bytes of an array as sent; each text follows its length in four bytes."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(each).to_bytes(4, "little") + each for each in array.ravel().tolist())


def fill(datatype: str, n_items: int, rng: np.random.Generator) -> bytes:
    """Return random items of a type; none if the number is negative."""
    n_items = max(0, n_items)
    if datatype == "BYTES":
        words = [WORDS[each] for each in rng.integers(0, len(WORDS), n_items)]
        return b"".join(len(each).to_bytes(4, "little") + each for each in words)
    return rng.bytes(n_items * ITEM_BYTES.get(datatype, 1))


def valid_inputs(config: Any, rng: np.random.Generator) -> dict[str, Array]:
    """Return the inputs of a canary, determined by the generator."""
    inputs = {}
    for name, array in make_inputs(config).items():
        if array.size >= FEW and array.dtype.kind == "f":
            inputs[name] = rng.random(array.shape, np.float32).astype(array.dtype)
        elif array.size >= FEW and array.dtype.kind in "iu":
            inputs[name] = rng.integers(0, 2, array.shape).astype(array.dtype)
        else:
            inputs[name] = array
    return inputs


def valid_request(config: Any, rng: np.random.Generator) -> FuzzRequest:
    """Return a valid request, which the model must answer."""
    tensors = [
        RequestTensor(name, np_to_triton_dtype(array.dtype), array.shape, packed(array))
        for name, array in valid_inputs(config, rng).items()
    ]
    return FuzzRequest(config.name, tuple(tensors), decoupled=config.model_transaction_policy.decoupled)


def optional_tensors(config: Any, rng: np.random.Generator) -> list[RequestTensor]:
    """Return each optional input with one row of random values; a model may reject combinations of them."""
    tensors = []
    for each in config.input:
        if not each.optional:
            continue
        shape = (1, *(int(rng.integers(0, 4)) if size == -1 else size for size in each.dims))
        number = each.data_type
        datatype = _DATATYPES[number] if number < len(_DATATYPES) else "FP32"
        tensors.append(RequestTensor(each.name, datatype, shape, fill(datatype, math.prod(shape), rng)))
    return tensors


# By number in Triton's model_config.proto.
_DATATYPES = (
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16"),
)
