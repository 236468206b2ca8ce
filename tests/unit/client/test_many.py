"""Many recordings at once: order, errors, progress, bounds; results as JSON, HTML and data frames."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tritone import AsyncMusicClient, ClientError, InvalidAudioError, InvalidInputError, MusicClient
from tritone.constants import EMOTIONS
from tritone.testing import AsyncMockTransport, FakeComposer, FakeGenreModel, FakeRecommender, MockTransport

RATE_HZ = 22_050


def tones(n: int) -> list[tuple[np.ndarray, int]]:
    return [(np.sin(np.arange((i % 3 + 1) * RATE_HZ) / 20).astype(np.float32) / (i + 1), RATE_HZ) for i in range(n)]


def test_results_come_in_the_order_of_the_inputs() -> None:
    inputs = tones(12)
    progress: list[int] = []
    with MusicClient(transport=MockTransport(FakeGenreModel())) as music:
        results = list(music.classify_many(inputs, concurrency=4, on_progress=progress.append))
        singles = [music.classify(each) for each in inputs]
    assert [each.duration_s for each in results] == [each.duration_s for each in singles]
    assert progress == list(range(1, 13))


async def test_results_of_the_asynchronous_client_come_in_order() -> None:
    inputs = tones(12)
    async with AsyncMusicClient(transport=AsyncMockTransport(FakeGenreModel())) as music:
        vectors = [each async for each in music.embed_many(inputs, concurrency=4)]
        singles = [await music.embed(each) for each in inputs]
    assert np.array_equal(np.stack(vectors), np.stack(singles))


def test_an_error_ends_the_iteration_or_takes_its_place() -> None:
    inputs = [tones(1)[0], b"not audio", tones(1)[0]]
    with MusicClient(transport=MockTransport(FakeGenreModel())) as music:
        kinds = [type(each).__name__ for each in music.classify_many(inputs, on_error="return")]
        with pytest.raises(InvalidAudioError):
            list(music.classify_many(inputs))
    assert kinds == ["Classification", "InvalidAudioError", "Classification"]


async def test_an_error_of_the_asynchronous_client_takes_its_place() -> None:
    inputs = [tones(1)[0], b"not audio", tones(1)[0]]
    async with AsyncMusicClient(transport=AsyncMockTransport(FakeGenreModel())) as music:
        kinds = [type(each).__name__ async for each in music.classify_many(inputs, on_error="return")]
        with pytest.raises(InvalidAudioError):
            _ = [each async for each in music.classify_many(inputs)]
    assert kinds == ["Classification", "InvalidAudioError", "Classification"]


def test_calls_at_once_and_inputs_ahead_are_bounded() -> None:
    running, most, taken = 0, 0, 0
    lock = threading.Lock()
    fake = FakeGenreModel()

    def slow(request: object) -> object:
        nonlocal running, most
        if type(request).__name__ != "InferRequest":
            return fake(request)
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return fake(request)

    def source() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal taken
        for each in tones(30):
            taken += 1
            yield each

    with MusicClient(transport=MockTransport(slow)) as music:
        results = music.classify_many(source(), concurrency=3)
        next(results)
        assert taken <= 7
        results.close()
    assert 1 <= most <= 3


@pytest.mark.parametrize("values", [{"concurrency": 0}, {"concurrency": 1_000}, {"on_error": "ignore"}])
def test_invalid_options_are_refused(values: dict[str, object]) -> None:
    with MusicClient(transport=MockTransport(FakeGenreModel())) as music, pytest.raises(InvalidInputError) as raised:
        list(music.classify_many([], **values))
    assert raised.value.argument in values


def test_a_closed_client_refuses() -> None:
    music = MusicClient(transport=MockTransport(FakeGenreModel()))
    music.close()
    with pytest.raises(ClientError):
        list(music.classify_many(tones(1)))


def test_results_are_json_html_and_data_frames() -> None:
    from tritone.testing import FakeServer

    fakes = FakeServer(FakeGenreModel(), FakeComposer(), FakeRecommender(["<a>", "b"]))
    with MusicClient(transport=MockTransport(fakes)) as music:
        classification = music.classify(tones(3)[2])
        piece = music.compose(bars=1, seed=1)
        recommendations = music.recommend(n=2, explain=True)
        page = music.find_tracks("b")
    for result in (classification, piece, recommendations, page):
        assert json.loads(result.to_json()) == json.loads(json.dumps(result.to_dict()))
    assert "data:image/svg+xml" in classification._repr_html_()
    assert "<audio controls" in piece._repr_html_()
    assert "&lt;a&gt;" in recommendations._repr_html_()
    assert "<a>" not in recommendations._repr_html_()
    assert list(recommendations.to_pandas()["track_id"]) == ["<a>", "b"]
    assert list(page.to_pandas()["track_id"]) == ["b"]
    frame = classification.to_pandas()
    assert frame.index.name == "start_s"
    assert frame.shape == (len(classification.timeline), len(classification.probabilities))


def test_emotions_over_time_are_a_data_frame() -> None:
    with MusicClient(transport=MockTransport(FakeGenreModel(emotions=np.linspace(0, 0.8, 9).tolist()))) as music:
        frame = music.classify(tones(3)[2]).to_pandas("emotions")
    assert list(frame.columns) == list(EMOTIONS)
    assert frame.iloc[0]["sadness"] == pytest.approx(0.8)
    with MusicClient(transport=MockTransport(FakeGenreModel())) as music:
        result = music.classify(tones(3)[2])
    for values in ("emotions", "tags"):
        with pytest.raises(InvalidInputError):
            result.to_pandas(values)  # type: ignore[arg-type]
