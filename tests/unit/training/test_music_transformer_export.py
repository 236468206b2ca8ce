"""The exported graph writes what PyTorch writes, note for note."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from tests.support import music_models
from tests.unit.training.music_transformer_pieces import SIZES, Asked, ask, network

from tritone_export.parity import check_parity, check_signature, open_session
from tritone_training.declaration import Declaration
from tritone_training.kinds.music_transformer import KIND
from tritone_training.kinds.music_transformer.config import PRESETS, TransformerConfig
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD, NEXT, STATE, chunk_graph
from tritone_training.kinds.music_transformer.export import chunk_inputs, default_chunk_inputs, describe
from tritone_training.kinds.music_transformer.generator import PieceGenerator
from tritone_training.kinds.music_transformer.network import MusicTransformer

pytestmark = pytest.mark.slow  # torch takes its time to trace a loop within a loop

N_SEEDS = 200
CONFIG = TransformerConfig(**SIZES)
GRAPH = chunk_graph(CONFIG)


@dataclasses.dataclass
class Exported:
    made: MusicTransformer
    chunks: torch.nn.Module
    session: Any


@pytest.fixture(scope="module")
def exported() -> Exported:
    """The stateful graph: begun with zeros, it writes whole pieces as well."""
    made = network()
    described = describe(made, CONFIG, styles=("a", "b", "c"), frames_per_quarter=4, card={})
    (companion,) = described.companions
    assert companion.graph == GRAPH
    model = music_models.onnx_graph(companion.network, GRAPH, chunk_inputs(GRAPH, 2, 2))
    assert [node.op_type for node in onnx.load_from_string(model).graph.node].count("Scan") == 1
    return Exported(made, companion.network, open_session(model))


def run(exported: Exported, asked: Asked, cuts: list[int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What a backend does with the graph: chunk after chunk, carrying the states."""
    ahead = torch.nn.functional.pad
    feed = {name: tensor.numpy() for name, tensor in asked.__dict__.items()}
    feed["given"] = ahead(asked.given, (0, 0, 0, LOOK_AHEAD)).numpy()
    feed["given_mode"] = ahead(asked.given_mode, (0, LOOK_AHEAD)).numpy()
    names = [tensor.name for tensor in GRAPH.outputs]
    state = {name: array for name, array in chunk_inputs(GRAPH, len(asked.given), 0).items() if name.startswith(STATE)}
    frames, nll = [], []
    for start, stop in zip([0, *cuts], [*cuts, asked.noise.shape[1]], strict=True):
        chunk = {name: feed[name][:, start : stop + LOOK_AHEAD] for name in ("given", "given_mode")}
        chunk |= {name: feed[name][:, start:stop] for name in ("repeats", "noise")}
        answers = exported.session.run(names, {**feed, **chunk, **state})
        answered = dict(zip(names, answers, strict=True))
        frames.append(answered["frames"])
        nll.append(answered["nll"])
        state = {name: answered[NEXT + name] for name in state}
    return np.concatenate(frames, 1), np.concatenate(nll, 1)


def test_the_graph_is_as_declared_and_agrees_with_pytorch(exported: Exported) -> None:
    check_signature(exported.session, GRAPH)
    parity = check_parity(exported.chunks, exported.session, GRAPH, lambda n, seed: chunk_inputs(GRAPH, n, seed))
    assert parity.max_abs_difference["frames"] == 0
    assert max(parity.max_abs_difference.values()) < 5e-4


def test_200_seeds_give_the_same_notes_in_pytorch_and_in_the_graph_alone_and_in_a_batch(
    exported: Exported,
) -> None:
    asked = ask(N_SEEDS, 10, seed=21)  # each with a task, style, meter and choice of its own
    expected, nats = asked.write(PieceGenerator(exported.made))
    for start in range(0, N_SEEDS, 40):
        rows = range(start, start + 40)
        frames, nll = run(exported, asked.rows(*rows), [])
        np.testing.assert_array_equal(frames, expected[start : start + 40])
        np.testing.assert_allclose(nll, nats[start : start + 40], rtol=1e-3, atol=1e-3)
    for row in range(N_SEEDS):
        np.testing.assert_array_equal(run(exported, asked.rows(row), [])[0][0], expected[row])


def test_chunks_of_the_graph_are_the_whole(exported: Exported) -> None:
    asked = ask(8, 40, seed=22)  # longer than the windows
    expected, _ = asked.write(PieceGenerator(exported.made))
    for cuts in ([], [1], [4, 20, 21], [16, 32]):
        np.testing.assert_array_equal(run(exported, asked, cuts)[0], expected)


def test_one_frame_of_zeros_is_a_valid_request(exported: Exported) -> None:
    # What Triton warms up with.
    feed = {name: np.zeros_like(array[:1]) for name, array in chunk_inputs(GRAPH, 2, 0).items()}
    for name, n_frames in (("given", 1 + LOOK_AHEAD), ("given_mode", 1 + LOOK_AHEAD), ("repeats", 1), ("noise", 1)):
        feed[name] = feed[name][:, :n_frames]
    frames, nll, *_ = exported.session.run(None, feed)
    assert frames.shape == (1, 1, 88)
    assert np.isfinite(nll).all()


def test_the_declared_tensors_match_the_wire_contract() -> None:
    assert {tensor.name: len(tensor.axes) for tensor in KIND.declaration.inputs} == {
        "given": 2, "given_mode": 1, "meter": 1, "style": 0, "key": 0, "density": 0, "n_voices": 0, "end": 0,
        "repeats": 1, "noise": 2, "temperature": 0, "top_k": 0, "top_p": 0,
    }  # fmt: skip
    assert [tensor.name for tensor in KIND.declaration.outputs] == ["frames", "nll"]
    (composer,) = KIND.companions
    # The same tensors; composer takes longer pieces.
    wire, streamed = (
        [(tensor.name, tensor.dtype, [axis.name for axis in tensor.axes], tensor.limits) for tensor in each.inputs]
        for each in (KIND.declaration, composer.declaration)
    )
    assert streamed == wire
    assert composer.declaration.backend == "composer"
    assert composer.declaration.decoupled
    assert composer.declaration.parameters["lookahead_frames"] == str(LOOK_AHEAD)
    states = [tensor.name for tensor in GRAPH.inputs if tensor.name.startswith("state_")]
    assert len(states) == 5
    assert [tensor.name for tensor in GRAPH.outputs] == ["frames", "nll", *(f"next_{name}" for name in states)]


def test_examples_of_the_graph_have_its_shapes() -> None:
    graph: Declaration = chunk_graph(PRESETS["default"])
    inputs = default_chunk_inputs(3, 1)
    assert list(inputs) == [tensor.name for tensor in KIND.declaration.inputs] + [
        tensor.name for tensor in graph.inputs if tensor.name.startswith(STATE)
    ]
    for tensor in graph.inputs:
        array = inputs[tensor.name]
        assert all(axis.size in (None, size) for axis, size in zip(tensor.axes, array.shape[1:], strict=True))
