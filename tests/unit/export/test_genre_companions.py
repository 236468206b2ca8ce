"""The models that are exported together with `genre_cnn`: their names, parameters and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tritone.audio import to_pcm16
from tritone.constants import EMOTIONS
from tritone_export import export_kind
from tritone_export.config import read_config
from tritone_training.kinds.genre_cnn import example_inputs
from tritone_training.kinds.genre_cnn.config import PRESETS
from tritone_training.kinds.genre_cnn.export import describe
from tritone_training.kinds.genre_cnn.frontend import MelFeatures
from tritone_training.kinds.genre_cnn.network import build_network
from tritone_training.registry import get_kind

pytestmark = pytest.mark.slow

LABELS = ("jazz", "rock")
DIGEST = "d" * 64


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an untrained network under another name."""
    folder = tmp_path_factory.mktemp("companions")
    network = build_network(PRESETS["tiny"], MelFeatures(), n_labels=len(LABELS), with_emotions=True).eval()
    exportable = describe(network, labels=LABELS, emotions_trained=True, backbone=None, card={"weights_sha256": DIGEST})
    results = export_kind(exportable, get_kind("genre_cnn"), repository=folder, name="mine")
    assert [result.model for result in results] == ["mine", "mine_pcm16", "mine_file"]
    return folder


def parameters(repository: Path, model: str, file: str = "config.pbtxt") -> dict[str, str]:
    config: Any = read_config(repository / model / file)
    assert config.name == model
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("file", ["config.pbtxt", "configs/gpu.pbtxt"])
def test_the_models_name_each_other(repository: Path, file: str) -> None:
    own, pcm16, files = (parameters(repository, model, file) for model in ("mine", "mine_pcm16", "mine_file"))
    assert (own["pcm16_model"], own["file_model"]) == ("mine_pcm16", "mine_file")
    assert own["weights_sha256"] == pcm16["weights_sha256"] == DIGEST
    assert files["classifier_model"] == "mine"
    assert own["labels"] == pcm16["labels"] == files["labels"]
    assert json.loads(files["labels"]) == {"probabilities": list(LABELS), "emotions": list(EMOTIONS)}


def test_sixteen_bits_give_the_results_of_floats(repository: Path) -> None:
    windows = example_inputs(3, 5)["audio"]
    outputs = ["probabilities", "emotions", "embedding"]
    floats, whole = (
        onnxruntime.InferenceSession(repository / model / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        for model in ("mine", "mine_pcm16")
    )
    converted = to_pcm16(list(windows))
    expected = floats.run(outputs, {"audio": windows})
    for name, found, wanted in zip(outputs, whole.run(outputs, {"audio": converted}), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3, err_msg=name)


def test_only_the_main_model_counts_as_the_network(repository: Path) -> None:
    cards = {
        model: json.loads((repository / model / "1" / "model_card.json").read_text())
        for model in ("mine", "mine_pcm16")
    }
    assert "companion_of" not in cards["mine"]
    assert cards["mine_pcm16"]["companion_of"] == "genre_cnn"
    assert cards["mine"]["weights_sha256"] == cards["mine_pcm16"]["weights_sha256"] == DIGEST
