"""Comparisons of bytes in exported ONNX models.

ONNX Runtime compares bytes (uint8) since 1.21. NVIDIA's image of Triton 24.12 has 1.20, which refuses to load a graph
that does. Therefore bytes are compared as 32-bit integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tritone_export.subgraphs import replace_nodes, subgraphs

if TYPE_CHECKING:
    import onnx

_COMPARISONS: Final = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def widen_comparisons(graph: onnx.GraphProto, outer: Mapping[str, int] | None = None) -> None:
    """Compare bytes as 32-bit integers in a graph and in its subgraphs, in place.

    Args:
        graph: of a model; the types of its values come from its declarations, as the exporter writes them.
        outer: element types of the values of the graphs around it, by name.
    """
    import onnx
    from onnx import helper

    types = dict(outer or {})
    types |= {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            widen_comparisons(body, types)
        if node.op_type in _COMPARISONS and any(types.get(name) == onnx.TensorProto.UINT8 for name in node.input):
            wide = [f"{node.output[0]}.operand{index}" for index in range(len(node.input))]
            nodes += [
                helper.make_node("Cast", [name], [widened], to=onnx.TensorProto.INT32)
                for name, widened in zip(node.input, wide, strict=True)
            ]
            node.input[:] = wide
        nodes.append(node)
    if len(nodes) > len(graph.node):
        replace_nodes(graph, nodes)
