"""Subgraphs of `Scan`, `Loop` and `If` in exported ONNX models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

# Operators whose constant second input ONNX Runtime rearranges once, when a session is opened.
_PREPACKED: Final = frozenset({"Conv", "Gemm", "MatMul"})


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Return the subgraphs of a node, such as the body of a `Scan`."""
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Return a graph and the subgraphs of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from all_graphs(body)


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph, in place; some of the new ones may be its own."""
    import onnx

    # A node cannot be used any more once it is deleted from its graph.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def move_weights(graph: onnx.GraphProto) -> None:
    """Move the weights of matrix products into the subgraphs that read them, in place.

    ONNX Runtime rearranges weights for its matrix products only in the graph that holds them; a loop would repeat this
    work in every step. Weights that several subgraphs read are copied.
    """
    held = {tensor.name: tensor for tensor in graph.initializer}
    moved: set[str] = set()
    for node in graph.node:
        for body in subgraphs(node):
            own = {value.name for value in (*body.input, *body.initializer)} | {
                name for each in body.node for name in each.output
            }
            for name in sorted((_weights(body) & held.keys()) - own):
                body.initializer.add().CopyFrom(held[name])
                moved.add(name)
            move_weights(body)
    outputs = {value.name for value in graph.output}
    for name in moved - _read(graph) - outputs:
        graph.initializer.remove(held[name])


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the second inputs of matrix products, at any depth."""
    return {
        node.input[1]
        for each in all_graphs(graph)
        for node in each.node
        if node.op_type in _PREPACKED and len(node.input) > 1
    }


def _read(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph's nodes read, except what subgraphs hold themselves."""
    names = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for body in subgraphs(node):
            names |= _read(body) - {tensor.name for tensor in body.initializer}
            names |= {value.name for value in body.output}
    return names
