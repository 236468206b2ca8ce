"""Inputs and outputs of a model, on which config.pbtxt and the ONNX file must agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tritone_ort_limits import RequestLimits, read_limits
from tritone_ort_session import SessionError

# ONNX Runtime's name of an element type -> Triton's name, and the NumPy type.
TYPES: dict[str, tuple[str, Any]] = {
    "tensor(bool)": ("TYPE_BOOL", np.bool_),
    "tensor(uint8)": ("TYPE_UINT8", np.uint8),
    "tensor(uint16)": ("TYPE_UINT16", np.uint16),
    "tensor(uint32)": ("TYPE_UINT32", np.uint32),
    "tensor(uint64)": ("TYPE_UINT64", np.uint64),
    "tensor(int8)": ("TYPE_INT8", np.int8),
    "tensor(int16)": ("TYPE_INT16", np.int16),
    "tensor(int32)": ("TYPE_INT32", np.int32),
    "tensor(int64)": ("TYPE_INT64", np.int64),
    "tensor(float16)": ("TYPE_FP16", np.float16),
    "tensor(float)": ("TYPE_FP32", np.float32),
    "tensor(double)": ("TYPE_FP64", np.float64),
    "tensor(string)": ("TYPE_STRING", np.object_),
}


@dataclass(frozen=True)
class Spec:
    """One tensor; `dims` is its whole shape in the backend, None for variable sizes."""

    name: str
    dtype: Any
    dims: tuple[int | None, ...]
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """The checks of a model's requests.

    Attributes:
        batched: every tensor's first axis is the batch, and requests may be joined along it.
        limits: sizes and values that requests may have; None if the config has none.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[str, ...]
    batched: bool
    limits: RequestLimits | None = None


def read_contract(config: dict[str, Any], session: Any, path: str) -> Contract:
    """Compare the config's tensors with the ONNX file's.

    Raises:
        SessionError: they differ; the message lists all differences.
    """
    batched = config["max_batch_size"] > 0
    problems: list[str] = []
    model_inputs = {node.name: node for node in session.get_inputs()}
    overridable = {node.name: node for node in session.get_overridable_initializers()}
    model_outputs = {node.name: node for node in session.get_outputs()}
    inputs = []
    for tensor in config["input"]:
        node = model_inputs.get(tensor["name"]) or overridable.get(tensor["name"])
        dims = _compared("input", tensor, node, there_are=sorted(model_inputs), batched=batched, problems=problems)
        if node is not None:
            optional = bool(tensor.get("optional")) or tensor["name"] in overridable
            inputs.append(Spec(node.name, TYPES[node.type][1] if node.type in TYPES else None, dims, optional))
    missing = sorted(set(model_inputs) - {tensor["name"] for tensor in config["input"]})
    if missing:
        problems.append(f"the config lacks input {', '.join(missing)}")
    for tensor in config["output"]:  # a config may leave outputs out, and then they are not computed
        node = model_outputs.get(tensor["name"])
        _compared("output", tensor, node, there_are=sorted(model_outputs), batched=batched, problems=problems)
    if problems:
        raise SessionError(f"config.pbtxt and {path} differ: {'; '.join(problems)}")
    limits = read_limits(config, session)
    return Contract(tuple(inputs), tuple(tensor["name"] for tensor in config["output"]), batched, limits)


def complete_config(config: Any, session: Any) -> Any:
    """Add the ONNX file's inputs and outputs to a config without any."""
    known = config.as_dict()
    for kind, nodes, add in (
        ("input", session.get_inputs(), config.add_input),
        ("output", session.get_outputs(), config.add_output),
    ):
        for node in nodes if not known[kind] else ():
            shape = [size if isinstance(size, int) else -1 for size in node.shape]
            if node.type not in TYPES:
                raise SessionError(f"{kind} {node.name} has type {node.type}, which Triton cannot carry")
            if known["max_batch_size"] > 0:
                shape = shape[1:]
            add({"name": node.name, "data_type": TYPES[node.type][0], "dims": shape})
    return config


def _compared(
    kind: str, tensor: dict[str, Any], node: Any, *, there_are: list[str], batched: bool, problems: list[str]
) -> tuple[int | None, ...]:
    """Compare one tensor, append the differences to `problems`, and return the shape that requests must have."""
    name = tensor["name"]
    if node is None:
        problems.append(f"the model has no {kind} {name} (it has {', '.join(there_are)})")
        return ()
    wanted = TYPES.get(node.type, (f"{node.type}, which Triton cannot carry", None))[0]
    if tensor["data_type"] != wanted:
        problems.append(f"{kind} {name} is {tensor['data_type']} in the config and {wanted} in the model")
    reshape = tensor.get("reshape")
    dims = [int(size) for size in (reshape["shape"] if reshape else tensor["dims"])]
    said = ([-1] if batched else []) + dims
    # A symbolic size is a word in ONNX: any number fits.
    model = [size if isinstance(size, int) and size >= 0 else None for size in node.shape]
    # -1 in the config promises any size, which a fixed size in the model breaks.
    fits = len(said) == len(model) and all(m is None or s == m for s, m in zip(said, model, strict=True))
    if not fits and batched and model and model[0] is not None and said[1:] == model[1:]:
        problems.append(f"{kind} {name} has a fixed batch of {model[0]} in the model, and max_batch_size asks for any")
    elif not fits:
        problems.append(
            f"{kind} {name} has shape {_shown(said)} in the config{' (batch first)' if batched else ''} "
            f"and {_shown(model)} in the model"
        )
    return tuple(None if size < 0 else size for size in said)


def _shown(dims: Any) -> str:
    return "[" + ", ".join("any" if size in (None, -1) else str(size) for size in dims) + "]"
