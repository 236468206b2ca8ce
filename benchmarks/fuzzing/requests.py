"""Requests as data: valid ones are made from a server's own configuration, as a canary's are; mutations spoil them.

Nothing here is sent; `over_http` and `over_grpc` know how.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype

from tritone_serving.calls import Array
from tritone_serving.canary import FEW, make_inputs

MOST_BYTES = 1 << 21  # of one tensor: the traffic is bounded
ITEM_BYTES = {
    **{"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2},
    **{"INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8},
}
WORDS = (b"track-1", b"track-4", b"piece/3", b"tension", b"nobody", b"\xc3\x96rtchen", b"")


@dataclass(frozen=True)
class RequestTensor:
    """One input as it goes over the wire; `shape` need not fit `data`, nor `data` the `datatype`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """What the shape says, in numbers without an end."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FuzzRequest:
    """One inference request.

    Attributes:
        outputs: names that are asked for, each with its parameters; none asks for all.
        contents: over gRPC, how data goes: `raw`, `typed`, `both`, or `fewer` and `more` raw than tensors.
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
        """The same with one tensor changed."""
        tensors = list(self.tensors)
        tensors[place] = replace(tensors[place], **changes)
        return replace(self, tensors=tuple(tensors))


def packed(array: Array) -> bytes:
    """An array's bytes on the wire; text with a length of four bytes before each."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(each).to_bytes(4, "little") + each for each in array.ravel().tolist())


def fill(datatype: str, n_items: int, rng: np.random.Generator) -> bytes:
    """So many items of a type: any bits, where a type allows any; none if the number is below 0."""
    n_items = max(0, n_items)
    if datatype == "BYTES":
        words = [WORDS[each] for each in rng.integers(0, len(WORDS), n_items)]
        return b"".join(len(each).to_bytes(4, "little") + each for each in words)
    return rng.bytes(n_items * ITEM_BYTES.get(datatype, 1))


def valid_inputs(config: Any, rng: np.random.Generator) -> dict[str, Array]:
    """A canary's inputs, from this generator alone, so that the same request can be made again."""
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
    """A request that the model has to answer; of its optional inputs, any that hold numbers or known words."""
    tensors = [
        RequestTensor(name, np_to_triton_dtype(array.dtype), array.shape, packed(array))
        for name, array in valid_inputs(config, rng).items()
    ]
    return FuzzRequest(config.name, tuple(tensors), decoupled=config.model_transaction_policy.decoupled)


def optional_tensors(config: Any, rng: np.random.Generator) -> list[RequestTensor]:
    """One of each optional input, with one row and what may be any; a model need not take them together."""
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
