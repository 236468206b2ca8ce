"""Names, types and axes of the exported model against the declaration, by the native backend's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tritone_export._exceptions import (
    DTypeMismatchError,
    NameMismatchError,
    RankMismatchError,
    ShapeMismatchError,
    StaticAxisError,
)
from tritone_export.dtypes import DTYPES
from tritone_training.declaration import BATCH

if TYPE_CHECKING:
    from tritone_training.declaration import Declaration, Tensor


def check_signature(session: Any, declaration: Declaration) -> None:
    """Hold what an ONNX Runtime session says of its tensors against the declaration.

    Args:
        session: an `onnxruntime.InferenceSession`.
        declaration: what it has to be.

    Raises:
        NameMismatchError, DTypeMismatchError, RankMismatchError, StaticAxisError, ShapeMismatchError: at
            the first difference.
    """
    _check_side("input", session.get_inputs(), declaration.inputs)
    _check_side("output", session.get_outputs(), declaration.outputs)


def check_names(side: str, found: Sequence[str], declared: Sequence[str], *, where: str) -> None:
    """Compare names as sets.

    Raises:
        NameMismatchError: with what is missing and what is too many.
    """
    missing = [name for name in declared if name not in found]
    extra = [name for name in found if name not in declared]
    if missing or extra:
        raise NameMismatchError(
            f"{where}: {side}s are {list(found)}; declared are {list(declared)}"
            f" (missing: {missing or 'none'}, not declared: {extra or 'none'})",
            tensor=(missing or extra)[0],
        )


def _check_side(side: str, values: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    check_names(side, [value.name for value in values], [tensor.name for tensor in tensors], where="the ONNX model")
    by_name = {value.name: value for value in values}
    for tensor in tensors:
        value = by_name[tensor.name]
        expected = DTYPES[tensor.dtype].onnxruntime
        if value.type != expected:
            raise DTypeMismatchError(
                f"{side} {tensor.name!r} is {value.type} in the ONNX model; declared is {tensor.dtype} ({expected})",
                tensor=tensor.name,
            )
        _check_axes(side, tensor, list(value.shape))


def _check_axes(side: str, tensor: Tensor, shape: list[int | str | None]) -> None:
    words = [BATCH, *(axis.name for axis in tensor.axes)]
    if len(shape) != len(words):
        raise RankMismatchError(
            f"{side} {tensor.name!r} has {len(shape)} axes {shape} in the ONNX model; declared are "
            f"{len(words)}: {', '.join(words)}",
            tensor=tensor.name,
        )
    sizes = [None, *(axis.size for axis in tensor.axes)]
    for word, declared, found in zip(words, sizes, shape, strict=True):
        is_free = not isinstance(found, int)
        if declared is None and not is_free:
            raise StaticAxisError(
                f"axis {word!r} of {side} {tensor.name!r} is frozen at {found}; it must stay free: look for "
                "a size "
                "that the network takes from its example as a plain number (reshape(2, ...), a loop over a "
                "shape)",
                tensor=tensor.name,
                axis=word,
            )
        # An input may leave a declared axis free; the native backend compares outputs exactly.
        if declared is not None and found != declared and not (side == "input" and is_free):
            raise ShapeMismatchError(
                f"axis {word!r} of {side} {tensor.name!r} has size {found} in the ONNX model; declared is {declared}",
                tensor=tensor.name,
            )
