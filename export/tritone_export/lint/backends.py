"""Backends of ours that stand between an ONNX file and the wire: what their callers see of the file.

`composer` streams a piece from a graph that computes a few frames at a time: it carries each `state_x` from
`next_state_x`, so that neither is on the wire, and counts `first_frame` by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tritone_export.lint.finding import Reporter
from tritone_export.lint.graph import Graph, GraphTensor
from tritone_export.lint.pbtxt import ConfigFile

ONNX_BACKENDS: Final = ("onnxruntime", "composer")
_STATE: Final = "state_"
_NEXT: Final = "next_"
_COUNTED: Final = GraphTensor("first_frame", "TYPE_INT64", (-1,))
_REMEDY: Final = "export this version again with the release that serves it"


def wire_of(graph: Graph, backend: str, onnx_path: Path, report: Reporter) -> Graph:
    """What a backend makes of a graph's tensors: those that a config has to declare.

    Reports states that the backend could not carry on.
    """
    if backend != "composer":
        return graph
    states = {tensor.name: tensor for tensor in graph.inputs if tensor.name.startswith(_STATE)}
    carried = {tensor.name: tensor for tensor in graph.outputs if tensor.name.startswith(_NEXT + _STATE)}
    _check_states(states, carried, onnx_path, report)
    return Graph(
        tuple(tensor for tensor in graph.inputs if tensor.name not in states),
        (*(tensor for tensor in graph.outputs if tensor.name not in carried), _COUNTED),
        graph.metadata,
    )


def check_policy(file: ConfigFile, backend: str, report: Reporter) -> None:
    """Report a config whose answers do not come as the backend sends them."""
    if backend == "composer" and not file.config.model_transaction_policy.decoupled:
        report.error(
            file.path,
            file.source.line("backend"),
            "backend 'composer' sends many answers to one request, and the config does not say so",
            "add model_transaction_policy { decoupled: true }",
        )


def _check_states(
    states: Mapping[str, GraphTensor], carried: Mapping[str, GraphTensor], onnx_path: Path, report: Reporter
) -> None:
    if not states:
        report.error(onnx_path, 1, f"has no state (inputs named {_STATE}...), which 'composer' streams from", _REMEDY)
    for name in sorted(carried.keys() - {_NEXT + name for name in states}):
        report.error(onnx_path, 1, f"answers {name!r} and does not take {name.removeprefix(_NEXT)!r}", _REMEDY)
    for name, tensor in states.items():
        after = carried.get(_NEXT + name)
        if after is None:
            report.error(onnx_path, 1, f"takes {name!r} and does not answer {_NEXT + name!r}", _REMEDY)
        elif (after.data_type, after.dims) != (tensor.data_type, tensor.dims):
            report.error(
                onnx_path,
                1,
                f"takes {name!r} as {_shown(tensor)} and answers it as {_shown(after)}",
                _REMEDY,
            )


def _shown(tensor: GraphTensor) -> str:
    return f"{tensor.data_type} {'of unknown rank' if tensor.dims is None else list(tensor.dims)}"
