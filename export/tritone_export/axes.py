"""The axes of the exported graph: named by the declaration's words, and free where the declaration says so.

An output whose size differs between trained versions (`Axis("label")`) is `-1` in the committed
config.pbtxt. NVIDIA's native backend holds a config's *output* dimensions against the session's and accepts
no `-1` for a fixed size (`CompareDimsSupported(..., compare_exact=true)` in
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc), and ONNX
Runtime infers sizes by itself, whatever the file says. So the graph gets three tiny nodes that keep such an
axis unknown until it runs, and one config serves every trained set of labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritone_training.declaration import BATCH

if TYPE_CHECKING:
    import onnx

    from tritone_training.declaration import Declaration, Tensor


def set_axes(model: onnx.ModelProto, declaration: Declaration) -> None:
    """Name symbolic axes of inputs and outputs by the declared words, in place.

    A declared size replaces an unknown one on outputs; parity holds every answer against it.
    """
    words: dict[str, str] = {}
    declared = {tensor.name: tensor for tensor in (*declaration.inputs, *declaration.outputs)}
    outputs = {tensor.name for tensor in declaration.outputs}
    for value in (*model.graph.input, *model.graph.output):
        tensor = declared.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if tensor is None or len(dims) != 1 + len(tensor.axes):
            continue  # the signature check says so, better than here
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
    """Keep the last axis of an output unknown to shape inference if it is declared without a size, in place.

    The output is sliced up to max(its batch size, its width): always all of it, but no optimiser can know.
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
