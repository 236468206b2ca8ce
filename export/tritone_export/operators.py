"""ONNX forms of the project's own PyTorch operators, for which the exporter has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the functions that translate each operator, as `torch.onnx.export` takes them."""
    import torch

    import tritone_training.generation  # noqa: F401 - registers the operators

    own: Any = torch.ops.tritone
    return {own.least_kept.default: _least_kept}


def _least_kept(shares: Any, reach: Any, floor: Any, most: Any) -> Any:
    """See `tritone_training.generation.least_kept`; the number of ranked choices depends on the data."""
    import onnx
    from onnxscript import opset20

    op: Any = opset20  # its types do not fit values whose type is not known
    probable = op.Cast(op.GreaterOrEqual(shares, floor), to=onnx.TensorProto.INT64)
    axis = op.Constant(value_ints=[1])
    n_each = op.Min(op.ReduceSum(probable, axis, keepdims=1), most)
    n_ranked = op.ReduceMax(n_each, op.Constant(value_ints=[0]), keepdims=0)
    ranked, _ = op.TopK(shares, n_ranked, axis=1)
    before = op.CumSum(ranked, op.Constant(value_int=1), exclusive=1)
    kept = op.Less(before, op.Slice(reach, op.Constant(value_ints=[0]), n_ranked, axis))
    return op.ReduceMin(op.Where(kept, ranked, op.Constant(value_float=float("inf"))), axis, keepdims=1)
