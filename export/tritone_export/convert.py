"""PyTorch to ONNX: one self-contained model under our names, without warnings, chatter or machine paths."""

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
from tritone_export.axes import free_axis, set_axes

if TYPE_CHECKING:
    import onnx
    import torch

    from tritone_training.declaration import Declaration

OPSET: Final = 20
# ONNX Runtime 1.19, which Triton's 24.10 container carries, reads nothing newer than IR version 10.
MAX_IR_VERSION: Final = 10
MAX_N_BYTES: Final = 2**31 - 2**20  # protobuf's 2 GiB, less room for the graph itself


def to_onnx(
    network: torch.nn.Module, declaration: Declaration, example: Mapping[str, npt.NDArray[np.generic]]
) -> onnx.ModelProto:
    """Convert a network.

    Args:
        network: in eval mode; answers a tuple in the order of the declared outputs.
        declaration: names the tensors and their axes.
        example: inputs by name, with a batch of at least two: torch.export takes an axis of size one for
            a constant.

    Returns:
        a checked model with the declared names, whose axes carry the declaration's words.

    Raises:
        ModelTooLargeError: the weights exceed one file.
        ConversionError: PyTorch's exporter or the ONNX checker refused.
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
        )
        model: onnx.ModelProto = program.model_proto
    _strip_traces(model)
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    set_axes(model, declaration)
    for tensor in declaration.outputs:
        free_axis(model, tensor)
    with translating("checking the ONNX file"):
        onnx.checker.check_model(model, full_check=True)
    return model


def check_size(network: torch.nn.Module) -> None:
    """Refuse weights that one file cannot hold, before minutes are spent on converting them.

    Raises:
        ModelTooLargeError: with the size and the limit.
    """
    n_bytes = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if n_bytes > MAX_N_BYTES:
        raise ModelTooLargeError(
            f"the weights take {n_bytes / 2**30:.2f} GiB; a version is one ONNX file and holds less than 2 "
            "GiB; "
            f"use a smaller preset or half precision"
        )


def add_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Put short strings into the ONNX file's own metadata, sorted so that equal models give equal files."""
    from onnx import helper

    helper.set_model_props(model, {key: str(metadata[key]) for key in sorted(metadata)})


def _dynamic_shapes(declaration: Declaration) -> tuple[dict[int, Any], ...]:
    # AUTO rather than a named Dim: where the network freezes an axis, PyTorch's own error names only its
    # insides; so let it freeze, and let the signature check say which tensor and axis.
    from torch.export import Dim

    return tuple(
        {0: Dim.AUTO} | {i: Dim.AUTO for i, axis in enumerate(tensor.axes, start=1) if axis.size is None}
        for tensor in declaration.inputs
    )


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces: they show the author's paths and outweigh small graphs."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for function in model.functions:
        for item in (function, *function.node, *function.value_info):
            item.doc_string = ""
            del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose warnings concern its own insides; what matters is checked afterwards."""
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
    """Let torch 2.13 convert a while_loop that lies two scans deep.

    It marks its call of a while_loop's condition, alone of all calls of subgraphs, with the version of ONNX's own
    operators, and then refuses to inline subgraphs whose domain has two versions.
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
