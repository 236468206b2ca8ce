"""recommend and similar, with models in memory; each test runs for both clients."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import pickle
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.recommenders import ITEMS, FakeRecommender, said, texts

from tritone import (
    AsyncMusicClient,
    ConnectionFailedError,
    InferRequest,
    InvalidAudioError,
    InvalidInputError,
    ModelNotFoundError,
    NothingKnownError,
    Reason,
    Recommendation,
    Recommendations,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    UnknownIds,
    constants,
)


@pytest.fixture
def model() -> FakeRecommender:
    return FakeRecommender()


# --- recommend ----------------------------------------------------------------------------------


def test_a_known_user(connect: Any, model: FakeRecommender) -> None:
    tracks = connect()("recommend", "42", n=12)
    assert len(tracks) == 12
    assert tracks[0] == Recommendation("track-0", 1.0)
    assert tracks[11] == Recommendation("track-11", 1 - 11 / 64, "Title 11", "Someone")
    assert (tracks.source, tracks.arm, tracks.model, tracks.model_version) == ("user", "a", "recommender", "3")
    assert not tracks.unknown
    (request,) = model.requests  # nothing need be known about the model beforehand
    assert tracks.request_id == request.request_id
    assert said(request) == {"user_id": "42", "k": 12}


def test_recommendations_are_a_sequence(connect: Any) -> None:
    tracks = connect()("recommend", n=3, explain=True)
    assert isinstance(tracks, Sequence)
    assert tuple(tracks) == tracks.recommendations == tracks[:]
    assert [track.track_id for track in tracks[1:]] == ["track-1", "track-2"]
    assert tracks.track_ids == ("track-0", "track-1", "track-2")
    assert max(tracks, key=lambda track: track.score) is tracks[0]
    assert repr(tracks).startswith("Recommendations([Recommendation(track_id='track-0', score=1.0, ")
    assert "source='popularity', recommender v3)" in repr(tracks)
    assert "ease" not in repr(tracks)
    plain = json.loads(json.dumps(tracks.to_dict()))
    assert plain["recommendations"][0]["reasons"][0] == {
        "base_model": "ease",
        "because": "history",
        "id": "Jóga",
        "amount": 0.5,
        "title": "Jóga (2022 remaster)",
        "artist": "Björk",
    }
    assert plain["source"] == "popularity"
    assert plain["unknown"] == {
        "user": False,
        "history": [],
        "skipped": [],
        "friends": [],
        "exclude": [],
        "mood": False,
        "audio": False,
        "events": False,
    }
    again = pickle.loads(pickle.dumps(tracks))  # noqa: S301 - worker processes send results home like this
    assert type(again) is Recommendations
    assert again.to_dict() == tracks.to_dict()
    assert Recommendations().track_ids == ()


def test_all_arguments_reach_the_model(connect: Any, model: FakeRecommender) -> None:
    tracks = connect()(
        "recommend",
        "Björk",
        history=["track-3", "track-3", "track-5"],
        weights=[2, 0.5, np.float32(0)],
        times=[1_700_000_000.7, None, datetime(2024, 1, 1, tzinfo=UTC)],
        skipped=("track-0",),
        friends={"42"},
        mood="calmness",
        n=4,
        exclude=np.array(["track-1"]),
        filter_listened=False,
        diversity=0.25,
        novelty=1,
        explain=True,
    )
    assert said(model.asked()[0]) == {
        "user_id": "Björk",
        "history": ["track-3", "track-3", "track-5"],
        "weights": [2, 0.5, 0],
        "times": [1_700_000_000, 0, 1_704_067_200],
        "skipped": ["track-0"],
        "friends": ["42"],
        "mood": "calmness",
        "k": 4,
        "exclude": ["track-1"],
        "filter_listened": False,
        "diversity": 0.25,
        "novelty": 1,
        "explain": True,
    }
    assert tracks.track_ids == ("track-2", "track-3", "track-4", "track-5")


def test_empty_arguments_are_not_sent(connect: Any, model: FakeRecommender) -> None:
    nothing: list[str] = []
    ask = connect()
    ask(
        "recommend",
        None,
        history=[],
        weights=[],
        times=[],
        skipped=(),
        friends=iter(nothing),
        exclude=np.array(nothing),
    )
    ask("recommend", filter_listened=np.True_, explain=np.False_, diversity=0, novelty=np.float64(0))
    assert [said(request) for request in model.asked()] == [{"k": 10}, {"k": 10}]


def test_only_useful_outputs_are_requested(connect: Any, model: FakeRecommender) -> None:
    ask = connect()
    plain, explained, somebody = ask("recommend"), ask("recommend", explain=True), ask("recommend", friends=["42"])
    always = {"item_ids", "scores", "titles", "artists", "source", "arm"}
    assert [set(request.outputs) - always for request in model.asked()] == [set(), {"reasons"}, {"unknown"}]
    assert plain[0].reasons == somebody[0].reasons == ()
    (first, second) = explained[3].reasons
    assert first == Reason("ease", "history", "Jóga", 0.5, "Jóga (2022 remaster)", "Björk")
    assert first.amount + second.amount == pytest.approx(explained[3].score)


def test_integers_are_ids_everywhere(connect: Any, model: FakeRecommender) -> None:
    ask = connect()
    tracks = ask(
        "recommend", 42, history=np.array([7, 2**62]), skipped=[np.uint8(3)], friends=(42, -1), exclude=range(2)
    )
    assert tracks.source == "user"
    with pytest.raises(NothingKnownError):
        ask("similar", np.int32(7))
    given, likeness = map(said, model.asked())
    assert given["user_id"] == "42"
    assert [given[name] for name in ("history", "skipped", "friends", "exclude")] == [
        ["7", str(2**62)],
        ["3"],
        ["42", "-1"],
        ["0", "1"],
    ]
    assert likeness["similar_to"] == "7"


@pytest.mark.parametrize("n", [1, np.int64(1)])
def test_reasons_can_be_limited_to_the_largest(connect: Any, model: FakeRecommender, n: int) -> None:
    tracks = connect()("recommend", n=2, explain=n)
    assert [len(track.reasons) for track in tracks] == [1, 1]
    assert tracks[0].reasons[0].because == "history"
    assert said(model.asked()[0])["explain"] is True
    assert len(connect()("recommend", n=2, explain=9)[0].reasons) == 2


@pytest.mark.parametrize("who", ["Björk", "Björk".encode(), np.str_("Björk"), np.bytes_("Björk".encode())])
def test_ids_are_text_or_its_bytes(connect: Any, model: FakeRecommender, who: Any) -> None:
    history = ["Jóga", "夜に駆ける".encode(), np.str_("track-1"), "\0", "🎵" * 1_000, " "]
    tracks = connect()("recommend", who, history=history, n=100)
    assert tracks.source == "user"
    assert said(model.asked()[0])["history"] == ["Jóga", "夜に駆ける", "track-1", "\0", "🎵" * 1_000, " "]
    assert set(tracks.track_ids) == {*ITEMS} - {"Jóga", "夜に駆ける", "track-1"}
    assert tracks.unknown == UnknownIds(history=("\0", "🎵" * 1_000, " "))


def test_unknown_ids_are_reported(connect: Any) -> None:
    ask = connect()
    tracks = ask("recommend", "me", history=["x", "track-1"], friends=["42", "y"], skipped=["z"], exclude=["ü"])
    assert tracks.unknown == UnknownIds(True, ("x",), ("z",), ("y",), ("ü",), mood=False)
    assert tracks.unknown
    assert tracks.source == "history"
    assert tracks.to_dict()["unknown"]["friends"] == ["y"]
    assert ask("recommend", "me").source == "popularity"


def test_a_long_history(connect: Any, model: FakeRecommender) -> None:
    ids = [f"track-{number % 9}" for number in range(100_000)]
    tracks = connect()("recommend", history=ids, weights=np.ones(100_000), n=1)
    assert tracks.track_ids == ("track-9",)
    assert model.asked()[0].inputs["history"].shape == (1, 100_000)
    with pytest.raises(InvalidInputError) as caught:
        connect()("recommend", history=itertools.repeat("x"))
    assert caught.value.argument == "history"
    with pytest.raises(InvalidInputError) as caught:
        connect()("recommend", exclude=[*ids, "x"])
    assert caught.value.argument == "exclude"
    assert len(model.requests) == 1


def test_fewer_tracks_than_requested(connect: Any) -> None:
    assert connect()("recommend", n=10_000).track_ids == ITEMS
    assert connect()("recommend", n=10, exclude=ITEMS).recommendations == ()


# --- a recording --------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_recordings_are_embedded_as_by_embed(
    connect: Any, model: FakeRecommender, make_noise: Any, seconds: float
) -> None:
    audio = make_noise(seconds)
    ask = connect()
    tracks = ask("recommend", audio=audio)
    assert tracks.source == "audio"
    (request,) = model.asked()
    np.testing.assert_array_equal(request.inputs["embedding"], ask("embed", audio)[None])
    assert request.inputs["embedding"].shape == (1, 256)
    assert set(request.inputs) == {"k", "embedding"}
    ask("similar", audio=audio, n=3)
    np.testing.assert_array_equal(model.asked()[1].inputs["embedding"], request.inputs["embedding"])


def test_all_forms_of_a_recording(connect: Any, model: FakeRecommender, make_noise: Any, tmp_path: Any) -> None:
    samples, rate_hz = make_noise(4)
    path = tmp_path / "song.wav"
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    ask = connect()
    with path.open("rb") as file:
        for audio in (path, str(path), path.read_bytes(), file, io.BytesIO(path.read_bytes()), (samples, rate_hz)):
            ask("recommend", "42", audio=audio)
    embeddings = [request.inputs["embedding"] for request in model.asked()]
    assert len(embeddings) == 6
    assert all((embedding == embeddings[0]).all() for embedding in embeddings)


def test_recordings_are_embedded_by_the_genre_model_of_the_client(connect: Any, make_noise: Any) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        connect(genre_model="other_cnn")("recommend", audio=make_noise(3))
    assert caught.value.model == "other_cnn"


def test_bad_recordings(connect: Any, model: FakeRecommender, make_noise: Any, tmp_path: Any) -> None:
    recordings: dict[str, Any] = {
        "missing": tmp_path / "none.wav",
        "unreadable": b"not a song",
        "silent": (np.zeros(44_100), 44_100),
        "too_short": (np.zeros(9) + 0.1, 44_100),
    }
    for reason, audio in recordings.items():
        for method in ("recommend", "similar"):
            with pytest.raises(InvalidAudioError) as unusable:
                connect()(method, audio=audio)
            assert unusable.value.reason == reason
    assert not model.asked()
    with pytest.raises(InvalidInputError) as caught:  # what costs nothing is checked first
        connect()("recommend", audio=make_noise(3), mood="glum")
    assert caught.value.argument == "mood"
    assert not model.asked("genre_cnn")[4:]


# --- similar ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["listening", "sound", "both"])
def test_similar(connect: Any, model: FakeRecommender, by: str) -> None:
    tracks = connect()("similar", "track-1", by=by, n=3)
    assert tracks.track_ids == ("track-0", "track-2", "track-3")
    assert (tracks.source, tracks.arm, bool(tracks.unknown)) == (None, None, False)
    assert tracks.model_version == "3"
    (request,) = model.requests
    assert said(request) == {"similar_to": "track-1", "by": by, "k": 3}
    assert request.outputs == ("item_ids", "scores", "titles", "artists")


def test_similar_to_a_track_with_a_non_ascii_id(connect: Any, model: FakeRecommender) -> None:
    connect()("similar", "夜に駆ける".encode())
    assert said(model.asked()[0]) == {"similar_to": "夜に駆ける", "by": "both", "k": 10}


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((), {}, ("track_id", "conflict")),
        (("track-1",), {"audio": b"x"}, ("track_id", "conflict")),
        (("track-1",), {"by": "taste"}, ("by", None)),
        (("track-1",), {"by": None}, ("by", None)),
        (("track-1",), {"by": ["sound"]}, ("by", None)),
        ((), {"audio": b"x", "by": "listening"}, ("by", "conflict")),
        (("",), {}, ("track_id", None)),
        ((7.0,), {}, ("track_id", None)),
        ((10**100,), {}, ("track_id", None)),
        (("track-1",), {"n": 0}, ("n", None)),
        (("track-1",), {"n": 10**9}, ("n", None)),
        (("track-1",), {"model": "no/model"}, ("model", None)),
    ],
)
def test_invalid_arguments_of_similar(
    connect: Any, model: FakeRecommender, arguments: Any, options: Any, expected: Any
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("similar", *arguments, **options)
    assert (caught.value.argument, caught.value.reason) == expected
    assert not model.requests


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n": -1},
        {"n": 10**9},
        {"n": 10_001},
        {"n": 2.0},
        {"n": True},
        {"n": None},
        {"user_id": ""},
        {"user_id": 42.0},
        {"user_id": np.float64(42)},
        {"user_id": float("nan")},
        {"user_id": ["42"]},
        {"user_id": True},
        {"user_id": b"\xff"},
        {"user_id": "\udcff"},
        {"history": "track-1"},
        {"history": b"track-1"},
        {"history": 7},
        {"history": np.array("x")},
        {"history": {"track-1": 3}},
        {"history": ["track-1", 5.5]},
        {"history": ["track-1", np.bool_(True)]},
        {"history": ["track-1", None]},
        {"history": [["track-1"]]},
        {"history": ["track-1", b"\xc3("]},
        {"skipped": ["a", ""]},
        {"friends": [False]},
        {"exclude": [1.5]},
        {"weights": [1.0]},
        {"history": ["a", "b"], "weights": [1]},
        {"history": ["a"], "weights": []},
        {"history": ["a"], "weights": 1},
        {"history": ["a"], "weights": "1"},
        {"history": ["a"], "weights": {"a": 1}},
        {"history": ["a", "b"], "weights": [1, float("nan")]},
        {"history": ["a"], "weights": [float("inf")]},
        {"history": ["a"], "weights": [1e39]},
        {"history": ["a"], "weights": [10**320]},
        {"history": ["a"], "weights": [-0.1]},
        {"history": ["a"], "weights": ["1"]},
        {"history": ["a"], "weights": [True]},
        {"history": ["a"], "weights": np.ones((1, 2))},
        {"times": [1.0]},
        {"history": ["a", "b"], "times": [1]},
        {"history": ["a"], "times": 1},
        {"history": ["a"], "times": [float("nan")]},
        {"history": ["a"], "times": [-1]},
        {"history": ["a"], "times": ["2024-01-01"]},
        {"history": ["a"], "times": [True]},
        {"history": ["a"], "times": [1_700_000_000_000]},
        {"history": ["a"], "times": [datetime(2024, 1, 1)]},
        {"mood": "happy"},
        {"mood": ""},
        {"mood": b"calmness"},
        {"mood": 3},
        {"diversity": -0.01},
        {"diversity": 1.01},
        {"diversity": float("nan")},
        {"novelty": 2},
        {"novelty": "1"},
        {"novelty": None},
        {"filter_listened": None},
        {"explain": 0},
        {"explain": -1},
        {"explain": 2.0},
        {"explain": "yes"},
        {"model": "../etc"},
        {"timeout_s": 0},
    ],
    ids=str,
)
def test_invalid_arguments_of_recommend(connect: Any, model: FakeRecommender, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("recommend", **wrong)
    assert caught.value.argument == list(wrong)[-1]
    assert len(str(caught.value)) < 300
    assert not model.requests


@pytest.mark.parametrize(
    ("wrong", "element"),
    [
        ({"history": ["a", 5.5]}, "history[1]"),
        ({"history": [["a"]]}, "history[0]"),
        ({"skipped": ["a", "b", ""]}, "skipped[2]"),
        ({"friends": [False]}, "friends[0]"),
        ({"history": ["a", "b"], "weights": [1, float("nan")]}, "weights[1]"),
        ({"history": ["a", "b"], "times": [None, float("inf")]}, "times[1]"),
    ],
)
def test_errors_name_the_invalid_element_of_a_list(connect: Any, wrong: dict[str, Any], element: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("recommend", **wrong)
    assert f"invalid {element}:" in str(caught.value)


@pytest.mark.parametrize("value", [42.0, np.float64(42)])
def test_errors_say_how_to_convert_a_float_to_an_id(connect: Any, value: Any) -> None:
    with pytest.raises(InvalidInputError, match="convert it first, as in '42'"):
        connect()("recommend", user_id=value)


def test_errors_say_what_is_wrong_with_a_time(connect: Any) -> None:
    with pytest.raises(InvalidInputError, match="add its zone"):
        connect()("recommend", history=["a"], times=[datetime(2024, 1, 1)])
    with pytest.raises(InvalidInputError, match="divide milliseconds by 1,000"):
        connect()("recommend", history=["a"], times=[1_700_000_000_000])


def test_errors_say_where_rejected_tracks_belong(connect: Any) -> None:
    with pytest.raises(InvalidInputError, match="use skipped"):
        connect()("recommend", history=["a"], weights=[-0.1])


# --- the server ---------------------------------------------------------------------------------


def test_errors_of_the_server_reach_the_caller(connect: Any, model: FakeRecommender, failing: Any) -> None:
    ask = connect(retries=0)
    with pytest.raises(NothingKnownError, match="item 'x' is not known"):  # the server's message
        ask("similar", "x")
    with pytest.raises(ModelNotFoundError) as caught:
        ask("recommend", model="taste")
    assert caught.value.model == "taste"
    model.before = failing(1, ConnectionFailedError("gone"))
    with pytest.raises(ConnectionFailedError):
        ask("recommend")


def test_busy_servers_are_retried(connect: Any, model: FakeRecommender, failing: Any) -> None:
    model.before = failing(2, ServerBusyError("full"))
    assert len(connect()("recommend")) == 10
    assert len(model.requests) == 3
    assert len({request.request_id for request in model.asked()}) == 1


def test_the_timeout_holds_for_recording_and_recommendation_together(
    connect: Any, model: FakeRecommender, make_noise: Any
) -> None:
    model.before = lambda request: time.sleep(0.2) if isinstance(request, InferRequest) else None
    with pytest.raises(RequestTimeoutError) as caught:
        connect()("recommend", audio=make_noise(3), timeout_s=0.15)
    assert caught.value.timeout_s == 0.15
    assert not model.asked()


@pytest.mark.parametrize(
    "spoilt",
    [
        {"scores": np.ones((1, 9), np.float32)},
        {"scores": np.full((1, 10), np.nan, np.float32)},
        {"item_ids": texts(["a"] * 11)},
        {"item_ids": np.array("a", object)},
        {"item_ids": texts(["a"] * 20).reshape(2, 10)},
        {"titles": texts([])},
        {"source": texts(["user", "mood"])},
        {"unknown": texts(["{"])},
        {"unknown": texts(["[1]"])},
        {"reasons": texts(["no JSON"] * 10)},
        {"reasons": texts(['[{"base_model": "ease"}]'] * 10)},
        {"reasons": texts(["{}"] * 9)},
    ],
)
def test_invalid_responses(connect: Any, model: FakeRecommender, spoilt: Any) -> None:
    model.spoil = lambda outputs: outputs.update(spoilt)
    with pytest.raises(ServerError) as caught:
        connect()("recommend", "42", explain=True)
    assert (caught.value.model, caught.value.request_id) == ("recommender", model.asked()[0].request_id)
    assert (caught.value.reason, caught.value.output) == ("invalid_output", next(iter(spoilt)))


def test_a_response_without_an_output(connect: Any, model: FakeRecommender) -> None:
    model.spoil = lambda outputs: outputs.pop("titles")
    with pytest.raises(ServerError) as caught:
        connect()("recommend")
    assert (caught.value.reason, caught.value.output) == ("missing_output", "titles")


def test_many_concurrent_recommendations(model: FakeRecommender, as_async: Any) -> None:
    async def main() -> list[Recommendations]:
        async with AsyncMusicClient(transport=as_async(model)) as music:
            return await asyncio.gather(*(music.recommend(exclude=[item]) for item in ITEMS[:8]))

    answers = asyncio.run(main())
    assert [item in tracks.track_ids for item, tracks in zip(ITEMS, answers, strict=False)] == [False] * 8


def test_client_and_engine_agree() -> None:
    engine = pytest.importorskip("tritone_serving.recommender.requests")
    assert pytest.importorskip("tritone_serving.recommender.moods").MOODS == constants.EMOTIONS
    assert engine.EMBEDDING_SIZE == constants.EMBEDDING_SIZE
    assert engine.MOST_ITEMS == constants.N_RECOMMENDED_MAX
    assert engine.MOST_HISTORY == constants.N_IDS_MAX
    similar = pytest.importorskip("tritone_serving.recommender.similarity")
    assert similar.WAYS == constants.WAYS_TO_BE_ALIKE
