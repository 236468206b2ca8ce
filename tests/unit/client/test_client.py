"""Tests of both clients with a model in memory; every test runs the synchronous and the asynchronous client."""

from __future__ import annotations

import asyncio
import io
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import soundfile

from tritone import (
    AsyncMusicClient,
    ClientError,
    ConnectionFailedError,
    InferRequest,
    InvalidAudioError,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.constants import EMOTIONS
from tritone.exceptions import VersionChangedError


def test_a_recording_becomes_a_classification(connect: Any, model: Any, make_noise: Any) -> None:
    result = connect()("classify", make_noise(20))
    assert result.label == max(result.probabilities, key=result.probabilities.get)
    assert list(result.probabilities.values()) == sorted(result.probabilities.values(), reverse=True)
    assert set(result.probabilities) == {"classical", "synth:pop", "rock"}
    assert sum(result.probabilities.values()) == pytest.approx(1)
    assert set(result.emotions) == set(EMOTIONS)
    assert next(iter(result.emotions)) == EMOTIONS[-1]
    assert result.tags is None
    assert [window.start_s for window in result.timeline] == pytest.approx([0, 3, 6, 9, 12, 15, 17])
    means = np.mean([list(window.probabilities.values()) for window in result.timeline], axis=0)
    np.testing.assert_allclose([result.probabilities[label] for label in model.labels], means, atol=1e-6)
    felt = np.mean([list(window.emotions.values()) for window in result.timeline], axis=0)
    np.testing.assert_allclose([result.emotions[name] for name in EMOTIONS], felt, atol=1e-6)
    assert result.embedding.shape == (256,)
    assert result.embedding.dtype == np.float32
    assert np.linalg.norm(result.embedding) == pytest.approx(1)
    assert (result.model, result.model_version, result.duration_s) == ("genre_cnn", "3", pytest.approx(20))
    sent = model.inferences()
    assert [len(request.inputs["audio"]) for request in sent] == [4, 3]  # max_batch_size is 4
    assert result.request_ids == tuple(request.request_id for request in sent)
    assert len(set(result.request_ids)) == 2
    assert result.decode_s > 0
    assert result.request_s > 0
    assert "classical" in repr(result)
    assert "array" not in repr(result)


def test_metadata_is_requested_once(connect: Any, model: Any, make_noise: Any) -> None:
    ask = connect()
    for _ in range(3):
        ask("classify", make_noise(3))
    kinds = [type(request).__name__ for request in model.requests]
    assert kinds == ["ModelRequest"] + 3 * ["InferRequest"]


def test_top_limits_the_probabilities_only(connect: Any, make_noise: Any) -> None:
    result = connect()("classify", make_noise(3), top=1)
    assert list(result.probabilities) == [result.label]
    assert len(result.timeline[0].probabilities) == 3


def test_emotions_that_were_not_trained_are_none(connect: Any, model: Any, make_noise: Any) -> None:
    model.emotions = False
    result = connect()("classify", make_noise(3))
    assert result.emotions is None
    assert [window.emotions for window in result.timeline] == [None]


def test_tags_where_the_model_has_them(connect: Any, model: Any, make_noise: Any) -> None:
    model.tags = ("guitar", "slow", "female vocal")
    tags = connect()("classify", make_noise(3)).tags
    assert list(tags) == ["female vocal", "slow", "guitar"]


def test_embed_requests_the_embedding_alone(connect: Any, model: Any, make_noise: Any) -> None:
    embedding = connect()("embed", make_noise(9))
    assert embedding.shape == (256,)
    assert np.linalg.norm(embedding) == pytest.approx(1)
    assert embedding[0] / embedding[1] == pytest.approx(2)  # two windows point one way, one the other
    assert {request.outputs for request in model.inferences()} == {("embedding",)}


def test_a_short_recording_has_its_own_length(connect: Any, make_noise: Any) -> None:
    assert connect()("classify", make_noise(1.5)).duration_s == pytest.approx(1.5)


def test_readiness(connect: Any, model: Any) -> None:
    ask = connect()
    assert ask("server_ready") is True
    assert ask("model_ready", "genre_cnn") is True


def test_to_dict_is_plain(connect: Any, make_noise: Any) -> None:
    import json

    result = connect()("classify", make_noise(6))
    again = json.loads(json.dumps(result.to_dict()))
    assert again["label"] == result.label
    assert len(again["timeline"]) == 2
    assert len(again["embedding"]) == 256
    copy = pickle.loads(pickle.dumps(result))  # noqa: S301 - worker processes send results home like this
    assert copy.to_dict() == result.to_dict()


# --- versions ----------------------------------------------------------------------------------


def test_a_new_version_between_two_calls_brings_its_labels(connect: Any, model: Any, make_noise: Any) -> None:
    ask = connect()
    ask("classify", make_noise(3))
    model.version, model.labels, model.tags = "4", ("jazz", "folk"), ("loud",)
    result = ask("classify", make_noise(3))
    assert result.model_version == "4"
    assert set(result.probabilities) == {"jazz", "folk"}
    assert set(result.tags) == {"loud"}


@pytest.mark.parametrize("method", ["classify", "embed"])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_new_version_in_the_middle_of_a_recording(
    connect: Any, model: Any, make_noise: Any, method: str, as_file: bool
) -> None:
    audio: Any = make_noise(30)
    if as_file:  # must be read from its beginning again
        file = io.BytesIO()
        soundfile.write(file, *audio, format="WAV")
        audio = file
    ask = connect()
    ask(method, make_noise(3))
    n_before = len(model.requests)

    def go_live(request: Any) -> None:
        if len(model.requests) == n_before + 2:
            model.version = "4"

    model.before = go_live
    result = ask(method, audio)
    answered = model.inferences()[1:]
    starts = sum(len(request.inputs["audio"]) for request in answered[-3:])
    assert starts == 10  # all ten windows were asked of the new version
    if method == "classify":
        assert result.model_version == "4"
        assert len(result.timeline) == 10
        assert len(result.request_ids) == 3


@pytest.mark.parametrize("heeds_versions", [True, False])
def test_versions_that_keep_changing_are_an_error(
    connect: Any, model: Any, make_noise: Any, heeds_versions: bool
) -> None:
    model.heeds_versions = heeds_versions

    def flip(request: Any) -> None:
        if isinstance(request, InferRequest):
            model.version = str(int(model.version) + 1)

    model.before = flip
    began_s = time.monotonic()
    with pytest.raises(VersionChangedError) as caught:
        connect(timeout_s=1)("classify", make_noise(3))
    assert time.monotonic() - began_s < 5
    assert len(model.requests) > 6  # it took its time, and made something of it
    assert caught.value.model == "genre_cnn"


def test_the_same_version_loaded_again_with_other_labels(connect: Any, model: Any, make_noise: Any) -> None:
    ask = connect()
    ask("classify", make_noise(3))
    model.labels = ("jazz", "folk")
    assert set(ask("classify", make_noise(3)).probabilities) == {"jazz", "folk"}


# --- retries and timeouts ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionFailedError("gone"), ServerBusyError("full")])
def test_temporary_errors_are_retried(connect: Any, model: Any, make_noise: Any, failing: Any, error: Any) -> None:
    model.before = failing(2, error)
    began_s = time.monotonic()
    assert connect(retries=2)("classify", make_noise(3)).label
    assert 0.15 * 0.9 < time.monotonic() - began_s < 5  # waits of at least 0.05 and 0.1 s
    model.before = failing(3, error)
    with pytest.raises(type(error)):
        connect(retries=2)("classify", make_noise(3))


@pytest.mark.parametrize("error", [ModelNotFoundError("x"), RequestRejectedError("x"), RequestTimeoutError("x")])
def test_permanent_errors_are_not_retried(connect: Any, model: Any, make_noise: Any, failing: Any, error: Any) -> None:
    model.before = failing(1, error)
    with pytest.raises(type(error)):
        connect(retries=5)("classify", make_noise(3))
    assert len(model.requests) == 1


def test_retries_have_the_same_request_id(connect: Any, model: Any, make_noise: Any, failing: Any) -> None:
    ask = connect()
    ask("embed", make_noise(3))
    model.before = failing(1, ConnectionFailedError("gone"))
    ask("embed", make_noise(3))
    ids = [request.request_id for request in model.inferences()]
    assert ids[1] == ids[2] != ids[0]


def test_the_timeout_holds_for_the_whole_call(connect: Any, model: Any, make_noise: Any) -> None:
    def wait(request: Any) -> None:
        if isinstance(request, InferRequest):
            time.sleep(0.15)

    model.before = wait
    began_s = time.monotonic()
    with pytest.raises(RequestTimeoutError) as caught:
        connect(timeout_s=0.4)("classify", make_noise(120))
    assert time.monotonic() - began_s < 5
    assert (caught.value.model, caught.value.timeout_s) == ("genre_cnn", 0.4)
    assert any("s of audio had arrived" in note for note in caught.value.__notes__)


def test_there_is_no_wait_beyond_the_timeout(connect: Any, model: Any, make_noise: Any, failing: Any) -> None:
    gone = ConnectionFailedError("gone")
    model.before = failing(100, gone)
    began_s = time.monotonic()
    with pytest.raises(ConnectionFailedError) as caught:  # the cause, not a time-out
        connect(timeout_s=0.5, retries=100)("classify", make_noise(3))
    assert caught.value is gone
    assert time.monotonic() - began_s < 3


# --- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"timeout_s": 1e18},
        {"timeout_s": "5"},
        {"timeout_s": True},
        {"timeout_s": 10**400},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"genre_model": "../x"},
    ],
)
def test_invalid_options(connect: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect(**options)
    assert caught.value.argument == next(iter(options)).replace("genre_model", "model")


@pytest.mark.parametrize("name", ["", ".", "..", "../etc", "a/b", "a b", "é", "a\n", "genre%2fcnn", None, 3])
def test_invalid_model_names(connect: Any, model: Any, make_noise: Any, name: Any) -> None:
    ask = connect()
    for method, args in (("classify", (make_noise(3),)), ("embed", (make_noise(3),)), ("model_ready", ())):
        if name is None:  # means the client's own model, and the server for `model_ready`
            continue
        with pytest.raises(InvalidInputError) as caught:
            ask(method, *args, name) if method == "model_ready" else ask(method, *args, model=name)
        assert caught.value.argument == "model"
    assert not model.requests


@pytest.mark.parametrize("top", [0, -1, 1.0, "2", True])
def test_invalid_top(connect: Any, make_noise: Any, top: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("classify", make_noise(3), top=top)
    assert caught.value.argument == "top"


def test_errors_of_recordings_reach_the_caller(connect: Any, model: Any) -> None:
    for method in ("classify", "embed"):
        with pytest.raises(InvalidAudioError) as caught:
            connect()(method, "/no/such/file.wav")
        assert caught.value.reason == "missing"


def test_a_response_with_nan(connect: Any, model: Any, make_noise: Any, monkeypatch: Any) -> None:
    infer = model.infer

    def broken(request: Any) -> Any:
        response = infer(request)
        response.outputs["probabilities"][0, 0] = np.nan
        return response

    monkeypatch.setattr(model, "infer", broken)
    with pytest.raises(ServerError) as caught:
        connect()("classify", make_noise(3))
    assert (caught.value.reason, caught.value.output) == ("invalid_output", "probabilities")


def test_unsuitable_models(connect: Any, model: Any, make_noise: Any, monkeypatch: Any) -> None:
    handle = model.handle

    def other(request: Any, *, timeout_s: float) -> Any:
        response = handle(request, timeout_s=timeout_s)
        if isinstance(request, ModelRequest):
            object.__setattr__(response, "inputs", {"tokens": (-1, -1)})
        return response

    monkeypatch.setattr(model, "handle", other)
    with pytest.raises(ServerError) as caught:
        connect()("classify", make_noise(3))
    assert (caught.value.model, caught.value.reason) == ("genre_cnn", "unsuitable_model")


def test_closed_clients_raise(connect: Any, model: Any, make_noise: Any) -> None:
    ask = connect()
    ask("close")
    ask("close")
    assert model.closed == 2
    with pytest.raises(ClientError) as caught:
        ask("classify", make_noise(3))
    assert caught.value.reason == "closed"
    assert "closed" in repr(ask.client)


# --- sharing -----------------------------------------------------------------------------------


def test_one_client_many_threads(model: Any, make_noise: Any) -> None:
    clips = [make_noise(3 + i % 5, seed=i, gain=0.05 + 0.02 * i) for i in range(24)]
    with MusicClient(transport=model) as music:
        expected = [music.classify(clip).to_dict()["timeline"] for clip in clips]
        with ThreadPoolExecutor(8) as pool:
            found = [result.to_dict()["timeline"] for result in pool.map(music.classify, clips)]
    assert found == expected
    assert model.closed == 1


async def test_one_async_client_many_tasks(model: Any, as_async: Any, make_noise: Any) -> None:
    clips = [make_noise(3, seed=i, gain=0.05 + 0.02 * i) for i in range(12)]
    async with AsyncMusicClient(transport=as_async(model)) as music:
        expected = [(await music.classify(clip)).probabilities for clip in clips]
        found = await asyncio.gather(*(music.classify(clip) for clip in clips))
    assert [result.probabilities for result in found] == expected


def test_notes_on_a_recording_are_part_of_the_result(connect: Any, make_noise: Any) -> None:
    noise, rate_hz = make_noise(3)
    ask = connect()
    plain = ask("classify", (noise, rate_hz))
    opposite = ask("classify", (np.stack([noise, -noise], axis=1), rate_hz))
    assert plain.notes == ()
    assert opposite.notes == (
        "channels cancel each other for 3.0 s (opposite polarity); channel 1 alone is used there",
    )
    assert opposite.to_dict()["notes"] == list(opposite.notes)
    assert opposite.probabilities == plain.probabilities


async def test_decoding_leaves_the_event_loop_free(model: Any, as_async: Any) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert threading.current_thread() is not threading.main_thread()
            time.sleep(0.05)
            return super().read(size)

    written = io.BytesIO()
    soundfile.write(written, np.random.default_rng(0).uniform(-0.5, 0.5, 22_050 * 5), 22_050, format="WAV")
    file = Slow(written.getvalue())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with AsyncMusicClient(transport=as_async(model)) as music:
        await music.classify(file)
    ticking.cancel()
    assert ticks >= 3


async def test_cancelling_a_call(as_async: Any, model: Any, make_noise: Any) -> None:
    class Never:
        async def handle(self, request: Any, *, timeout_s: float) -> Any:
            await asyncio.sleep(60)

        async def close(self) -> None: ...

    async with AsyncMusicClient(transport=Never()) as music:
        task = asyncio.create_task(music.classify(make_noise(3)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_an_async_client_belongs_to_one_loop(model: Any, as_async: Any) -> None:
    music = AsyncMusicClient(transport=as_async(model))
    assert asyncio.run(music.server_ready())
    with pytest.raises(ClientError) as caught:
        asyncio.run(music.server_ready())
    assert caught.value.reason == "other_event_loop"
