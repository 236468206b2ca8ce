"""Measure in process how the models that generate in loops scale with the batch, and what 8-bit weights would change.

    python -m benchmarks.batch_loops [--repository DIR] [--rounds N] [--int8] [--json]

Runs `music_transformer` and `polyphony_rnn_sampler`, as far as they are in the repository, for 8 bars at batch 1, 2, 4
and 8 on one thread, in turns, and prints medians: the ceiling of what a server can gain by joining requests. With
`composer`, it then generates four pieces bar by bar on each of two threads, in one session and in a session each.

`--int8` adds two graphs whose matrix products in the loops have 8-bit weights: `ranges` has activations in 8 bits too,
whose range is computed for each product; `weights` has 32 weights to a scale (MatMulNBits). For `music_transformer` it
adds the likelihood of the same pieces. ONNX Runtime's own quantiser refuses subgraphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.arguments import count
from benchmarks.latency_compose import N_FRAMES, STREAMING, inputs_of, newest, open_like_the_server
from tritone_export.subgraphs import all_graphs, replace_nodes
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD, NEXT, STATE

BATCHES: Final = (1, 2, 4, 8)
TRANSFORMER: Final = "music_transformer"
SAMPLER: Final = "polyphony_rnn_sampler"
_LEAST_OUTPUTS: Final = 64  # products with fewer outputs stay in fp32
_BLOCK: Final = 32
_PARALLEL_BATCH: Final = 4  # pieces of each of two simultaneous runs
_BAR: Final = 16  # frames
_GIVEN: Final = ("given", "given_mode")
_N_SCORED: Final = 16  # pieces whose likelihood is compared
Arrays = dict[str, npt.NDArray[Any]]


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--int8", action="store_true", help="measure 8-bit weights as well")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    models = [model for model in (TRANSFORMER, SAMPLER) if list((arguments.repository / model).glob("[0-9]*"))]
    if not models:
        newest(arguments.repository, TRANSFORMER)  # exits with what to do
    rows = [row for model in models for row in measure(arguments.repository, model, arguments.rounds, arguments.int8)]
    at_once = {}
    if list((arguments.repository / STREAMING).glob("[0-9]*")):
        at_once = two_at_once(newest(arguments.repository, STREAMING), arguments.rounds)
    if arguments.json:
        sys.stdout.write(json.dumps({"models": rows, "two_at_once_ms": at_once}) + "\n")
        return
    sys.stdout.write(table(rows))
    for how, ms in at_once.items():
        print(f"{STREAMING:22}8 bars of {_PARALLEL_BATCH} pieces, two at once, {how}: {ms:.1f} ms")


def measure(repository: Path, model: str, n_rounds: int, with_int8: bool) -> list[dict[str, Any]]:
    """Measure a model in turns of all its graphs and batches."""
    path = newest(repository, model)
    sessions = {"fp32": open_like_the_server(path)}
    if with_int8:
        for how in ("ranges", "weights"):
            sessions[f"int8 {how}"] = open_like_the_server(quantised(onnx.load(str(path)), how).SerializeToString())
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for name in sessions for n in BATCHES}
    for index in range(n_rounds + 1):
        for n_batch in BATCHES:
            feed = pieces(model, n_batch, seed=1000 * index)
            for name, session in sessions.items():
                began = time.perf_counter()
                session.run(None, feed)
                if index:  # the first round warms up
                    times[name, n_batch].append(time.perf_counter() - began)
    rows = []
    for name, session in sessions.items():
        medians = {n: statistics.median(times[name, n]) for n in BATCHES}
        row: dict[str, Any] = {
            "model": model,
            "graph": name,
            "ms": {n: 1e3 * value for n, value in medians.items()},
            "throughput": {n: n * medians[1] / value for n, value in medians.items()},
        }
        if model == TRANSFORMER:
            feed = pieces(model, _N_SCORED, seed=7_000_000)
            frames = sessions["fp32"].run(["frames"], feed)[0]
            row["nats_per_frame"] = nats_per_frame(session, frames, feed)
        rows.append(row)
    return rows


def two_at_once(path: Path, n_rounds: int) -> dict[str, float]:
    """Return the median time in ms of 8 bars of four pieces while another thread generates others.

    The keys are `one session` and `a session each`.

    As in the backend `composer`, each bar is a run, which gets the states of the run before.
    """
    one, other = (open_like_the_server(path) for _ in range(2))
    feeds = [bars(one, _PARALLEL_BATCH, seed=8_000_000 + 100 * n) for n in range(2)]
    sessions = {"one session": (one, one), "a session each": (one, other)}
    times: dict[str, list[float]] = {how: [] for how in sessions}

    def timed(session: Any, feed: tuple[list[Arrays], Arrays]) -> float:
        each_bar, state = feed
        names = [node.name for node in session.get_outputs()]
        began = time.perf_counter()
        for bar in each_bar:
            answered = dict(zip(names, session.run(names, {**bar, **state}), strict=True))
            state = {name: answered[NEXT + name] for name in state}
        return time.perf_counter() - began

    with ThreadPoolExecutor(2) as pool:
        for index in range(n_rounds + 1):
            for how, pair in sessions.items():
                both = list(pool.map(timed, pair, feeds))
                if index:  # the first round warms up
                    times[how] += both
    return {how: 1e3 * statistics.median(values) for how, values in times.items()}


def bars(session: Any, n_batch: int, *, seed: int) -> tuple[list[Arrays], Arrays]:
    """Return the inputs of `composer` for each bar of new pieces, and the states before the first."""
    whole = pieces(TRANSFORMER, n_batch, seed=seed)
    whole |= {name: np.pad(whole[name], [(0, 0), (0, LOOK_AHEAD), (0, 0)][: whole[name].ndim]) for name in _GIVEN}
    lengths = {**dict.fromkeys(_GIVEN, _BAR + LOOK_AHEAD), "repeats": _BAR, "noise": _BAR}
    each_bar = [
        whole | {name: whole[name][:, start : start + length] for name, length in lengths.items()}
        for start in range(0, N_FRAMES, _BAR)
    ]
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
    states = [node for node in session.get_inputs() if node.name.startswith(STATE)]
    of = {node.name: types[node.type] for node in states}
    sizes = {node.name: [size if isinstance(size, int) else 0 for size in node.shape[1:]] for node in states}
    return each_bar, {name: np.zeros((n_batch, *each), of[name]) for name, each in sizes.items()}


def pieces(model: str, n_batch: int, *, seed: int) -> Arrays:
    """Return the inputs for new pieces of 8 bars."""
    if model == TRANSFORMER:
        each = [inputs_of(N_FRAMES, seed + row, flat=True) for row in range(n_batch)]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    conditions = {name: np.zeros(n_batch, np.int64) for name in ("style", "key", "density", "n_voices", "end")}
    return {
        "prompt": np.zeros((n_batch, 1, 88), np.uint8),
        "meter": np.tile(np.array([[16, 0]]), (n_batch, 1)),
        **conditions,
        "repeats": np.zeros((n_batch, N_FRAMES), np.int64),
        "noise": np.random.default_rng(seed).random((n_batch, N_FRAMES, 88), np.float32),
        "temperature": np.ones(n_batch, np.float32),
        "top_k": np.full(n_batch, 89),
        "top_p": np.ones(n_batch, np.float32),
    }


def nats_per_frame(session: Any, frames: npt.NDArray[np.uint8], feed: Arrays) -> float:
    """Return the mean negative log-likelihood of the frames of given pieces."""
    given = {**feed, "given": frames, "given_mode": np.ones(feed["given_mode"].shape, np.uint8)}
    return float(session.run(["nll"], given)[0].mean())


def quantised(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """Return a model whose matrix products in loops have 8-bit weights; see the module."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    outer = {tensor.name: tensor for graph in all_graphs(model.graph) for tensor in graph.initializer}
    for graph in reversed(list(all_graphs(model.graph))[1:]):  # inner loops first: outer nodes are copied with them
        replace_nodes(graph, [each for node in graph.node for each in _quantised_node(graph, node, outer, how)])
    graphs = list(all_graphs(model.graph))
    read = {name for graph in graphs for node in graph.node for name in node.input}
    for graph in graphs:
        for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
            graph.initializer.remove(tensor)
    return model


def _quantised_node(graph: Any, node: Any, constants: Mapping[str, Any], how: str) -> list[Any]:
    if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        return [node]
    weights = numpy_helper.to_array(constants[node.input[1]])
    if node.op_type == "MatMul":
        weights = weights.T
    if weights.ndim != 2 or weights.shape[0] < _LEAST_OUTPUTS or weights.shape[1] % _BLOCK:
        return [node]
    n_outputs, n_inputs = weights.shape
    name, bias = node.output[0], list(node.input[2:])

    def constant(suffix: str, values: npt.NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), f"{name}.{suffix}"))
        return f"{name}.{suffix}"

    if how == "ranges":
        scale = np.maximum(np.abs(weights).max(1), 1e-12) / 127
        whole = np.rint(weights / scale[:, None]).astype(np.int8)
        zero = constant("zero", np.zeros(n_outputs, np.int8))
        inputs = [node.input[0], constant("int8", whole.T), constant("scale", scale.astype(np.float32)), zero, *bias]
        return [helper.make_node("DynamicQuantizeMatMul", inputs, [name], domain="com.microsoft")]
    blocks = weights.reshape(n_outputs, -1, _BLOCK)
    scale = np.maximum(np.abs(blocks).max(2), 1e-12) / 127
    unsigned = (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8)
    product = f"{name}.product" if bias else name
    sizes = {"K": n_inputs, "N": n_outputs, "bits": 8, "block_size": _BLOCK, "accuracy_level": 4}
    inputs = [node.input[0], constant("int8", unsigned), constant("scale", scale.astype(np.float32).ravel())]
    nodes = [helper.make_node("MatMulNBits", inputs, [product], domain="com.microsoft", **sizes)]
    return [*nodes, helper.make_node("Add", [product, *bias], [name])] if bias else nodes


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text."""
    lines = [
        f"{N_FRAMES} steps, one thread; ms at batch {', '.join(map(str, BATCHES))}, throughput relative to batch 1"
    ]
    for row in rows:
        ms = " ".join(f"{row['ms'][n]:7.1f}" for n in BATCHES)
        gain = " ".join(f"{row['throughput'][n]:5.2f}" for n in BATCHES)
        nats = f"  {row['nats_per_frame']:.4f} nats a frame" if "nats_per_frame" in row else ""
        lines.append(f"{row['model']:22}{row['graph']:14}{ms}   {gain}{nats}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
