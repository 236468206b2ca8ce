"""Convert ONNX graphs to half precision (for GPUs) and to 8-bit integers (for CPUs)."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tritone_export._exceptions import PrecisionError, translating
from tritone_export.subgraphs import replace_nodes

if TYPE_CHECKING:
    import onnx

MAX_HALF: Final = 65504.0
# Operators that stay in single precision: sums, statistics, roots and exponentials lose accuracy and cost little.
_SINGLE: Final = frozenset(
    {
        "BatchNormalization", "CumSum", "Div", "Exp", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
        "LpNormalization", "Pow", "Reciprocal", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceSum",
        "ReduceSumSquare", "Softmax", "Softplus", "Sqrt",
    }
)  # fmt: skip
# Cheap operators, which take the precision of their neighbours.
_LIGHT: Final = frozenset(
    {
        "Abs", "Add", "Cast", "Concat", "Expand", "Flatten", "Identity", "Mul", "Neg", "Reshape", "Slice", "Split",
        "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a graph to half precision; its inputs and outputs keep their types.

    Raises:
        PrecisionError: a weight exceeds the range of half precision, or no node would be converted.
        ConversionError: the converter or the checker rejected the graph.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model, single = _parted(model)
    _check_range(model, single)
    with translating("converting the graph to half precision"):
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(single))
        _drop_repeated(half)
        _join_single(half)
        _sort(half)
        del half.graph.value_info[:]  # it describes tensors that no longer exist
        onnx.checker.check_model(half, full_check=True)
    return half


def as_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph in single precision that rounds to half precision wherever `to_half` computes in it.

    It is for measuring the effect of half precision on a CPU, where ONNX Runtime computes most nodes of a graph in half
    precision in 32 bits and removes the casts between them, so that neither rounding nor overflow would show. Explicit
    casts in a graph are kept. Sums within a product are in 32 bits, as on the tensor cores of a GPU.

    Args:
        model: graph in single precision, as for `to_half`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model, single = _parted(model)
    typed = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*typed.value_info, *typed.input, *typed.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    halves = [node for node in model.graph.node if node.name not in single]
    read = {name for node in halves for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))

    def rounding(name: str, into: str) -> list[Any]:
        return [
            helper.make_node("Cast", [name], [f"{into}.16"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [f"{into}.16"], [into], to=TensorProto.FLOAT),
        ]

    made = {name for node in halves for name in node.output}
    entering = sorted((read & floats) - made)  # outputs of nodes in single precision, and inputs of the graph
    nodes = {name: rounding(name, f"{name}.rounded") for name in entering}
    inputs = {value.name for value in model.graph.input}
    ordered = [each for name in entering if name in inputs for each in nodes[name]]
    for node in model.graph.node:
        ordered.append(node)
        if node.name in single:
            ordered += [each for name in node.output if name in nodes for each in nodes[name]]
            continue
        for index, name in enumerate(node.input):
            if name in nodes:
                node.input[index] = f"{name}.rounded"
        for index, name in enumerate(node.output):
            if name in floats:
                node.output[index] = f"{name}.exact"
                ordered += rounding(node.output[index], name)
    replace_nodes(model.graph, ordered)
    del model.graph.value_info[:]
    return model


def _parted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, set[str]]:
    """Return a copy of a graph with named nodes, and the names of the nodes that stay in single precision.

    Raises:
        PrecisionError: no node would be converted.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    model = copy.deepcopy(model)
    name_nodes(model)
    single = {
        node.name
        for node in model.graph.node
        if node.op_type in _SINGLE or node.op_type in DEFAULT_OP_BLOCK_LIST or node.domain not in ("", "ai.onnx")
    } | front_end(model)
    _keep_neighbours(model, single)
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") and node.name not in single for node in model.graph.node):
        raise PrecisionError(
            "fp16 would change nothing: expected at least one Conv, Gemm or MatMul that can be computed in half "
            "precision, got none; export in fp32"
        )
    _part_constants(model, single)
    return model, single


def _keep_neighbours(model: onnx.ModelProto, single: set[str]) -> None:
    """Keep cheap nodes in single precision if all nodes that read from them are, in place.

    Otherwise squares would overflow before they are summed, and outputs would be rounded before they are sliced.
    """
    read_by = readers(model.graph.node)
    made_by = {output: node for node in model.graph.node for output in node.output}
    graph_outputs = {output.name for output in model.graph.output}
    for node in reversed(model.graph.node):
        after = [reader.name for output in node.output for reader in read_by.get(output, ())]
        before = [made_by[name].name for name in node.input if name in made_by]
        is_output = not graph_outputs.isdisjoint(node.output)
        if node.op_type in _LIGHT and single.issuperset(after) and (not is_output or single.issuperset(before)):
            single.add(node.name)


def _part_constants(model: onnx.ModelProto, single: set[str]) -> None:
    """Copy constants that nodes of both precisions read, because the converter would round them for both."""
    from onnx import TensorProto

    constants = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    # The converter takes constants that are listed in value_info for converted.
    for value in [value for value in model.graph.value_info if value.name in constants]:
        model.graph.value_info.remove(value)
    read_by = readers(model.graph.node)
    for name, tensor in constants.items():
        readers_in_single = [node for node in read_by.get(name, ()) if node.name in single]
        if not readers_in_single or len(readers_in_single) == len(read_by[name]):
            continue
        own = model.graph.initializer.add()
        own.CopyFrom(tensor)
        own.name = f"{name}.single"
        for node in readers_in_single:
            for index, each in enumerate(node.input):
                if each == name:
                    node.input[index] = own.name


def _check_range(model: onnx.ModelProto, single: set[str]) -> None:
    from onnx import TensorProto, numpy_helper

    read_by = readers(model.graph.node)
    tensors = [
        (tensor.name, tensor)
        for tensor in model.graph.initializer
        if any(node.name not in single for node in read_by.get(tensor.name, ()))
    ]
    tensors += [
        (node.output[0], attribute.t)
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.HasField("t") and node.name not in single
    ]
    for name, tensor in tensors:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
        if largest > MAX_HALF:
            raise PrecisionError(
                f"{name!r} exceeds the range of half precision: expected values up to {MAX_HALF:.0f}, got "
                f"{largest:.6g}; train with more weight decay, or export in fp32"
            )


def _drop_repeated(model: onnx.ModelProto) -> None:
    """Remove repeated casts: the converter adds one of the same name for each node that reads a tensor."""
    made: set[str] = set()
    for node in list(model.graph.node):
        if node.output[0] in made:
            model.graph.node.remove(node)
        made.update(node.output)


def _join_single(model: onnx.ModelProto) -> None:
    """Replace pairs of casts from single to half precision and back by the original tensor."""
    from onnx import TensorProto

    inputs = {f"graph_input_cast{index}" for index in range(len(model.graph.input))}

    def is_cast(node: Any, to: int) -> bool:
        return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)

    # Only casts that the converter added: those of the network may convert integers.
    own = [node for node in model.graph.node if node.name.endswith("_cast_to_fp16_node") or node.name in inputs]
    halved = {node.output[0]: node.input[0] for node in own if is_cast(node, TensorProto.FLOAT16)}
    restored = {
        node.output[0]: halved[node.input[0]]
        for node in model.graph.node
        if is_cast(node, TensorProto.FLOAT) and node.input[0] in halved
    }
    graph_outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in restored:
                node.input[index] = restored[name]
    # An output of the graph keeps its name, so its cast becomes an Identity of the unrounded tensor.
    for node in model.graph.node:
        if is_cast(node, TensorProto.FLOAT) and node.output[0] in graph_outputs and node.input[0] in halved:
            node.input[0] = halved[node.input[0]]
            del node.attribute[:]
            node.op_type = "Identity"
    while True:
        read = {name for node in model.graph.node for name in node.input} | graph_outputs
        dead = [n for n in model.graph.node if n.op_type == "Cast" and not read.intersection(n.output)]
        if not dead:
            return
        for node in dead:
            model.graph.node.remove(node)


def _sort(model: onnx.ModelProto) -> None:
    """Sort nodes topologically; the converter appends its own at the end."""
    known = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer} | {""}
    waiting, ordered = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise PrecisionError("the converted graph has a cycle; export in fp32")
        ordered += ready
        known.update(output for node in ready for output in node.output)
        ids = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in ids]
    replace_nodes(model.graph, ordered)


# Nodes before a logarithm stay in single precision, because it amplifies small differences (the power in a spectrogram
# spans eight decades). They are front ends without learned weights.
_FRONT_END: Final = frozenset({"Log", "STFT", "DFT", "MelWeightMatrix"})
_LOOPS: Final = ("Scan", "Loop", "If")


def subgraph_names(model: onnx.ModelProto) -> list[str]:
    """Return the types of operators with subgraphs in a graph."""
    return sorted({node.op_type for node in model.graph.node if node.op_type in _LOOPS})


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a unique name, by which converters can skip it."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def front_end(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes of the front end: logarithms, spectrograms and all nodes that they depend on."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    waiting = [node for node in model.graph.node if node.op_type in _FRONT_END]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [made_by[name] for name in node.input if name in made_by]
    return found


def readers(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the nodes that read each tensor, by name of the tensor."""
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


def to_int8(
    model: onnx.ModelProto,
    how: Literal["static", "dynamic"],
    calibration: Iterable[Mapping[str, npt.NDArray[Any]]] = (),
) -> onnx.ModelProto:
    """Quantise weights (per channel) and activations to 8-bit integers.

    Args:
        how: `static` inserts quantise-dequantise pairs with ranges from calibration; `dynamic` computes the ranges
            for each request.
        calibration: batches of real inputs, for `static`.

    Raises:
        PrecisionError: there is no node to quantise, or no calibration data.
        ConversionError: the quantiser or the checker rejected the graph.
    """
    import onnx

    model = copy.deepcopy(model)
    name_nodes(model)
    kept = front_end(model)
    products = [node.name for node in model.graph.node if node.op_type in _PRODUCTS and node.name not in kept]
    if not products:
        raise PrecisionError(
            "int8 would change nothing: expected at least one Conv, Gemm or MatMul with learned weights, got none; "
            "export in fp32"
        )
    with (
        translating("quantising the graph"),
        _quiet_quantiser(),
        tempfile.TemporaryDirectory(prefix="tritone-int8-") as folder,
    ):
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
    # Without optimisation, which fuses nodes into ONNX Runtime's own operators, and without symbolic shape inference,
    # which fails on variable sizes; the shape inference of ONNX suffices.
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
        raise PrecisionError(
            "no calibration data for int8: expected at least one usable example in the training split, got none"
        )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Return the calibration batches one by one."""

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
    """Restore inputs, outputs and metadata, because shape inference may have renamed the axes."""
    for mine, theirs in ((quantised.graph.input, model.graph.input), (quantised.graph.output, model.graph.output)):
        del mine[:]
        mine.extend(theirs)
    del quantised.graph.value_info[:]
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version


@contextlib.contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Suppress the quantiser's warnings, which it writes to the root logger."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
