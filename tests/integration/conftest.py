"""One real server for each test process, to which modules add the models that they need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone_serving import ServerOptions, TritonServer

MODEL = "genre_cnn"
WINDOW_SAMPLES = 66_150
N_LABELS = 4
N_EMOTIONS = 9
EMBEDDING_SIZE = 256
MAX_BATCH = 64
STOP_TIMEOUT_S = 1.0  # a channel that a test holds open keeps a server from stopping earlier

CONFIG = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: 64
input [ {{ name: "audio" data_type: TYPE_FP32 dims: [ 66150 ] }} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }},
  {{ name: "emotions" data_type: TYPE_FP32 dims: [ 9 ] }},
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ 256 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{
  preferred_batch_size: [ 8, 16, 32 ]
  max_queue_delay_microseconds: {delay_us}
  default_queue_policy {{ timeout_action: REJECT default_timeout_microseconds: 5000000 max_queue_size: 256 }}
}}
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
parameters {{ key: "labels" value: {{ string_value: '{labels}' }} }}
"""
LABELS = ("classical", "electronic", "pop", "rock")


def make_network() -> Any:
    """A small ONNX graph with `genre_cnn`'s tensors, whose answers depend on their own window alone.

    audio (B, 66150) -> probabilities (B, 4), emotions (B, 9), embedding (B, 256).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Unsqueeze", ["audio", "one"], ["channel"]),
        helper.make_node("Conv", ["channel", "filters"], ["filtered"], strides=[2205]),
        helper.make_node("Abs", ["filtered"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude", "two"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "to_label"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("MatMul", ["pooled", "to_emotion"], ["feelings"]),
        helper.make_node("Sigmoid", ["feelings"], ["emotions"]),
        helper.make_node("MatMul", ["pooled", "to_embedding"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=-1, p=2),
    ]
    sizes = {"probabilities": N_LABELS, "emotions": N_EMOTIONS, "embedding": EMBEDDING_SIZE}
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["batch", WINDOW_SAMPLES])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in sizes.items()],
        [
            weight("filters", 32, 1, 2205),
            weight("to_label", 32, N_LABELS),
            weight("to_emotion", 32, N_EMOTIONS),
            weight("to_embedding", 32, EMBEDDING_SIZE),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([2], np.int64), "two"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def make_repository(path: Path, *, name: str = MODEL, delay_us: int = 500) -> Path:
    """Write a repository with one model, as an export does."""
    import onnx

    version = path / name / "1"
    version.mkdir(parents=True)
    onnx.save(make_network(), str(version / "model.onnx"))
    (path / name / "config.pbtxt").write_text(CONFIG.format(name=name, delay_us=delay_us, labels=labels_json(LABELS)))
    (path / name / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return path


def labels_json(labels: Sequence[str]) -> str:
    return json.dumps({"probabilities": list(labels)})


def relabel(folder: Path, labels: Sequence[str]) -> None:
    """Give a model other class names, as the export of another version does."""
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace(labels_json(LABELS), labels_json(labels)))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[TritonServer]:
    """The test process's server; tests leave it as they found it."""
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    options = ServerOptions(repository=repository, stop_timeout_s=STOP_TIMEOUT_S, **ports)
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture(scope="module")
def serve_models(server: TritonServer, repository: Path) -> Iterator[Callable[[Path], Path]]:
    """Copy all models of a folder into the repository of `server` and load them until the module's tests are done.

    The function returns the repository. Tests whose subject is a server's start, options, stop or death need a server
    of their own.
    """
    served: list[str] = []

    def serve(source: Path) -> Path:
        configs = {path.parent.name: path.read_text() for path in sorted(source.glob("*/config.pbtxt"))}
        for name in configs:
            shutil.copytree(source / name, repository / name)
        for name in sorted(configs, key=lambda name: "ensemble_scheduling" in configs[name]):  # after their steps
            server.load_model(name)
            served.append(name)
        return repository

    yield serve
    for name in reversed(served):
        server.unload_model(name)
        shutil.rmtree(repository / name)


@pytest.fixture
def make_model_repository() -> Callable[..., Path]:
    return make_repository


@pytest.fixture
def options_for() -> Callable[..., ServerOptions]:
    """Options on free ports."""

    def options(repository: Path, **given: Any) -> ServerOptions:
        usual = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "stop_timeout_s": STOP_TIMEOUT_S}
        return ServerOptions(**{"repository": repository, **usual, **given})

    return options


@pytest.fixture
def windows() -> Callable[..., np.ndarray[Any, Any]]:
    """Windows of noise, different for each call."""
    rng = np.random.default_rng()

    def make(n_windows: int) -> np.ndarray[Any, Any]:
        return rng.uniform(-1, 1, (n_windows, WINDOW_SAMPLES)).astype(np.float32)

    return make
