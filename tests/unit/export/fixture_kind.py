"""A small network with the declaration of `genre_cnn`, and model kinds for it and for faulty networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tritone.constants import EMOTIONS, WINDOW_SAMPLES
from tritone_training.declaration import Declaration
from tritone_training.kind import EvaluateRequest, Exportable, ModelKind
from tritone_training.kinds.genre_cnn.declaration import DECLARATION, EMOTION_FILE, LABEL_FILE
from tritone_training.quality import HeldOut, Metric, Quality, Run

LABELS = ("classical", "electronic", "pop", "rock")


class SmallNetwork(torch.nn.Module):
    """Audio (B, 66150) -> probabilities (B, 4), emotions (B, 9), embedding (B, 256)."""

    def __init__(self, n_labels: int = len(LABELS)) -> None:
        super().__init__()
        self.frames = torch.nn.Conv1d(1, 8, 1024, stride=512)
        self.norm = torch.nn.BatchNorm1d(8)
        self.label = torch.nn.Linear(8, n_labels)
        self.emotion = torch.nn.Linear(8, len(EMOTIONS))
        self.embed = torch.nn.Linear(8, 256)

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.norm(self.frames(audio[:, None]))).mean(dim=-1)  # (B, 8)
        return (
            torch.softmax(self.label(x), dim=-1),
            torch.sigmoid(self.emotion(x)),
            torch.nn.functional.normalize(self.embed(x), dim=-1),
        )


def small_network(n_labels: int = len(LABELS), seed: int = 0) -> SmallNetwork:
    torch.manual_seed(seed)
    return SmallNetwork(n_labels).eval()


def example_inputs(n_batch: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(seed)
    return {"audio": (0.1 * rng.standard_normal((n_batch, WINDOW_SAMPLES))).astype(np.float32)}


def exportable(
    network: torch.nn.Module | None = None,
    declaration: Declaration = DECLARATION,
    labels: tuple[str, ...] = LABELS,
) -> Exportable:
    return Exportable(
        network=network or small_network(len(labels)),
        declaration=declaration,
        label_files={LABEL_FILE: labels, EMOTION_FILE: EMOTIONS},
        metadata={"data": "synthetic"},
        card={
            "versions": {"torch": "2.9"},
            "kind": "genre_cnn",
            "seed": 0,
            "weights_sha256": "cd" * 32,
            "metrics": {"accuracy": float("nan")},
            "command": "tritone train",
        },
    )


def quality(max_loss: float = 0.05, network: torch.nn.Module | None = None, inputs: Any = None) -> Quality:
    """Return a quality that measures how close probabilities are to those of the network; 1 in single precision."""
    inputs = example_inputs(64, 9)["audio"] if inputs is None else inputs
    with torch.inference_mode():
        truth = (network or small_network())(torch.from_numpy(np.array(inputs)))[0].numpy()

    def measure(run: Run) -> Mapping[str, float]:
        return {"accuracy": 1 - float(np.abs(run({"audio": inputs})["probabilities"] - truth).mean()), "n": len(inputs)}

    def held_out(request: EvaluateRequest) -> HeldOut:
        return HeldOut("noise", measure, lambda: [{"audio": inputs[start::4]} for start in range(4)])

    return Quality((Metric("accuracy", max_loss=max_loss),), held_out, int8="static")


def kind(
    declaration: Declaration = DECLARATION, inputs: Any = example_inputs, quality: Quality | None = None
) -> ModelKind:
    def unused(*_: object) -> Any:
        raise NotImplementedError

    def exporter(checkpoint: Path) -> Exportable:
        return exportable(declaration=declaration)

    def pretrained_exporter(checkpoint: Path | None, pretrained: str) -> Exportable:
        return exportable(declaration=declaration)

    values: dict[str, Any] = {
        "name": "genre_cnn",
        "summary": "a stand-in",
        "declaration": declaration,
        "presets": ("tiny", "default"),
        "score": "accuracy",
        "options": frozenset({"data", "pretrained"}),
        "exporter": exporter,
        "pretrained_exporter": pretrained_exporter,
        "example_inputs": inputs,
        "quality": quality,
        "companions": (),
        "data_models": (),
        "ensembles": (),
    }
    return ModelKind(**{field.name: values.get(field.name, unused) for field in fields(ModelKind)})
