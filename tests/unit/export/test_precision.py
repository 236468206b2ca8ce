"""Graphs in half precision and int8: content, loss of quality, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper
from tests.unit.export import fixture_kind

from tritone_export import (
    ExportResult,
    PrecisionError,
    QualityLossError,
    Reduction,
    check_repository,
    export_kind,
    export_model,
    lint_repository,
)
from tritone_export.precision import reduce_graph, to_half, to_int8
from tritone_serving import ServerOptions, TritonServer
from tritone_training.exceptions import DataError
from tritone_training.kind import Companion, EvaluateRequest
from tritone_training.kinds.polyphony_rnn.declaration import SAMPLER
from tritone_training.quality import Quality, recorded_data

pytestmark = pytest.mark.slow

REQUEST = EvaluateRequest(checkpoint=Path("runs/genre_cnn"), progress=False)
NAMES = ("probabilities", "emotions", "embedding")


def reduction(*precisions: Any, max_loss: float | None = None) -> Reduction:
    return Reduction(precisions=precisions, request=REQUEST, max_loss=max_loss)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportResult]:
    """Return a repository whose version is served in fp16 on GPUs and in int8 on CPUs; tests must not change it."""
    repository = tmp_path_factory.mktemp("reduced") / "model_repository"
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    return repository, export_model(
        fixture_kind.exportable(), kind, repository=repository, reduction=reduction("fp16", "int8")
    )


def size_of(folder: Path, name: str) -> int:
    """The size of a graph with the weights beside it."""
    return sum(path.stat().st_size for path in folder.glob(f"{name}*"))


def test_each_profile_serves_its_own_graph(reduced: tuple[Path, ExportResult]) -> None:
    repository, result = reduced
    model = repository / "genre_cnn"
    assert {"model.onnx", "model.fp16.onnx", "model.int8.onnx"} < {path.name for path in result.path.iterdir()}
    assert 'default_model_filename: "model.int8.onnx"' in (model / "config.pbtxt").read_text()
    assert 'default_model_filename: "model.fp16.onnx"' in (model / "configs" / "gpu.pbtxt").read_text()
    assert lint_repository(repository) == []


def test_reduced_graphs_have_the_declared_tensors_and_similar_outputs(reduced: tuple[Path, ExportResult]) -> None:
    folder = reduced[1].path
    inputs = dict(fixture_kind.example_inputs(5, 3))
    whole = onnxruntime.InferenceSession(folder / "model.onnx")
    expected = whole.run(NAMES, inputs)
    for name, atol in (("model.fp16.onnx", 2e-3), ("model.int8.onnx", 5e-2)):
        session = onnxruntime.InferenceSession(folder / name)
        for side in ("get_inputs", "get_outputs"):
            told = [[(v.name, v.type, v.shape) for v in getattr(each, side)()] for each in (session, whole)]
            assert told[0] == told[1]
        found = session.run(NAMES, inputs)
        for answer, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(answer, reference, atol=atol)
        assert any(not np.array_equal(*pair) for pair in zip(found, expected, strict=True)), "nothing was converted"
        assert size_of(folder, name) < size_of(folder, "model.onnx")


def test_the_card_has_the_loss_of_each_precision(reduced: tuple[Path, ExportResult]) -> None:
    card = json.loads((reduced[1].path / "model_card.json").read_text())
    assert list(card["precisions"]) == ["fp16", "int8"]
    for precision, said in card["precisions"].items():
        figures = said["metrics"]["accuracy"]
        assert figures["fp32"] == pytest.approx(1.0, abs=1e-5)
        assert figures[precision] < figures["fp32"]
        assert figures["loss"] == pytest.approx(figures["fp32"] - figures[precision])
        assert (said["n"], said["data"], figures["max_loss"]) == (64, "noise", 0.05)
        assert said["n_bytes"][precision] == pytest.approx(size_of(reduced[1].path, said["file"]), rel=0.1)
        assert set(said["latency_ratio"]) == {"1", "8"}
        assert set(said["max_abs_difference"]) == set(NAMES)
        assert said["file"] in card["files"]


def test_a_plain_export_serves_single_precision_again(repository: Path) -> None:
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    config = repository / "genre_cnn" / "config.pbtxt"
    export_model(fixture_kind.exportable(), kind, repository=repository, reduction=reduction("int8"))
    assert "model.int8.onnx" in config.read_text()
    assert "fp16" not in (repository / "genre_cnn" / "configs" / "gpu.pbtxt").read_text()
    assert lint_repository(repository) == [], "the version before has no such graph, and is not served"
    export_model(fixture_kind.exportable(), kind, repository=repository)
    assert "model.int8.onnx" not in config.read_text()


def test_lint_reports_a_missing_graph_of_another_profile(tmp_path: Path) -> None:
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    version = export_model(fixture_kind.exportable(), kind, repository=tmp_path, reduction=reduction("fp16")).path
    graph = version / "model.fp16.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + b"x")
    assert "does not match its model card" in str(check_repository(tmp_path).findings)
    graph.unlink()
    findings = "\n".join(map(str, lint_repository(tmp_path)))
    assert "version 1 has no model.fp16.onnx, which configs/gpu.pbtxt serves" in findings
    graph.write_bytes(content)
    config = version.parent / "config.pbtxt"
    config.write_text(config.read_text().replace("model.onnx", "model.fp16.onnx"))
    assert "half precision on a CPU" in "\n".join(map(str, lint_repository(tmp_path)))


class Hostile(fixture_kind.SmallNetwork):
    """A network whose signal has a much larger offset, which the next product removes."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.nn.Linear(8, 8, bias=False)
        self.centre.weight.data = torch.eye(8) - 1 / 8
        self.label.weight.data *= 10

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = torch.relu(self.norm(self.frames(audio[:, None]))).mean(dim=-1)
        x = self.centre(x + 50)  # 256 steps from 0 to 50 are wider than what differs
        return (
            torch.softmax(self.label(x), dim=-1),
            torch.sigmoid(self.emotion(x)),
            torch.nn.functional.normalize(self.embed(x), dim=-1),
        )


def loud_inputs(n_batch: int) -> Any:
    """Return noise of different volumes, so that the outputs of the network differ."""
    volume = np.geomspace(0.1, 100, n_batch, dtype=np.float32)[:, None]
    return volume * np.asarray(fixture_kind.example_inputs(n_batch, 9)["audio"])


def hostile_quality(network: torch.nn.Module) -> Quality:
    return fixture_kind.quality(max_loss=0.01, network=network, inputs=loud_inputs(64))


def test_a_loss_above_the_limit_is_refused_with_the_metrics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Hostile().eval()
    kind = fixture_kind.kind(quality=hostile_quality(network))
    exportable = fixture_kind.exportable(network=network)
    with pytest.raises(QualityLossError) as caught:
        export_model(exportable, kind, repository=tmp_path, reduction=reduction("int8"))
    assert (caught.value.metric, caught.value.before) == ("accuracy", pytest.approx(1.0, abs=1e-3))
    assert caught.value.before - caught.value.after > caught.value.max_loss == 0.01
    assert not list(tmp_path.iterdir()), "nothing is written"
    allowed = export_model(exportable, kind, repository=tmp_path, reduction=reduction("int8", max_loss=0.9))
    assert allowed.reduced[0].losses[0].loss == pytest.approx(caught.value.before - caught.value.after)


def test_the_same_network_passes_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Hostile().eval()
    kind = fixture_kind.kind(quality=hostile_quality(network))
    result = export_model(
        fixture_kind.exportable(network=network), kind, repository=tmp_path, reduction=reduction("fp16")
    )
    assert result.reduced[0].losses[0].loss < 0.01


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    network = fixture_kind.small_network()
    network.label.weight.data[0, 0] = 70_000
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    with pytest.raises(PrecisionError, match="exceeds the range of half precision"):
        export_model(fixture_kind.exportable(network=network), kind, repository=tmp_path, reduction=reduction("fp16"))
    assert not list(tmp_path.iterdir())


def test_sums_that_overflow_inside_the_graph_are_refused(tmp_path: Path) -> None:
    network = fixture_kind.small_network()
    network.label.weight.data[:] = 60_000  # each fits, and their products' sum does not
    network.norm.weight.data[:] = 100
    kind = fixture_kind.kind(quality=fixture_kind.quality())
    with pytest.raises(PrecisionError, match="is not finite"):
        export_model(fixture_kind.exportable(network=network), kind, repository=tmp_path, reduction=reduction("fp16"))


@pytest.mark.parametrize(
    ("precision", "change", "message"),
    [
        ("fp16", {"n_gpu": 0}, "runs on the CPU in every profile"),
        ("int8", {"quality": None}, "can only be served in fp32"),
    ],
)
def test_unsupported_precisions_are_refused_before_converting(
    tmp_path: Path, precision: str, change: dict[str, Any], message: str
) -> None:
    exportable = fixture_kind.exportable()
    quality = change.get("quality", fixture_kind.quality())
    if "n_gpu" in change:
        serving = exportable.declaration.serving
        instances = replace(serving.instances, n_gpu=change["n_gpu"])
        declaration = replace(exportable.declaration, serving=replace(serving, instances=instances))
        exportable = replace(exportable, declaration=declaration)
    with pytest.raises(PrecisionError, match=message):
        export_kind(exportable, fixture_kind.kind(quality=quality), repository=tmp_path, reduction=reduction(precision))
    assert not list(tmp_path.iterdir())


def test_a_companion_that_cannot_be_converted_stays_in_single_precision(tmp_path: Path) -> None:
    other = replace(fixture_kind.exportable().declaration, name="genre_cnn_other")
    kind = replace(
        fixture_kind.kind(quality=fixture_kind.quality()), companions=(Companion(other, fixture_kind.example_inputs),)
    )
    exportable = replace(fixture_kind.exportable(), companions=(fixture_kind.exportable(declaration=other),))
    own, companion = export_kind(exportable, kind, repository=tmp_path, reduction=reduction("int8"))
    assert [each.precision for each in own.reduced] == ["int8"]
    assert not own.kept
    assert not companion.reduced
    assert companion.kept is not None
    assert "genre_cnn_other can only be served in fp32" in companion.kept["int8"]
    assert not (companion.path / "model.int8.onnx").exists()


def test_graphs_with_loops_are_not_converted() -> None:
    assert SAMPLER.backend == "onnxruntime"  # so it is the graph that is in the way, not the backend
    from tritone_training.registry import get_kind

    writers = ("polyphony_rnn", "music_transformer", "music_gan")
    assert [get_kind(name).quality for name in writers] == [None] * 3
    assert [companion.quality for companion in get_kind("music_vae").companions] == [None]
    model = spectrum_model()
    model.graph.node.append(helper.make_node("Scan", ["audio"], ["scanned"]))
    quality = fixture_kind.quality()
    with pytest.raises(PrecisionError, match="do not support the subgraphs of Scan"):
        reduce_graph(
            model,
            b"",
            "int8",
            declaration=fixture_kind.exportable().declaration,
            quality=quality,
            held_out=quality.held_out(REQUEST),
            before={},
            draw=fixture_kind.example_inputs,
        )


def spectrum_model() -> onnx.ModelProto:
    """audio (B, 8) -> log of a power -> a product -> answer (B, 2); its constants are shared by both sides."""
    rng = np.random.default_rng(0)
    tensors = {
        "basis": rng.standard_normal((8, 8)).astype(np.float32),
        "tiny": np.float32(1e-9),
        "weight": rng.standard_normal((8, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["audio", "basis"], ["spectrum"]),
        helper.make_node("Mul", ["spectrum", "spectrum"], ["power"]),
        helper.make_node("Add", ["power", "tiny"], ["floored"]),
        helper.make_node("Log", ["floored"], ["level"]),
        helper.make_node("MatMul", ["level", "weight"], ["product"]),
        helper.make_node("Add", ["product", "tiny"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spectrum",
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("convert", "atol"),
    [
        (to_half, 0.1),
        (lambda model: to_int8(model, "static", [{"audio": np.eye(9, 8, dtype=np.float32)}]), 0.5),
    ],
)
def test_front_ends_stay_in_single_precision(
    convert: Callable[[onnx.ModelProto], onnx.ModelProto], atol: float
) -> None:
    model = spectrum_model()
    silence = {"audio": np.zeros((1, 8), np.float32)}
    expected, found = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, silence)[0] for each in (model, convert(model))
    )
    np.testing.assert_allclose(found, expected, atol=atol)  # half precision would make a floor of 6e-8 of 1e-9
    assert not np.array_equal(found, expected), "what follows is reduced"


def test_a_graph_with_nothing_to_convert_is_refused() -> None:
    model = spectrum_model()
    del model.graph.node[4:]
    model.graph.node.append(helper.make_node("Slice", ["level", "start", "end", "axis"], ["answer"]))
    for name, value in (("start", 0), ("end", 2), ("axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    with pytest.raises(PrecisionError, match="fp16 would change nothing"):
        to_half(model)
    with pytest.raises(PrecisionError, match="int8 would change nothing"):
        to_int8(model, "dynamic")


def test_int8_without_calibration_data_is_refused() -> None:
    with pytest.raises(PrecisionError, match="no calibration data"):
        to_int8(spectrum_model(), "static", [])


def test_missing_validation_data(tmp_path: Path) -> None:
    info = {"data": {"source": str(tmp_path / "gone")}}
    with pytest.raises(DataError, match=r"gone; give them with --data"):
        recorded_data(None, info, tmp_path)
    assert recorded_data(tmp_path, info, tmp_path) == tmp_path
    assert recorded_data(None, {"data": {"source": str(tmp_path)}}, tmp_path) == tmp_path
    assert recorded_data(None, {"data": {"source": "embedded corpus (800 pieces)"}}, tmp_path) is None
    # as earlier versions recorded it
    assert recorded_data(None, {"data": {"source": "embedded catalogue (800 pieces)"}}, tmp_path) is None


@pytest.mark.triton
def test_both_graphs_serve_on_a_real_triton(reduced: tuple[Path, ExportResult], tmp_path: Path) -> None:
    """Serve both on the CPU, where the fp16 graph also runs, if slowly."""
    import shutil

    repository = Path(shutil.copytree(reduced[0], tmp_path / "model_repository"))
    half = Path(shutil.copytree(repository / "genre_cnn", repository / "genre_half"))
    config = half / "config.pbtxt"
    config.write_text(
        config.read_text().replace("model.int8.onnx", "model.fp16.onnx").replace('"genre_cnn"', '"genre_half"')
    )
    audio = fixture_kind.example_inputs(3, 1)["audio"]
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer.start(options) as server:
        client = triton.InferenceServerClient(server.http_url.removeprefix("http://"))
        try:
            request = triton.InferInput("audio", list(audio.shape), "FP32")
            request.set_data_from_numpy(audio)
            answers = {name: client.infer(name, [request]) for name in ("genre_cnn", "genre_half")}
        finally:
            client.close()
    for model, file in (("genre_cnn", "model.int8.onnx"), ("genre_half", "model.fp16.onnx")):
        session = onnxruntime.InferenceSession(reduced[1].path / file)
        for name, expected in zip(NAMES, session.run(NAMES, {"audio": audio}), strict=True):
            np.testing.assert_allclose(answers[model].as_numpy(name), expected, atol=1e-5)
