"""Tests of how clients send samples: as floats, or as 16-bit integers to the companion of the model."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from tests.unit.client.conftest import AsyncFake, FakeModel, noise
from tests.unit.client.writers import lacks

from tritone import (
    AsyncMusicClient,
    InferRequest,
    InferResponse,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    Request,
    Response,
    ServerError,
    model_cache,
)
from tritone.audio import to_pcm16

WEIGHTS = "a" * 64


@dataclass
class FakePair(FakeModel):
    """A `genre_cnn` with a companion for 16-bit samples, which has its own version numbers."""

    weights: str = WEIGHTS
    pcm16_weights: str = WEIGHTS
    pcm16_version: str = "8"
    pcm16_type: str = "INT16"
    has_pcm16: bool = True
    pcm16_requests: list[Request] = field(default_factory=list)

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        if request.model != "genre_cnn_pcm16":
            response = super().handle(request, timeout_s=timeout_s)
            if isinstance(request, ModelRequest):
                parameters = {"pcm16_model": "genre_cnn_pcm16", "weights_sha256": self.weights}
                return with_parameters(response, parameters, "FP32")
            if isinstance(request, InferRequest):
                assert request.inputs["audio"].dtype == np.float32
            return response
        self.pcm16_requests.append(request)
        if not self.has_pcm16:
            raise ModelNotFoundError("no such model", model=request.model)
        if isinstance(request, ModelRequest):
            own = super().handle(replace(request, model="genre_cnn"), timeout_s=timeout_s)
            described = replace(own, model=request.model, versions=(self.pcm16_version,))
            return with_parameters(described, {"weights_sha256": self.pcm16_weights}, self.pcm16_type)
        assert isinstance(request, InferRequest)
        if request.version != self.pcm16_version:
            raise lacks(request)
        audio = request.inputs["audio"]
        assert audio.dtype == np.int16
        response = self.infer(replace(request, inputs={"audio": audio.astype(np.float32) / 32_768}))
        return replace(response, version=self.pcm16_version)

    def n_sent(self) -> tuple[int, int]:
        """Return the numbers of inferences with floats and with integers."""
        return len(self.inferences()), sum(isinstance(each, InferRequest) for each in self.pcm16_requests)


def with_parameters(response: Any, parameters: dict[str, str], audio_type: str) -> Any:
    return replace(response, parameters={**response.parameters, **parameters}, input_types={"audio": audio_type})


def classify(model: FakeModel, recording: Any, **options: Any) -> Any:
    with MusicClient(transport=model, retries=0, timeout_s=5, **options) as music:
        return music.classify(recording)


def test_samples_are_sent_as_integers_where_the_server_has_the_companion() -> None:
    model = FakePair()
    recording = noise(20)
    result = classify(model, recording, audio_format="int16")
    assert model.n_sent() == (0, 2)
    expected = classify(FakePair(), recording, audio_format="float32")
    for label, probability in expected.probabilities.items():
        assert result.probabilities[label] == pytest.approx(probability, abs=1e-4)
    assert (result.model, result.model_version) == (expected.model, expected.model_version) == ("genre_cnn", "3")


def test_integers_are_the_default() -> None:
    model = FakePair()
    classify(model, noise(3))
    assert model.n_sent() == (0, 1)


def test_floats_on_request() -> None:
    model = FakePair()
    classify(model, noise(3), audio_format="float32")
    assert model.n_sent() == (1, 0)
    assert not model.pcm16_requests


@pytest.mark.parametrize(
    "other",
    [
        {"has_pcm16": False},
        {"pcm16_weights": "b" * 64},
        {"weights": "", "pcm16_weights": ""},
        {"pcm16_type": "FP32"},
    ],
    ids=["missing", "another-network", "unknown-networks", "takes-floats"],
)
def test_floats_where_the_companion_does_not_fit(other: dict[str, Any]) -> None:
    model = FakePair(**other)
    with MusicClient(transport=model, audio_format="int16") as music:
        for _ in range(3):
            music.classify(noise(3))
    assert model.n_sent() == (3, 0)
    assert len(model.pcm16_requests) == 1  # the answer is remembered


def test_samples_beyond_full_scale_are_sent_as_floats() -> None:
    model = FakePair(max_batch_size=1)
    samples, rate_hz = noise(9)
    samples = samples.copy()
    samples[4 * rate_hz] = 1.25  # in the second window
    result = classify(model, (samples, rate_hz), audio_format="int16")
    assert model.n_sent() == (1, 2)
    assert result.model_version == "3"


def test_embed_and_groups_use_the_format() -> None:
    model = FakePair()
    with MusicClient(transport=model, audio_format="int16") as music:
        assert music.embed(noise(3)).shape == (256,)
        assert len(music.classify_group([noise(3), noise(3, seed=1)])) == 2
        music.with_priority("batch").classify(noise(3))
    assert model.n_sent() == (0, 3)


def test_async_clients_use_the_format() -> None:
    model = FakePair()

    async def run() -> Any:
        async with AsyncMusicClient(transport=AsyncFake(model), audio_format="int16") as music:
            return await music.classify(noise(3))

    assert asyncio.run(run()).model_version == "3"
    assert model.n_sent() == (0, 1)


def test_a_companion_that_is_unloaded_during_a_call() -> None:
    model = FakePair(max_batch_size=1)

    def unload(request: Request) -> None:
        if isinstance(request, InferRequest):
            model.has_pcm16 = len(model.pcm16_requests) < 3

    handle = model.handle

    def counted(request: Request, *, timeout_s: float) -> Response:
        unload(request)
        return handle(request, timeout_s=timeout_s)

    model.handle = counted  # type: ignore[method-assign]
    result = classify(model, noise(9), audio_format="int16")
    assert len(result.timeline) == 3
    assert model.n_sent()[0] >= 1
    assert result.model_version == "3"


def test_a_companion_with_a_new_version_is_looked_up_again() -> None:
    model = FakePair()
    with MusicClient(transport=model, audio_format="int16") as music:
        music.classify(noise(3))
        model.pcm16_version = "9"
        assert music.classify(noise(3)).model_version == "3"
    n_floats, n_integers = model.n_sent()
    assert n_floats == 0
    assert n_integers > 2  # the second call named the old version first


def test_a_roll_out_of_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_cache, "CACHED_FOR_S", 0.0)
    model = FakePair()
    with MusicClient(transport=model, audio_format="int16") as music:
        music.classify(noise(3))
        model.version, model.weights = "4", "b" * 64
        assert music.classify(noise(3)).model_version == "4"
        assert model.n_sent() == (1, 1)  # the companion still has the old network
        model.pcm16_version, model.pcm16_weights = "9", "b" * 64
        assert music.classify(noise(3)).model_version == "4"
        assert model.n_sent() == (1, 2)


def test_the_companion_itself_is_not_a_model_for_floats() -> None:
    model = FakePair()
    with MusicClient(transport=model) as music, pytest.raises(ServerError) as caught:
        music.classify(noise(3), model="genre_cnn_pcm16")
    assert caught.value.reason == "unsuitable_model"


@pytest.mark.parametrize("audio_format", ["pcm", "", None, 16])
def test_invalid_formats(audio_format: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        MusicClient(audio_format=audio_format)
    assert caught.value.argument == "audio_format"


def test_a_pickled_client_keeps_its_format() -> None:
    copied = pickle.loads(pickle.dumps(MusicClient(audio_format="float32")))  # noqa: S301 - made here
    assert copied._audio_format == "float32"


# --- conversion --------------------------------------------------------------------------------


def test_integers_are_rounded_to_the_nearest_step() -> None:
    step = 1 / 32_768
    samples = np.array([0, step, 0.49 * step, 0.51 * step, -0.51 * step, -1, 1 - step, 1], np.float32)
    converted = to_pcm16([samples])
    assert converted is not None
    assert converted.tolist() == [[0, 1, 0, 1, -1, -32_768, 32_767, 32_767]]
    assert converted.dtype == np.int16


@pytest.mark.parametrize("value", [1.0001, -1.0001, 5.0, np.inf, np.nan])
def test_samples_beyond_full_scale_have_no_integers(value: float) -> None:
    assert to_pcm16([np.zeros(4, np.float32), np.array([0, value, 0, 0], np.float32)]) is None


def test_sixteen_bit_files_are_sent_as_they_are() -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 3 * 22_050, dtype=np.int16)
    model = FakePair()
    received: list[Any] = []
    model.infer = lambda request: _kept(received, model, request)  # type: ignore[method-assign]
    classify(model, (samples, 22_050), audio_format="int16")
    np.testing.assert_array_equal(received[0].inputs["audio"][0] * 32_768, samples)


def _kept(received: list[Any], model: FakePair, request: InferRequest) -> InferResponse:
    received.append(request)
    return FakeModel.infer(model, request)
