from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.unit.export import fixture_kind

from tritone.constants import EMOTIONS
from tritone_export import ExportResult, LabelError, ModelTooLargeError, export_model, lint_repository
from tritone_export.config import read_config
from tritone_export.convert import check_size


def test_a_version_holds_all_its_files(repository: Path, result: ExportResult) -> None:
    model = repository / "genre_cnn"
    assert (result.version, result.path.name) == (1, "1")
    assert sorted(p.name for p in (model / "1").iterdir()) == [
        "emotions.txt",
        "labels.txt",
        "model.onnx",
        "model.onnx.data",
        "model_card.json",
    ]
    assert (model / "labels.txt").read_text().split() == list(fixture_kind.LABELS)
    assert (model / "emotions.txt").read_text().split() == list(EMOTIONS)
    assert (model / "config.pbtxt").is_file()
    assert (model / "configs" / "gpu.pbtxt").is_file()
    assert not list(model.glob(".staging-*"))


def test_parity_was_measured_at_each_batch_size(result: ExportResult) -> None:
    assert [batch.n_batch for batch in result.parity.batches] == [1, 3, 16]
    assert set(result.parity.max_abs_difference) == {"probabilities", "emotions", "embedding"}
    assert max(result.parity.max_abs_difference.values()) <= 1e-5


def test_the_content_of_the_card(repository: Path) -> None:
    version = repository / "genre_cnn" / "1"
    card = json.loads((version / "model_card.json").read_text())
    assert card["command"] == "tritone train"
    assert card["metrics"] == {"accuracy": None}, "NaN is not JSON"
    assert card["at_training"] == {"versions": {"torch": "2.9"}}
    assert card["labels"]["labels.txt"] == list(fixture_kind.LABELS)
    assert set(card["parity"]["max_abs_difference"]) == {"1", "3", "16"}
    assert card["onnx"]["opset"] == {"ai.onnx": 20}
    assert {"torch", "onnx", "onnxruntime", "tritone"} <= set(card["versions"])
    for file, facts in card["files"].items():
        content = (version / file).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}


def test_the_onnx_file_has_no_traces_of_the_exporter(repository: Path) -> None:
    path = repository / "genre_cnn" / "1" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert metadata["data"] == "synthetic"
    assert metadata["tritone.card"] == "model_card.json"
    assert metadata["tritone.n_labels.probabilities"] == "4"
    assert model.ir_version <= 10
    content = path.read_bytes()
    assert b".py" not in content, "stack traces show the author's paths"
    assert str(Path.home()).encode() not in content


def test_axes_are_as_the_native_backend_requires(repository: Path) -> None:
    # It compares output dimensions exactly: -1 in config.pbtxt has to be unknown to the session, 9 to be 9;
    # at every optimisation level, because optimisers infer sizes anew.
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(
            repository / "genre_cnn" / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        assert {value.name: value.shape for value in session.get_outputs()} == {
            "probabilities": ["batch", "label"],
            "emotions": ["batch", 9],
            "embedding": ["batch", 256],
        }
        for n_batch in (1, 5, 40):  # below, and above, the number of labels
            answer = session.run(["probabilities"], {"audio": np.zeros((n_batch, 66_150), np.float32)})[0]
            assert answer.shape == (n_batch, 4)


def test_the_next_export_is_the_next_version_with_its_labels(repository: Path) -> None:
    before = (repository / "genre_cnn" / "1" / "model.onnx").read_bytes()
    result = export_model(fixture_kind.exportable(labels=("jazz", "folk")), fixture_kind.kind(), repository=repository)
    assert result.version == 2
    assert (repository / "genre_cnn" / "labels.txt").read_text() == "jazz\nfolk\n"
    assert (repository / "genre_cnn" / "1" / "labels.txt").read_text().split() == list(fixture_kind.LABELS)
    assert (repository / "genre_cnn" / "1" / "model.onnx").read_bytes() == before
    config = read_config(repository / "genre_cnn" / "config.pbtxt")
    assert json.loads(config.parameters["labels"].string_value)["probabilities"] == ["jazz", "folk"]
    assert lint_repository(repository) == []


@pytest.mark.parametrize(
    "labels", [("a", "b", "c"), ("a", "b", "c", "a"), ("a", "b", "c", "d\ne"), ("a", "b", "c", ""), ()]
)
def test_invalid_labels(tmp_path: Path, labels: tuple[str, ...]) -> None:
    exportable = fixture_kind.exportable(network=fixture_kind.small_network(4), labels=labels)
    with pytest.raises(LabelError):
        export_model(exportable, fixture_kind.kind(), repository=tmp_path)
    assert not (tmp_path / "genre_cnn" / "1").exists()


def test_a_label_file_that_is_missing_or_unknown(tmp_path: Path) -> None:
    exportable = fixture_kind.exportable()
    files = dict(exportable.label_files)
    without = replace(exportable, label_files={"labels.txt": files["labels.txt"]})
    with pytest.raises(LabelError):
        export_model(without, fixture_kind.kind(), repository=tmp_path)
    more = replace(exportable, label_files={**files, "moods.txt": ("sad",)})
    with pytest.raises(LabelError):
        export_model(more, fixture_kind.kind(), repository=tmp_path)


def test_weights_above_the_size_limit_are_refused_before_converting() -> None:
    network = torch.nn.Linear(1, 1)
    network.weight = torch.nn.Parameter(torch.empty(1).expand(600_000_000, 1))  # 2.4 GB that take no memory
    with pytest.raises(ModelTooLargeError):
        check_size(network)


@pytest.mark.slow
def test_nothing_of_the_exporter_leaks_to_the_user(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.unit.export import fixture_kind;"
        "from pathlib import Path;"
        "from tritone_export import export_model;"
        "export_model(fixture_kind.exportable(), fixture_kind.kind(), repository=Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[3]), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "genre_cnn" / "1" / "model.onnx").is_file()
