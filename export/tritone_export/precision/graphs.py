"""What both ways to reduce a graph have to know of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import onnx

# A logarithm makes much of little: what leads to one (a spectrogram's power over eight decades) keeps its precision.
# All of these are front ends; nothing that is learnt comes before them.
_FRONT_END: Final = frozenset({"Log", "STFT", "DFT", "MelWeightMatrix"})
_LOOPS: Final = ("Scan", "Loop", "If")


def subgraph_names(model: onnx.ModelProto) -> list[str]:
    """Which operators with graphs of their own there are."""
    return sorted({node.op_type for node in model.graph.node if node.op_type in _LOOPS})


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a name of its own, by which it can be left out."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def front_end(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes up to the last logarithm."""
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
    """Tensor -> the nodes that read it."""
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found
