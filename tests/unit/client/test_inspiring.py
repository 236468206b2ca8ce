"""inspire, with fake models; each test of results runs for both clients."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tritone import (
    AsyncMusicClient,
    Grid,
    InferRequest,
    Inspiration,
    InvalidInputError,
    InvalidModelNameError,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    Request,
    RequestRejectedError,
    ServerError,
)
from tritone.constants import EMOTIONS
from tritone.operations.moods import OPENINGS, opening
from tritone.testing import (
    AsyncMockTransport,
    FakeComposer,
    FakeGenreModel,
    FakeInspirer,
    FakeRecommender,
    FakeServer,
    MockTransport,
    Reply,
)

TRACKS = {"reel-1": ("The Reel", "A"), "jig-2": ("The Jig", "B"), "mass-3": ("", "")}
FAKES = (
    FakeComposer(styles=("any", "folk")),
    FakeGenreModel({"jazz": 0.25, "rock": 0.75}, emotions=np.linspace(0, 0.8, 9).tolist(), tags={"fast": 0.5}),
    FakeRecommender(TRACKS),
)


def server() -> FakeServer:
    return FakeServer(*FAKES, FakeInspirer(*FAKES))


@pytest.fixture(params=["sync", "async"])
def inspire(request: pytest.FixtureRequest) -> Callable[..., tuple[Inspiration, list[Request]]]:
    """Return a function that returns the result and the requests of a call, by either client."""

    def call(handler: Any = None, **arguments: Any) -> tuple[Inspiration, list[Request]]:
        if request.param == "sync":
            transport = MockTransport(handler or server())
            with MusicClient(transport=transport, retries=0) as music:
                return music.inspire(**arguments), transport.requests

        async def main() -> tuple[Inspiration, list[Request]]:
            transport = AsyncMockTransport(handler or server())
            async with AsyncMusicClient(transport=transport, retries=0) as music:
                return await music.inspire(**arguments), transport.requests

        return asyncio.run(main())

    return call


def tune(n_bars: int = 2) -> Grid:
    frames = np.zeros((16 * n_bars, 88), np.uint8)
    frames[::4, 50] = 2
    return Grid(frames, meter=(16, 0), tempo_qpm=90.0)


def sent(requests: list[Request]) -> InferRequest:
    (found,) = (each for each in requests if isinstance(each, InferRequest))
    return found


@pytest.mark.parametrize("prompt", [None, tune()])
def test_the_piece_is_that_of_compose(inspire: Any, prompt: Grid | None) -> None:
    result, _ = inspire(prompt=prompt, bars=3, seed=7, temperature=0.8, top_k=5, top_p=0.9, style="folk")
    with MusicClient(transport=MockTransport(server())) as music:
        piece = music.compose(prompt=prompt, bars=3, seed=7, temperature=0.8, top_k=5, top_p=0.9, style="folk")
    assert result.piece.to_dict() == piece.to_dict()
    assert (result.piece.model, result.piece.seed) == ("music_transformer", 7)


def test_the_result_has_all_parts(inspire: Any) -> None:
    result, requests = inspire(bars=2, seed=1, n=2)
    heard = result.classification
    assert (heard.label, heard.model, heard.model_version, heard.tags) == ("rock", "genre_cnn", "1", None)
    assert list(heard.probabilities) == ["rock", "jazz"]
    assert next(iter(heard.emotions)) == EMOTIONS[-1]
    assert [window.start_s for window in heard.timeline] == [0.0, 3.0]
    assert heard.duration_s == pytest.approx(5.0)  # 4 s at 120 quarters a minute, and the last note
    assert np.linalg.norm(heard.embedding) == pytest.approx(1.0)
    tracks = result.recommendations
    assert (tracks.track_ids, tracks.source) == (("reel-1", "jig-2"), "audio")
    assert (tracks[0].title, tracks[0].artist) == ("The Reel", "A")
    assert result.request_s == heard.request_s > 0
    assert result.render_s == 0.0
    assert (result.model, result.model_version, result.mood) == ("inspire", "1", None)
    assert result.request_id == sent(requests).request_id == heard.request_ids[0]


def test_one_request_after_the_metadata() -> None:
    transport = MockTransport(server())
    with MusicClient(transport=transport) as music:
        music.inspire(bars=1)
        assert [type(each) for each in transport.requests] == [ModelRequest] * 3 + [InferRequest]
        music.inspire(bars=1)
        assert [type(each) for each in transport.requests[4:]] == [InferRequest]
        music.classify((np.sin(np.arange(70_000) / 10), 22_050))  # its metadata is cached, too
        assert [type(each) for each in transport.requests[5:]] == [InferRequest]


def test_the_result_goes_through_json(inspire: Any) -> None:
    result, _ = inspire(bars=1, seed=1, mood="calmness")
    values = json.loads(result.to_json())
    assert values.keys() == Inspiration.json_properties.keys()
    again = Inspiration.from_dict(values)
    assert again.to_dict() == result.to_dict()
    assert again.recommendations.track_ids == result.recommendations.track_ids
    assert again.mood == "calmness"
    html = result._repr_html_()
    assert "rock" in html
    assert "The Reel" in html


# --- moods --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", EMOTIONS)
def test_a_mood_sets_tempo_and_mode_and_is_sent(inspire: Any, mood: str) -> None:
    result, requests = inspire(bars=3, seed=4, mood=mood)
    grid = result.piece.grid
    assert grid.tempo_qpm == OPENINGS[mood].tempo_qpm
    assert (grid.n_bars, grid.n_frames) == (3, 48)
    assert sent(requests).inputs["mood"].tolist() == [[mood.encode()]]
    struck = np.flatnonzero(grid.frames[0] == 2)
    third = 4 if OPENINGS[mood].mode == "major" else 3
    assert (np.diff(struck) == [7, 12 - 7 + third, 12 - third]).all()
    assert sent(requests).inputs["frame_s"][0, 0] == pytest.approx(15 / grid.tempo_qpm)


def test_the_seed_chooses_the_key_of_a_mood() -> None:
    roots = [int(np.flatnonzero(opening("power", seed, 4).frames[0])[0]) for seed in range(13)]
    assert len(set(roots)) == 12
    assert roots[12] == roots[0]
    assert max(roots) - min(roots) == 11


def test_a_tempo_outranks_that_of_the_mood(inspire: Any) -> None:
    assert inspire(bars=1, mood="sadness", tempo_qpm=100.0)[0].piece.grid.tempo_qpm == 100.0


def test_a_prompt_outranks_the_mood_in_the_music(inspire: Any) -> None:
    with_mood, requests = inspire(prompt=tune(), bars=1, seed=1, mood="sadness")
    without, _ = inspire(prompt=tune(), bars=1, seed=1)
    assert with_mood.piece.to_dict() == without.piece.to_dict()
    assert sent(requests).inputs["mood"].tolist() == [[b"sadness"]]


# --- invalid input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"mood": "grumpy"}, "mood"),
        ({"mood": 3}, "mood"),
        ({"bars": 0}, "bars"),
        ({"bars": 257}, "bars"),
        ({"bars": 1.5}, "bars"),
        ({"n": 0}, "n"),
        ({"n": 10_001}, "n"),
        ({"seed": -1}, "seed"),
        ({"temperature": 0}, "temperature"),
        ({"tempo_qpm": 5}, "tempo_qpm"),
        ({"style": "polka"}, "style"),
        ({"mood": "power", "bars": 0}, "bars"),
    ],
)
def test_invalid_arguments_are_refused(inspire: Any, arguments: dict[str, Any], argument: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        inspire(**arguments)
    assert caught.value.argument == argument


def test_a_piece_that_is_too_long_to_be_heard_is_refused(inspire: Any) -> None:
    assert inspire(bars=95)[0].piece.grid.n_bars == 95  # 190 s
    for arguments in ({"bars": 96}, {"bars": 30, "tempo_qpm": 20.0}, {"bars": 80, "prompt": tune(64)}):
        with pytest.raises(InvalidInputError) as caught:
            inspire(**arguments)
        assert (caught.value.argument, caught.value.reason) == ("bars", "too_long")


def test_invalid_names_are_refused_and_other_models_too(inspire: Any) -> None:
    with pytest.raises(InvalidModelNameError):
        inspire(model="../inspire")
    with pytest.raises(ModelNotFoundError):
        inspire(model="nobody")
    with pytest.raises(ServerError) as caught:
        inspire(model="music_transformer")
    assert caught.value.reason == "unsuitable_model"


# --- servers ------------------------------------------------------------------------------------------------


def test_an_ensemble_that_does_not_name_its_steps_is_refused(inspire: Any) -> None:
    real = server()

    def handler(request: Request) -> Reply:
        reply: Any = real(request)
        is_ensemble = isinstance(request, ModelRequest) and request.model == "inspire"
        return dataclasses.replace(reply, parameters={}) if is_ensemble else reply

    with pytest.raises(ServerError, match="composer_model") as caught:
        inspire(handler)
    assert caught.value.reason == "unsuitable_model"


def test_after_a_rejection_the_metadata_of_all_steps_is_fetched_again() -> None:
    real, rejected = server(), []

    def handler(request: Request) -> Reply:
        if isinstance(request, InferRequest) and not rejected:
            rejected.append(request)
            raise RequestRejectedError("unexpected shape", model=request.model)
        return real(request)

    transport = MockTransport(handler)
    with MusicClient(transport=transport) as music:
        assert music.inspire(bars=1, seed=1).piece.seed == 1
    asked = [each.model for each in transport.requests if isinstance(each, ModelRequest)]
    assert asked == ["inspire", "music_transformer", "genre_cnn"] * 2
