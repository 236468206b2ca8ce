"""A model whose ONNX file has other tensors than its config: `Exportable.graph`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from google.protobuf import text_format
from tests.unit.export import fixture_kind
from tritonclient.grpc import model_config_pb2

from tritone_export import export_model, lint_repository
from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving, Tensor
from tritone_training.kind import Exportable

FRAME, PITCH = Axis("frame"), Axis("pitch", 88)
INPUTS = (
    Tensor("given", "UINT8", (FRAME, PITCH), "g"),
    Tensor("given_mode", "UINT8", (FRAME,), "m"),
    Tensor("meter", "INT64", (Axis("part", 2),), "m"),
    Tensor("noise", "FP32", (FRAME, Axis("note", 8)), "n"),
)
OUTPUTS = (Tensor("frames", "UINT8", (FRAME, PITCH), "f", tolerance=0.0), Tensor("nll", "FP32", (FRAME,), "n"))
SERVING = Serving(
    batching=Batching(max_batch_size=1, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
    queue=QueuePolicy(default_timeout_microseconds=0, max_queue_size=0),
    instances=Instances(n_cpu=1, n_gpu=0, n_intra_op_threads=1),
    warmup_batch_sizes=(),
)
STREAMER = Declaration(
    name="composer",
    summary="streams",
    inputs=INPUTS,
    outputs=(*OUTPUTS, Tensor("first_frame", "INT64", (), "f")),
    serving=SERVING,
    backend="composer",
    decoupled=True,
)
GRAPH = replace(
    STREAMER,
    inputs=(*INPUTS, Tensor("state_sum", "FP32", (), "s")),
    outputs=(*OUTPUTS, Tensor("next_state_sum", "FP32", (), "s")),
    serving=replace(SERVING, batching=Batching(16, (), 0)),
)


class Chunk(torch.nn.Module):
    """Return the input; the nll is a running sum of the noise."""

    def forward(self, given: torch.Tensor, mode: torch.Tensor, meter: torch.Tensor, noise: torch.Tensor,
                state_sum: torch.Tensor) -> tuple[torch.Tensor, ...]:  # fmt: skip
        known = (mode > 0)[..., None] & (meter[:, None, :1] >= 0)
        frames = torch.where(known, given, torch.zeros_like(given))
        nll = noise.sum(-1).cumsum(1) + state_sum[:, None]
        return frames, nll, nll[:, -1]


def example_inputs(n_batch: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    return {
        "given": rng.integers(0, 3, (n_batch, 6, 88)).astype(np.uint8),
        "given_mode": rng.integers(0, 2, (n_batch, 6)).astype(np.uint8),
        "meter": np.zeros((n_batch, 2), np.int64),
        "noise": rng.random((n_batch, 6, 8), np.float32),
        "state_sum": rng.random(n_batch, np.float32),
    }


def test_the_config_has_the_tensors_of_the_declaration_and_the_file_those_of_the_graph(tmp_path: Path) -> None:
    exportable = Exportable(Chunk().eval(), STREAMER, label_files={}, metadata={}, card={}, graph=GRAPH)
    result = export_model(exportable, fixture_kind.kind(STREAMER), repository=tmp_path, example_inputs=example_inputs)
    assert lint_repository(tmp_path) == []
    assert [batch.n_batch for batch in result.parity.batches] == [1, 3, 16], "as the graph may be batched"
    assert set(result.parity.tolerance) == {"frames", "nll", "next_state_sum"}
    session = onnxruntime.InferenceSession(result.path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape) for value in session.get_outputs()] == [
        ("frames", ["batch", "frame", 88]),
        ("nll", ["batch", "frame"]),
        ("next_state_sum", ["batch"]),
    ]
    text = (tmp_path / "composer" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert [tensor.name for tensor in config.input] == ["given", "given_mode", "meter", "noise"]
    assert [tensor.name for tensor in config.output] == ["frames", "nll", "first_frame"]
    assert config.max_batch_size == 1
    card = json.loads((result.path / "model_card.json").read_text())
    assert [tensor["name"] for tensor in card["outputs"]] == ["frames", "nll", "first_frame"]
