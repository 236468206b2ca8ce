"""Compare an ONNX model with its declaration and with PyTorch: names, types, shapes, finiteness and values.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from tritone_export._exceptions import (
    DTypeMismatchError,
    NameMismatchError,
    NonFiniteError,
    RankMismatchError,
    ShapeMismatchError,
    StaticAxisError,
    ValueMismatchError,
    translating,
)
from tritone_export.dtypes import onnxruntime_type
from tritone_training.declaration import BATCH

if TYPE_CHECKING:
    import torch

    from tritone_training.declaration import Declaration, Tensor

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

# A single row, a size that is not a power of two, and one above the batch size of the export example.
BATCH_SIZES: Final = (1, 3, 16)


@dataclass(frozen=True)
class BatchParity:
    """Differences between ONNX Runtime and PyTorch at one batch size.

    Attributes:
        max_abs_difference: largest absolute difference by output name.
    """

    n_batch: int
    max_abs_difference: Mapping[str, float]


@dataclass(frozen=True)
class Parity:
    """Result of a parity check that passed.

    Attributes:
        tolerance: largest allowed absolute difference by output name.
    """

    batches: tuple[BatchParity, ...]
    tolerance: Mapping[str, float]

    @property
    def max_abs_difference(self) -> dict[str, float]:
        """Largest absolute difference over all batch sizes, by output name."""
        return {name: max(batch.max_abs_difference[name] for batch in self.batches) for name in self.tolerance}


def open_session(model: bytes | Path) -> Any:
    """Load a model into ONNX Runtime on the CPU.

    Args:
        model: a serialised model that holds its weights, or an ONNX file, whose weights may be beside it.

    Returns:
        an `onnxruntime.InferenceSession`.

    Raises:
        ConversionError: ONNX Runtime rejects the model.
    """
    import onnxruntime

    with translating("loading the ONNX model into ONNX Runtime"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # only errors, which are also raised as exceptions
        source = str(model) if isinstance(model, Path) else model
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check_parity(
    network: torch.nn.Module,
    session: Any,
    declaration: Declaration,
    example_inputs: Callable[[int, int], Arrays],
) -> Parity:
    """Run PyTorch and ONNX Runtime on the same inputs at several batch sizes and compare the outputs.

    Args:
        network: network in eval mode, on the CPU.
        session: from `open_session`.
        declaration: declares the tensors and the tolerance of each output.
        example_inputs: returns inputs by name for a batch size and a seed.

    Raises:
        ParityError: the outputs differ; the subclass tells in what.
    """
    sizes = [n for n in BATCH_SIZES if n <= declaration.serving.batching.max_batch_size]
    batches = []
    for n_batch in sizes:
        inputs = draw_inputs(declaration, example_inputs, n_batch)
        expected = run_network(network, declaration, inputs)
        with translating(f"running the ONNX model on a batch of {n_batch}"):
            outputs = session.run([tensor.name for tensor in declaration.outputs], dict(inputs))
        differences = {}
        for tensor, output in zip(declaration.outputs, outputs, strict=True):
            differences[tensor.name] = _compare(tensor, expected[tensor.name], output)
        batches.append(BatchParity(n_batch, differences))
    return Parity(tuple(batches), {tensor.name: tensor.tolerance for tensor in declaration.outputs})


def draw_inputs(declaration: Declaration, example_inputs: Callable[[int, int], Arrays], n_batch: int) -> Arrays:
    """Return example inputs, after checking them against the declaration.

    Raises:
        NameMismatchError, DTypeMismatchError, ShapeMismatchError: the inputs are not as declared.
    """
    inputs = example_inputs(n_batch, n_batch)
    check_names("input", list(inputs), [tensor.name for tensor in declaration.inputs], where="example_inputs")
    for tensor in declaration.inputs:
        _check_array("example_inputs", tensor, inputs[tensor.name], n_batch)
    return inputs


def run_network(network: torch.nn.Module, declaration: Declaration, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Run a network in PyTorch and check its outputs against the declaration.

    Returns:
        arrays by output name.

    Raises:
        NameMismatchError: the number of outputs differs from the declaration.
        DTypeMismatchError, ShapeMismatchError: an output is not as declared.
    """
    import torch

    tensors = [torch.from_numpy(np.ascontiguousarray(inputs[tensor.name])) for tensor in declaration.inputs]
    with translating("running the network in PyTorch"), torch.inference_mode():
        result = network(*tensors)
    returned: Sequence[Any] = result if isinstance(result, tuple | list) else (result,)
    names = [tensor.name for tensor in declaration.outputs]
    found = names[: len(returned)] + [f"output {i}" for i in range(len(names), len(returned))]
    check_names("output", found, names, where="the network")
    arrays = {name: value.detach().cpu().numpy() for name, value in zip(names, returned, strict=True)}
    n_batch = len(next(iter(inputs.values())))
    for tensor in declaration.outputs:
        _check_array("PyTorch", tensor, arrays[tensor.name], n_batch)
    return arrays


def _check_array(source: str, tensor: Tensor, array: npt.NDArray[Any], n_batch: int) -> None:
    if array.dtype != np.dtype(triton_to_np_dtype(tensor.dtype)):
        raise DTypeMismatchError(
            f"{source}: {tensor.name!r} has another type than declared: expected {tensor.dtype}, got {array.dtype}",
            tensor=tensor.name,
        )
    sizes = (n_batch, *(axis.size for axis in tensor.axes))
    fits = array.ndim == len(sizes) and all(
        size is None or size == found for size, found in zip(sizes, array.shape, strict=True)
    )
    if not fits:
        words = ", ".join(["batch", *(axis.name for axis in tensor.axes)])
        raise ShapeMismatchError(
            f"{source}: {tensor.name!r} has another shape than declared: expected {sizes} ({words}), got {array.shape}",
            tensor=tensor.name,
        )


def _compare(tensor: Tensor, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    """Return the largest absolute difference of one output; arrays of shape (B, ...)."""
    if actual.dtype != expected.dtype:
        raise DTypeMismatchError(
            f"output {tensor.name!r} of ONNX Runtime has another type than that of PyTorch: expected {expected.dtype}, "
            f"got {actual.dtype}",
            tensor=tensor.name,
        )
    if actual.shape != expected.shape:
        raise ShapeMismatchError(
            f"output {tensor.name!r} of ONNX Runtime has another shape than that of PyTorch: "
            f"expected {expected.shape}, got {actual.shape}",
            tensor=tensor.name,
        )
    if not expected.size:
        return 0.0
    _check_finite(tensor, expected, actual)
    # In float64, because a difference of unsigned integers wraps around and one in half precision is rounded.
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    index = tuple(int(i) for i in np.unravel_index(int(difference.argmax()), difference.shape))
    largest = float(difference[index])
    if largest > tensor.tolerance:
        raise ValueMismatchError(
            f"output {tensor.name!r} of ONNX Runtime differs from PyTorch by {largest:.3g}, more than the tolerance of "
            f"{tensor.tolerance:.3g}: expected {expected[index]:.6g}, got {actual[index]:.6g} at index {list(index)} "
            f"of a batch of {len(expected)}",
            tensor=tensor.name,
            n_batch=len(expected),
            max_abs_difference=largest,
            index=index,
            tolerance=tensor.tolerance,
        )
    return largest


def _check_finite(tensor: Tensor, expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> None:
    """Check that both outputs are finite; NaN in both would be equal, but it must not be served."""
    if expected.dtype.kind != "f":
        return
    bad = {"PyTorch": ~np.isfinite(expected), "ONNX Runtime": ~np.isfinite(actual)}
    sources = [source for source, mask in bad.items() if mask.any()]
    if not sources:
        return
    mask = bad[sources[0]]
    index = tuple(int(i) for i in np.argwhere(mask)[0])
    raise NonFiniteError(
        f"output {tensor.name!r} of {' and '.join(sources)} is not finite: expected finite values, got "
        f"{int(mask.sum())} that are NaN or infinite in a batch of {len(expected)}, the first at index {list(index)} "
        f"(PyTorch {expected[index]}, ONNX Runtime {actual[index]}); train again, or look for a division by zero or a "
        f"logarithm of zero in the network",
        tensor=tensor.name,
        source="both" if len(sources) == 2 else sources[0],
        index=index,
    )


def check_signature(session: Any, declaration: Declaration) -> None:
    """Check names, types and shapes of the tensors of an ONNX Runtime session against the declaration.

    Args:
        session: an `onnxruntime.InferenceSession`.
        declaration: declares the tensors.

    Raises:
        NameMismatchError, DTypeMismatchError, RankMismatchError, StaticAxisError, ShapeMismatchError: a tensor is not
            as declared; the first difference is reported.
    """
    _check_side("input", session.get_inputs(), declaration.inputs)
    _check_side("output", session.get_outputs(), declaration.outputs)


def check_names(side: str, found: Sequence[str], declared: Sequence[str], *, where: str) -> None:
    """Check that tensors have the declared names, in any order.

    Raises:
        NameMismatchError: a declared name is missing, or a name is not declared.
    """
    missing = [name for name in declared if name not in found]
    extra = [name for name in found if name not in declared]
    if missing or extra:
        raise NameMismatchError(
            f"{where}: {side}s are not as declared: expected {list(declared)}, got {list(found)} "
            f"(missing: {missing or 'none'}, not declared: {extra or 'none'})",
            tensor=(missing or extra)[0],
        )


def _check_side(side: str, values: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    check_names(side, [value.name for value in values], [tensor.name for tensor in tensors], where="the ONNX model")
    by_name = {value.name: value for value in values}
    for tensor in tensors:
        value = by_name[tensor.name]
        expected = onnxruntime_type(tensor.dtype)
        if value.type != expected:
            raise DTypeMismatchError(
                f"{side} {tensor.name!r} of the ONNX model has another type than declared: expected {expected} "
                f"({tensor.dtype}), got {value.type}",
                tensor=tensor.name,
            )
        _check_axes(side, tensor, list(value.shape))


def _check_axes(side: str, tensor: Tensor, shape: list[int | str | None]) -> None:
    words = [BATCH, *(axis.name for axis in tensor.axes)]
    if len(shape) != len(words):
        raise RankMismatchError(
            f"{side} {tensor.name!r} of the ONNX model has another number of axes than declared: expected {len(words)} "
            f"({', '.join(words)}), got {len(shape)} {shape}",
            tensor=tensor.name,
        )
    sizes = [None, *(axis.size for axis in tensor.axes)]
    for word, declared, found in zip(words, sizes, shape, strict=True):
        is_free = not isinstance(found, int)
        if declared is None and not is_free:
            raise StaticAxisError(
                f"axis {word!r} of {side} {tensor.name!r} has a fixed size in the ONNX model: expected a variable "
                f"size, got {found}; look for a size that the network takes from its example as a plain number "
                f"(reshape(2, ...), a loop over a shape)",
                tensor=tensor.name,
                axis=word,
            )
        # An input axis with a declared size may be variable in the graph; for outputs the native backend requires
        # equality.
        if declared is not None and found != declared and not (side == "input" and is_free):
            raise ShapeMismatchError(
                f"axis {word!r} of {side} {tensor.name!r} has another size in the ONNX model than declared: expected "
                f"{declared}, got {found}",
                tensor=tensor.name,
            )
