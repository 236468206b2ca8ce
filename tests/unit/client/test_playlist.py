"""`playlist` and moods with models in memory, for both clients (how they are made: tests/unit/serving)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tritone import (
    AppliedMood,
    AsyncMusicClient,
    InferRequest,
    InvalidInputError,
    MusicClient,
    NothingKnownError,
    Playlist,
    PlaylistTrack,
    ServerError,
)
from tritone.testing import AsyncMockTransport, FakeRecommender, FakeServer, MockTransport

TRACKS = {f"track-{number}": (f"Title {number}", "Someone") for number in range(6)}


@pytest.fixture
def requests() -> list[InferRequest]:
    return []


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, requests: list[InferRequest]) -> Callable[..., Any]:
    """Call a method of a client; the requests are recorded."""
    server = FakeServer(FakeRecommender(TRACKS, users=["42"]))

    def handle(each: Any) -> Any:
        requests.append(each)
        return server(each)

    def call(method: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            with MusicClient(transport=MockTransport(handle), retries=0) as music:
                return getattr(music, method)(*arguments, **options)

        async def main() -> Any:
            async with AsyncMusicClient(transport=AsyncMockTransport(handle), retries=0) as music:
                return await getattr(music, method)(*arguments, **options)

        return asyncio.run(main())

    return call


def test_a_path(ask: Callable[..., Any], requests: list[InferRequest]) -> None:
    found = ask("playlist", "track-1", "track-4", n=4, seed=7, artist_gap=2, diversity=0.5)
    assert isinstance(found, Playlist)
    assert found.track_ids == ("track-1", "track-0", "track-2", "track-4")
    assert found[0] == PlaylistTrack("track-1", None, "Title 1", "Someone")
    assert found[1] == PlaylistTrack("track-0", 0.5, "Title 0", "Someone")
    assert (found.seed, found.compared_by, found.relaxed, found.by_taste) == (7, ("tags",), (), False)
    assert found.mood == AppliedMood("none", {})
    inputs = {name: array.tolist() for name, array in requests[0].inputs.items()}
    assert inputs == {
        "playlist_from": [[b"track-1"]],
        "playlist_to": [[b"track-4"]],
        "k": [[4]],
        "seed": [[7]],
        "artist_gap": [[2]],
        "diversity": [[0.5]],
    }
    again = Playlist.from_dict(json.loads(found.to_json()))
    assert again == found
    assert [row["track_id"] for row in found.to_pandas().to_dict("records")] == list(found.track_ids)


def test_a_mix_goes_on(ask: Callable[..., Any]) -> None:
    mix = ask("playlist", "track-1", n=3, user_id="42", mood={"calmness": 1.0, "sadness": 0.25})
    assert (mix.track_ids, mix.by_taste) == (("track-1", "track-0", "track-2"), True)
    assert mix.mood == AppliedMood("given", {"calmness": 1.0, "sadness": 0.25})
    more = ask("playlist", "track-1", n=5, after=mix.track_ids)
    assert (more.track_ids, more.relaxed) == (("track-3", "track-4", "track-5"), ("n",))
    assert more[0].similarity == 0.5  # to the last of the earlier tracks


def test_a_seed_is_drawn(ask: Callable[..., Any], requests: list[InferRequest]) -> None:
    seeds = [ask("playlist", "track-1").seed for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert [int(request.inputs["seed"][0, 0]) for request in requests] == seeds


def test_unknown_tracks(ask: Callable[..., Any]) -> None:
    for ends in (("nothing",), ("track-1", "nothing")):
        with pytest.raises(NothingKnownError):
            ask("playlist", *ends)
    assert ask("playlist", "track-1", exclude=["nothing"]).unknown.exclude == ("nothing",)


@pytest.mark.parametrize(
    ("argument", "arguments", "options"),
    [
        ("start", (None,), {}),
        ("start", ("",), {}),
        ("end", ("track-1", "track-1"), {}),
        ("end", ("track-1", ""), {}),
        ("n", ("track-1",), {"n": 0}),
        ("n", ("track-1",), {"n": 10_000}),
        ("n", ("track-1", "track-2"), {"n": 1}),
        ("n", ("track-1",), {"n": 2.0}),
        ("after", ("track-1", "track-2"), {"after": ["track-3"]}),
        ("artist_gap", ("track-1",), {"artist_gap": -1}),
        ("artist_gap", ("track-1",), {"artist_gap": 101}),
        ("diversity", ("track-1",), {"diversity": float("nan")}),
        ("seed", ("track-1",), {"seed": -1}),
        ("mood", ("track-1",), {"mood": "glum"}),
        ("mood", ("track-1",), {"mood": {"glum": 1.0}}),
        ("mood", ("track-1",), {"mood": {"power": float("nan")}}),
        ("mood", ("track-1",), {"mood": {"power": -0.5}}),
        ("mood", ("track-1",), {"mood": {"power": 1.5}}),
        ("mood", ("track-1",), {"mood": {"power": "much"}}),
        ("mood", ("track-1",), {"mood": {"power": True}}),
        ("mood", ("track-1",), {"mood": {"power": 0.0}}),
        ("mood", ("track-1",), {"mood": {}}),
        ("mood", ("track-1",), {"mood": ["power"]}),
        ("mood", ("track-1",), {"mood": 5}),
    ],
)
def test_invalid_arguments_are_refused(
    ask: Callable[..., Any], requests: list[InferRequest], argument: str, arguments: Any, options: Any
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ask("playlist", *arguments, **options)
    assert caught.value.argument == argument
    assert not requests


@pytest.mark.parametrize("text", ["", "{}", '{"artist_gap": "x"}', "[1]", "{", '{"artist_gap": null}'])
def test_a_malformed_description_of_a_playlist_is_an_error(text: str) -> None:
    server = FakeServer(FakeRecommender(TRACKS))

    def handle(request: Any) -> Any:
        reply = server(request)
        reply.outputs["playlist"] = np.array([[text]], object)
        return reply

    with MusicClient(transport=MockTransport(handle), retries=0) as music, pytest.raises(ServerError) as caught:
        music.playlist("track-1")
    assert (caught.value.reason, caught.value.output) == ("invalid_output", "playlist")


def test_a_mood_by_name_or_strengths_reaches_the_model(ask: Callable[..., Any], requests: list[InferRequest]) -> None:
    by_name = ask("recommend", mood="power")
    by_strength = ask("recommend", mood={"tension": 0.5, "amazement": 0.0})
    assert (by_name.source, by_strength.source) == ("mood", "mood")
    assert (by_name.mood.source, by_strength.mood) == ("given", AppliedMood("given", {"tension": 0.5}))
    assert requests[0].inputs["mood"].tolist() == [[b"power"]]
    assert "mood_strengths" not in requests[0].inputs
    strengths = requests[1].inputs["mood_strengths"]
    assert (strengths.shape, strengths.dtype) == ((1, 9), np.float32)
    assert strengths[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0.5, 0]
    assert type(by_strength).from_dict(json.loads(by_strength.to_json())) == by_strength
