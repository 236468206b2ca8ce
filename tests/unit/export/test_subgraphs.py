"""Weights of loops are in the loops, and nothing of the machine is left in any subgraph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tritone_export.convert import to_onnx
from tritone_export.parity import open_session
from tritone_export.subgraphs import all_graphs, move_weights, subgraphs
from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving
from tritone_training.declaration import Tensor as DeclaredTensor
from tritone_training.generation import SamplingFilter, choose, unrolled_or_scan

_N = 3


def value(name: str, *sizes: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def weight(name: str, seed: int) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal((_N, _N)).astype(np.float32)
    return numpy_helper.from_array(values, name)


def scan(body: onnx.GraphProto, *inputs: str, outputs: list[str]) -> onnx.NodeProto:
    return helper.make_node("Scan", list(inputs), outputs, body=body, num_scan_inputs=1)


def nested() -> onnx.ModelProto:
    """Two loops one after the other, the first with a loop inside; `shared` is read everywhere, the others once."""
    inner = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "inner"], ["b"]),
            helper.make_node("MatMul", ["b", "shared"], ["c"]),
            helper.make_node("Add", ["c", "x"], ["d"]),
            helper.make_node("Add", ["d", "added"], ["e"]),
            helper.make_node("Identity", ["e"], ["f"]),
        ],
        "inner",
        [value("a", _N, _N), value("x", _N, _N)],
        [value("e", _N, _N), value("f", _N, _N)],
    )
    outer = helper.make_graph(
        [
            scan(inner, "s", "steps", outputs=["t", "unused"]),
            helper.make_node("MatMul", ["t", "own"], ["u"]),
            helper.make_node("Add", ["u", "y"], ["v"]),
            helper.make_node("Identity", ["v"], ["w"]),
        ],
        "outer",
        [value("s", _N, _N), value("y", _N, _N)],
        [value("v", _N, _N), value("w", _N, _N)],
        initializer=[weight("own", 5)],
    )
    second = helper.make_graph(
        [
            helper.make_node("MatMul", ["p", "shared"], ["q"]),
            helper.make_node("Add", ["q", "z"], ["r"]),
            helper.make_node("Identity", ["r"], ["o"]),
        ],
        "second",
        [value("p", _N, _N), value("z", _N, _N)],
        [value("r", _N, _N), value("o", _N, _N)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["begin", "first"], ["begun"]),
            scan(outer, "begun", "steps", outputs=["middle", "unused_1"]),
            scan(second, "middle", "steps", outputs=["end", "unused_2"]),
        ],
        "graph",
        [value("begin", _N, _N), value("steps", "n", _N, _N)],
        [value("end", _N, _N)],
        initializer=[weight(name, seed) for seed, name in enumerate(("first", "inner", "shared", "added", "own"))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> npt.NDArray[Any]:
    random = np.random.default_rng(9)
    feed = {
        "begin": random.standard_normal((_N, _N)).astype(np.float32),
        "steps": random.standard_normal((4, _N, _N)).astype(np.float32),
    }
    answer: npt.NDArray[Any] = open_session(model.SerializeToString()).run(None, feed)[0]
    return answer


def names(graph: onnx.GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def test_weights_of_products_are_moved_into_the_loops_that_read_them() -> None:
    model = nested()
    expected = run(model)
    move_weights(model.graph)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model), expected)
    outer, second = (body for node in model.graph.node for body in subgraphs(node))
    (inner,) = (body for node in outer.node for body in subgraphs(node))
    assert names(inner) == {"inner", "shared"}
    assert names(second) == {"shared"}
    assert names(outer) == {"own"}  # its own, not the one of the same name outside
    assert names(model.graph) == {"first", "added", "own"}  # read here; no weight; hidden from the loops


def test_a_graph_without_loops_stays_as_it_is() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "graph", [value("x", _N, _N)], [value("y", _N, _N)], initializer=[weight("w", 0)])
    before = graph.SerializeToString()
    move_weights(graph)
    assert graph.SerializeToString() == before
    assert [each.name for each in all_graphs(graph)] == ["graph"]


class Chooser(nn.Module):
    """Chooses one of some values at each step of a loop, and adds a product to them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixing = nn.Linear(12, 12)

    def forward(
        self, scores: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor]:
        choice = SamplingFilter.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=12)

        def step(state: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
            (now,), (draw,) = state, inputs
            return (torch.tanh(self.mixing(now)) * 3,), (choose(now, draw, choice),)

        _, (chosen,) = unrolled_or_scan(step, (scores,), (noise.transpose(0, 1)[:, :, None],))
        return (chosen[:, :, 0].transpose(0, 1),)


def test_choices_of_an_exported_loop_are_those_of_pytorch() -> None:
    step = Axis("step")
    declaration = Declaration(
        name="chooser",
        summary="For this test.",
        inputs=(
            DeclaredTensor("scores", "FP32", (Axis("value", 12),), "scores"),
            DeclaredTensor("noise", "FP32", (step,), "noise"),
            DeclaredTensor("temperature", "FP32", (), "temperature"),
            DeclaredTensor("top_k", "INT64", (), "number of values"),
            DeclaredTensor("top_p", "FP32", (), "share"),
        ),
        outputs=(DeclaredTensor("chosen", "INT64", (step,), "chosen values"),),
        serving=Serving(
            batching=Batching(max_batch_size=8, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
            queue=QueuePolicy(default_timeout_microseconds=1_000_000, max_queue_size=8),
            instances=Instances(n_cpu=1, n_gpu=0, n_intra_op_threads=1),
        ),
        parameters={},
    )
    random = np.random.default_rng(3)
    inputs: dict[str, npt.NDArray[Any]] = {
        "scores": 2 * random.standard_normal((6, 12), np.float32),
        "noise": random.random((6, 200), np.float32) * np.float32(0.999),
        "temperature": np.array([1, 0.5, 2, 1, 1, 3], np.float32),
        # All, a few, one, and both limits at once; the last rows make the first ones rank more than they need.
        "top_k": np.array([12, 3, 1, 12, 5, 99]),
        "top_p": np.array([1, 1, 1, 0.7, 0.9, 0.1], np.float32),
    }
    network = Chooser().eval().requires_grad_(False)
    model = to_onnx(network, declaration, inputs)
    for graph in all_graphs(model.graph):
        assert not any(item.doc_string or item.metadata_props for item in (graph, *graph.node, *graph.initializer))
    (body,) = (body for node in model.graph.node for body in subgraphs(node))
    assert any("mixing" in name or name.startswith("val") for name in names(body))
    session = open_session(model.SerializeToString())
    expected = network(*(torch.from_numpy(each) for each in inputs.values()))[0].numpy()
    np.testing.assert_array_equal(session.run(None, inputs)[0], expected)
    for row in range(6):  # alone as in a batch
        alone = {name: each[row : row + 1] for name, each in inputs.items()}
        np.testing.assert_array_equal(session.run(None, alone)[0], expected[row : row + 1])
