"""Samples as floats and as 16-bit integers against a real Triton, over both protocols."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.conftest import make_network, make_repository
from tests.integration.python_models import wait_until

from tritone import AsyncMusicClient, MusicClient, RequestRejectedError
from tritone_serving import TritonServer

pytestmark = pytest.mark.triton

NAME, PCM16 = "wire", "wire_pcm16"
WEIGHTS = "c" * 64


def add_parameters(config: Path, **parameters: str) -> None:
    entries = (
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n' for key, value in parameters.items()
    )
    config.write_text(config.read_text() + "".join(entries))


def pcm16_network() -> Any:
    """Return the network of the tests behind a conversion of 16-bit samples."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = make_network()
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["samples" if name == "audio" else name for name in node.input]
    scale = numpy_helper.from_array(np.array(1 / 32_768, np.float32), "scale")
    graph.initializer.append(scale)
    graph.node.insert(0, helper.make_node("Cast", ["audio"], ["whole"], to=TensorProto.FLOAT))
    graph.node.insert(1, helper.make_node("Mul", ["whole", "scale"], ["samples"]))
    graph.input[0].type.tensor_type.elem_type = TensorProto.INT16
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path]) -> None:
    import onnx

    folder = make_repository(tmp_path_factory.mktemp("wire"), name=NAME)
    shutil.copytree(folder / NAME, folder / PCM16)
    onnx.save(pcm16_network(), str(folder / PCM16 / "1" / "model.onnx"))
    config = folder / PCM16 / "config.pbtxt"
    config.write_text(
        config.read_text()
        .replace(f'"{NAME}"', f'"{PCM16}"')
        .replace("TYPE_FP32 dims: [ 66150 ]", "TYPE_INT16 dims: [ 66150 ]")
    )
    add_parameters(config, weights_sha256=WEIGHTS)
    add_parameters(folder / NAME / "config.pbtxt", weights_sha256=WEIGHTS, pcm16_model=PCM16)
    serve_models(folder)


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


def clip(seconds: float, gain: float = 0.5) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(5).uniform(-gain, gain, round(seconds * 22_050))
    return samples.astype(np.float32), 22_050


def n_inferences(music: MusicClient, model: str) -> int:
    return music.model_info(model).n_inferences


def test_integers_and_floats_have_the_same_result(url: str) -> None:
    recording = clip(20)
    with MusicClient(url, audio_format="int16", genre_model=NAME) as whole:
        before = n_inferences(whole, PCM16)
        result = whole.classify(recording)
        assert (
            wait_until(lambda: n_inferences(whole, PCM16) == before + 7, 10) < math.inf
        )  # Triton counts after it has answered
        n_floats = n_inferences(whole, NAME)
    with MusicClient(url, audio_format="float32", genre_model=NAME) as floats:
        expected = floats.classify(recording)
        assert wait_until(lambda: n_inferences(floats, NAME) == n_floats + 7, 10) < math.inf
        assert n_inferences(floats, PCM16) == before + 7
    for label, probability in expected.probabilities.items():
        assert result.probabilities[label] == pytest.approx(probability, abs=1e-3)
    assert (result.model, result.model_version) == (expected.model, expected.model_version)
    np.testing.assert_allclose(result.embedding, expected.embedding, atol=1e-3)


def test_async_clients(url: str) -> None:
    async def run() -> Any:
        async with AsyncMusicClient(url, audio_format="int16", genre_model=NAME) as music:
            return await asyncio.gather(*(music.classify(clip(6)) for _ in range(4)))

    results = asyncio.run(run())
    assert len({tuple(result.probabilities.items()) for result in results}) == 1


def test_samples_beyond_full_scale(url: str) -> None:
    with MusicClient(url, audio_format="int16", genre_model=NAME) as music:
        before = n_inferences(music, NAME)
        assert music.classify(clip(3, gain=1.5)).model == NAME
        assert wait_until(lambda: n_inferences(music, NAME) == before + 1, 10) < math.inf


def test_floats_are_refused_by_the_companion(url: str) -> None:
    from tritone import InferRequest
    from tritone.endpoints import make_endpoint
    from tritone.transports import make_transport

    transport = make_transport(make_endpoint(url))
    request = InferRequest(PCM16, "floats", {"audio": np.zeros((1, 66_150), np.float32)}, ("probabilities",))
    with pytest.raises(RequestRejectedError):
        transport.handle(request, timeout_s=10)
    transport.close()
