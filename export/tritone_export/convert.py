"""Convert a PyTorch network to an ONNX model that holds its weights, with the declared names of tensors and axes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritone_export._exceptions import ModelTooLargeError, translating
from tritone_export.comparisons import widen_comparisons
from tritone_export.operators import translations
from tritone_export.subgraphs import all_graphs, move_weights
from tritone_training.declaration import BATCH

if TYPE_CHECKING:
    import onnx
    import torch

    from tritone_training.declaration import Declaration, Tensor

OPSET: Final = 20
# ONNX Runtime 1.19 of Triton's 24.10 container reads IR versions up to 10.
MAX_IR_VERSION: Final = 10
MAX_N_BYTES: Final = 2**31 - 2**20  # the 2 GiB limit of protobuf, less space for the graph itself


def to_onnx(
    network: torch.nn.Module, declaration: Declaration, example: Mapping[str, npt.NDArray[np.generic]]
) -> onnx.ModelProto:
    """Convert a network.

    Args:
        network: network in eval mode that returns a tuple in the order of the declared outputs.
        declaration: declares the names of the tensors and their axes.
        example: inputs by name, with a batch size of at least two, because torch.export treats an axis of size one as
            constant.

    Returns:
        a checked model with the declared names of tensors and axes.

    Raises:
        ModelTooLargeError: the weights do not fit into one file.
        ConversionError: PyTorch's exporter or the ONNX checker rejected the network.
    """
    import onnx
    import torch

    check_size(network)
    with translating("converting the network to ONNX"), _quiet(), _loops_within_loops():
        program: Any = torch.onnx.export(
            network,
            tuple(torch.from_numpy(np.ascontiguousarray(example[tensor.name])) for tensor in declaration.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in declaration.inputs],
            output_names=[tensor.name for tensor in declaration.outputs],
            dynamic_shapes=_dynamic_shapes(declaration),
            external_data=False,
            verbose=False,
            custom_translation_table=translations(),
        )
        model: onnx.ModelProto = program.model_proto
    _strip_traces(model)
    widen_comparisons(model.graph)
    move_weights(model.graph)
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    set_axes(model, declaration)
    for tensor in declaration.outputs:
        free_axis(model, tensor)
    with translating("checking the ONNX file"):
        onnx.checker.check_model(model, full_check=True)
    return model


def check_size(network: torch.nn.Module) -> None:
    """Check that the weights fit into one ONNX file; the conversion takes minutes before it would fail.

    Raises:
        ModelTooLargeError: the weights do not fit.
    """
    n_bytes = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if n_bytes > MAX_N_BYTES:
        raise ModelTooLargeError(
            f"the weights are too large for one ONNX file: expected less than 2 GiB, got {n_bytes / 2**30:.2f} GiB; "
            f"use a smaller preset or half precision"
        )


def add_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Add metadata to an ONNX model, sorted by key so that equal models give equal files."""
    from onnx import helper

    helper.set_model_props(model, {key: str(metadata[key]) for key in sorted(metadata)})


def _dynamic_shapes(declaration: Declaration) -> tuple[dict[int, Any], ...]:
    # AUTO instead of a named Dim: if the network fixes the size of an axis, PyTorch's own error does not name the
    # tensor; with AUTO the export succeeds and the signature check reports tensor and axis.
    from torch.export import Dim

    return tuple(
        {0: Dim.AUTO} | {i: Dim.AUTO for i, axis in enumerate(tensor.axes, start=1) if axis.size is None}
        for tensor in declaration.inputs
    )


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which contain local paths and can be larger than the graph."""
    for graph in all_graphs(model.graph):
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.doc_string = ""
            del item.metadata_props[:]
    for function in model.functions:
        for item in (function, *function.node, *function.value_info):
            item.doc_string = ""
            del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output and warnings of the exporter; the result is checked afterwards."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


@contextlib.contextmanager
def _loops_within_loops() -> Iterator[None]:
    """Let torch 2.13 convert a while_loop inside two nested scans.

    The exporter sets the version of ONNX's own operators on the call of a while_loop's condition, but on no other call
    of a subgraph, and then refuses to inline subgraphs, because their domain has two versions. No issue reports this.
    The conversion came with https://github.com/pytorch/pytorch/pull/162645; how subgraphs become functions is described
    in https://github.com/pytorch/pytorch/issues/140995. This patches a private function, hence the upper bound of torch
    in pyproject.toml.
    """
    from torch.onnx._internal.exporter import _constants
    from torch.onnx._internal.exporter._torchlib.ops import hop

    call_op: Any = hop.call_op

    def call_op_without_version(op_type: str, *args: Any, _domain: str = "", **kwargs: Any) -> Any:
        outputs = call_op(op_type, *args, _domain=_domain, **kwargs)
        if _domain == _constants.LOCAL_FUNCTION_DOMAIN:
            outputs[0].producer().version = None
        return outputs

    hop.call_op = call_op_without_version
    try:
        yield
    finally:
        hop.call_op = call_op


def set_axes(model: onnx.ModelProto, declaration: Declaration) -> None:
    """Give the symbolic axes of inputs and outputs their declared names, in place.

    On outputs, a declared size replaces an unknown one; the parity check compares every output with it.
    """
    words: dict[str, str] = {}
    declared = {tensor.name: tensor for tensor in (*declaration.inputs, *declaration.outputs)}
    outputs = {tensor.name for tensor in declaration.outputs}
    for value in (*model.graph.input, *model.graph.output):
        tensor = declared.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if tensor is None or len(dims) != 1 + len(tensor.axes):
            continue  # the signature check reports it in more detail
        for dim, (word, size) in zip(dims, _words(tensor), strict=True):
            if dim.HasField("dim_value"):
                continue
            if size is not None and value.name in outputs:
                dim.dim_value = size
            elif dim.dim_param:
                words.setdefault(dim.dim_param, word)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in words:
                dim.dim_param = words[dim.dim_param]


def free_axis(model: onnx.ModelProto, tensor: Tensor) -> None:
    """Hide the size of an output's last axis from shape inference if it is declared without a size, in place.

    Slices the output up to max(batch size, width), which returns all values but prevents inference of the size.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    value = next((value for value in graph.output if value.name == tensor.name), None)
    if value is None or not tensor.axes or tensor.axes[-1].size is not None:
        return
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 1 + len(tensor.axes) or not dims[-1].HasField("dim_value"):
        return
    last, width = len(dims) - 1, dims[-1].dim_value
    whole = f"{tensor.name}.whole"
    for node in graph.node:
        node.output[:] = [whole if name == tensor.name else name for name in node.output]
        node.input[:] = [whole if name == tensor.name else name for name in node.input]
    constants = {"start": 0, "axis": last, "width": width}
    for word, number in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), f"{tensor.name}.{word}"))
    names = {word: f"{tensor.name}.{word}" for word in (*constants, "n_batch", "end")}
    graph.node.extend(
        (
            helper.make_node("Shape", [whole], [names["n_batch"]], start=0, end=1),
            helper.make_node("Max", [names["n_batch"], names["width"]], [names["end"]]),
            helper.make_node("Slice", [whole, names["start"], names["end"], names["axis"]], [tensor.name]),
        )
    )
    dims[-1].Clear()
    dims[-1].dim_param = tensor.axes[-1].name


def _words(tensor: Tensor) -> list[tuple[str, int | None]]:
    return [(BATCH, None), *((axis.name, axis.size) for axis in tensor.axes)]
