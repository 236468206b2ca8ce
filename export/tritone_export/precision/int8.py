"""Whole numbers of eight bits for the products of a graph, by ONNX Runtime's quantiser."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy.typing as npt

from tritone_export._exceptions import PrecisionError, translating
from tritone_export.precision.graphs import front_end, name_nodes

if TYPE_CHECKING:
    import onnx

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


def to_int8(
    model: onnx.ModelProto,
    how: Literal["static", "dynamic"],
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]] = (),
) -> onnx.ModelProto:
    """Quantise weights per channel, and activations.

    Args:
        how: `static` writes quantise-dequantise pairs with the ranges that calibration shows; `dynamic` finds the
            ranges of each request.
        calibration: batches of real inputs, for `static`.

    Raises:
        PrecisionError: there is nothing to quantise, or nothing to calibrate with.
        ConversionError: the quantiser or the checker refused.
    """
    import onnx

    model = copy.deepcopy(model)
    name_nodes(model)
    kept = front_end(model)
    products = [node.name for node in model.graph.node if node.op_type in _PRODUCTS and node.name not in kept]
    if not products:
        raise PrecisionError("this graph has no products of learnt weights: int8 would change nothing")
    with translating("quantising the graph"), _quiet(), tempfile.TemporaryDirectory(prefix="tritone-int8-") as folder:
        quantised = _quantise(model, how, calibration, products, Path(folder))
        quantised.ir_version = model.ir_version
        _restore(quantised, model)
        onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _quantise(
    model: onnx.ModelProto,
    how: Literal["static", "dynamic"],
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]],
    products: list[str],
    folder: Path,
) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, written = folder / "prepared.onnx", folder / "int8.onnx"
    # Without its optimiser, which fuses nodes into ONNX Runtime's own, and without its symbolic shapes, which stop at
    # graphs whose sizes the exporter left open; those of ONNX itself are enough.
    quant_pre_process(model, str(prepared), skip_optimization=True, skip_symbolic_shape=True)
    shared: dict[str, Any] = {
        "op_types_to_quantize": list(_PRODUCTS),
        "nodes_to_quantize": products,
        "per_channel": True,
        "weight_type": QuantType.QInt8,
    }
    if how == "dynamic":
        quantize_dynamic(str(prepared), str(written), extra_options={"MatMulConstBOnly": True}, **shared)
        return onnx.load(str(written))
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise PrecisionError("there is nothing to calibrate int8 with: the training part holds no usable example")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the batches."""

        def __init__(self) -> None:
            self._next: Mapping[str, npt.NDArray[Any]] | None = first

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            batch, self._next = self._next, next(batches, None)
            return None if batch is None else dict(batch)

    quantize_static(
        str(prepared),
        str(written),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        extra_options={"MatMulConstBOnly": True},
        **shared,
    )
    return onnx.load(str(written))


def _restore(quantised: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Inputs, outputs and metadata as they were: shape inference may have put other words to their axes."""
    for mine, theirs in ((quantised.graph.input, model.graph.input), (quantised.graph.output, model.graph.output)):
        del mine[:]
        mine.extend(theirs)
    del quantised.graph.value_info[:]
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice, which it gives through the root logger."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
