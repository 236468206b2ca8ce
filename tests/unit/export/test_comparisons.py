"""Bytes are compared as integers, which ONNX Runtime 1.20 can do: the same results, in subgraphs too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tritone_export.comparisons import widen_comparisons
from tritone_export.parity import open_session
from tritone_export.subgraphs import all_graphs

COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def model(comparison: str, dtype: int) -> onnx.ModelProto:
    """Compare `a` with `b`, and in the body of a Scan each row of `a` with `b`, a value of the graph outside."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node(comparison, ["row", "b"], ["found"])],
        "body",
        [value("row", dtype, [3])],
        [value("found", TensorProto.BOOL, [3])],
    )
    graph = helper.make_graph(
        [
            helper.make_node(comparison, ["a", "b"], ["all"]),
            helper.make_node("Scan", ["a"], ["rows"], num_scan_inputs=1, body=body),
        ],
        "graph",
        [value("a", dtype, [2, 3]), value("b", dtype, [3])],
        [value("all", TensorProto.BOOL, [2, 3]), value("rows", TensorProto.BOOL, [2, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_bytes_are_compared_as_integers(comparison: str) -> None:
    made = model(comparison, TensorProto.UINT8)
    inputs = {"a": np.array([[0, 1, 255], [200, 3, 7]], np.uint8), "b": np.array([0, 3, 254], np.uint8)}
    expected = open_session(made.SerializeToString()).run(None, inputs)
    widen_comparisons(made.graph)
    onnx.checker.check_model(made, full_check=True)
    found = open_session(made.SerializeToString()).run(None, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    cast = {node.output[0] for graph in all_graphs(made.graph) for node in graph.node if node.op_type == "Cast"}
    compared = [node for graph in all_graphs(made.graph) for node in graph.node if node.op_type == comparison]
    assert len(compared) == 2
    assert all(name in cast for node in compared for name in node.input)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL])
def test_other_types_stay_as_they_are(dtype: int) -> None:
    made = model("Equal", dtype)
    before = made.SerializeToString()
    widen_comparisons(made.graph)
    assert made.SerializeToString() == before
