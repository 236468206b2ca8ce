"""The transports and fake models for the tests of applications."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from tritone import (
    AsyncMusicClient,
    InferRequest,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    MusicClient,
    NothingKnownError,
    Piece,
    ReadyResponse,
    Request,
    ServerBusyError,
    StreamRequest,
)
from tritone.messages import InferResponse, ModelResponse
from tritone.testing import (
    AsyncMockTransport,
    FakeComposer,
    FakeGenreModel,
    FakeModel,
    FakeRecommender,
    FakeServer,
    MockTransport,
)

TRACKS = {"a": ("Blue", "Someone"), "b": ("Blue Sky", "Nobody"), "c": ("", ""), "d": ("Green", "Some Body")}


def tone(gain: float) -> tuple[np.ndarray, int]:
    return gain * np.sin(np.arange(70_000) / 10).astype(np.float32), 22_050


def server() -> FakeServer:
    model = FakeGenreModel({"jazz": 0.25, "rock": 0.75}, emotions=np.linspace(0, 0.8, 9).tolist(), tags={"fast": 0.5})
    return FakeServer(model, FakeComposer(styles=("any", "folk")), FakeRecommender(TRACKS, users=["u"]))


def test_a_function_answers_requests() -> None:
    transport = MockTransport(lambda request: ReadyResponse(request.model is None))
    with MusicClient(transport=transport) as music:
        assert music.server_ready()
        assert not music.model_ready("genre_cnn")
        assert not transport.closed
    assert transport.closed
    assert [request.model for request in transport.requests] == [None, "genre_cnn"]


def test_errors_of_a_handler_reach_the_application() -> None:
    def busy(request: Request) -> ReadyResponse:
        raise ServerBusyError("the queue is full", model=request.model)

    transport = MockTransport(busy)
    with MusicClient(transport=transport, retries=0) as music, pytest.raises(ServerBusyError) as caught:
        music.embed(tone(0.5))
    assert caught.value.model == "genre_cnn"
    assert transport.requests == [ModelRequest("genre_cnn")]


@pytest.mark.parametrize("reply", [None, ReadyResponse(True)])
def test_a_handler_that_returns_something_else_is_a_type_error(reply: Any) -> None:
    request = StreamRequest("composer", "id", {}, ())
    with pytest.raises(TypeError):
        MockTransport(lambda _: reply).handle(ModelRequest("genre_cnn"), timeout_s=1)
    with pytest.raises(TypeError):
        next(MockTransport(lambda _: reply).stream(request, timeout_s=1))
    with pytest.raises(TypeError):
        asyncio.run(AsyncMockTransport(lambda _: reply).handle(ModelRequest("genre_cnn"), timeout_s=1))


async def test_coroutine_functions_answer_asynchronous_clients() -> None:
    fakes = server()

    async def handler(request: Request) -> Any:
        await asyncio.sleep(0)
        return fakes(request)

    transport = AsyncMockTransport(handler)
    async with AsyncMusicClient(transport=transport) as music:
        assert (await music.classify(tone(0.5))).label == "rock"
        async with music.stream_compose(bars=2, seed=1) as stream:
            chunks = [chunk async for chunk in stream]
    assert transport.closed
    assert [len(chunk.frames) for chunk in chunks] == [4, 12, 16]
    assert isinstance(transport.requests[-1], StreamRequest)


async def test_functions_answer_asynchronous_clients() -> None:
    async with AsyncMusicClient(transport=AsyncMockTransport(server())) as music:
        assert (await music.recommend(n=2)).track_ids == ("a", "b")
        assert await music.model_ready("recommender")


def test_repeated_bars_are_copies() -> None:
    fake = FakeComposer(styles=("any", "folk"), templates=[
        {"style": "folk", "bar": 16, "mode": 0, "density": 1, "n_voices": 1, "repeats": [0, 0, 2, 1]},
    ])  # fmt: skip
    with MusicClient(transport=MockTransport(fake)) as music:
        asked = music.compose(bars=4, seed=1, structure="ABAA")
        drawn = music.compose(bars=4, seed=1)
        with music.stream_compose(bars=4, seed=1) as stream:
            assert list(stream)
    bars = asked.grid.frames.reshape(4, 16, 88)
    assert (bars[0] == bars[2]).all()
    assert (bars[0] == bars[3]).all()
    assert (bars[0] != bars[1]).any()
    bars = drawn.grid.frames.reshape(4, 16, 88)
    assert (bars[0] == bars[2]).all()
    assert (bars[0] == bars[3]).all()
    assert drawn.conditions["style"] == "folk"
    assert stream.result().to_dict() | {"model": ""} == drawn.to_dict() | {"model": ""}


def test_a_composer_of_an_earlier_release_takes_no_conditions() -> None:
    fake = FakeComposer(takes_conditions=False)
    assert not fake.models["music_transformer"].inputs.keys() & {"key", "density", "n_voices", "end", "repeats"}
    with MusicClient(transport=MockTransport(fake)) as music:
        assert music.compose(bars=1, seed=1).grid.n_bars == 1
        with pytest.raises(InvalidInputError):
            music.compose(bars=1, key="C")


def test_classifications_are_those_of_the_test() -> None:
    with MusicClient(transport=MockTransport(server())) as music:
        found = music.classify(tone(0.5))
    assert found.probabilities == {"rock": 0.75, "jazz": 0.25}
    assert found.tags == {"fast": 0.5}
    assert found.emotions is not None
    assert found.emotions["sadness"] == pytest.approx(0.8)


def test_a_genre_model_needs_no_arguments_and_has_a_name_and_a_version() -> None:
    transport = MockTransport(FakeGenreModel(name="mine", version="7"))
    with MusicClient(transport=transport, genre_model="mine") as music:
        found = music.classify(tone(0.5))
    assert (found.label, found.model, found.model_version, found.emotions, found.tags) == (
        "classical",
        "mine",
        "7",
        None,
        None,
    )


def test_embeddings_are_near_for_recordings_of_similar_loudness() -> None:
    with MusicClient(transport=MockTransport(FakeGenreModel())) as music:
        soft, softer, loud = (music.embed(tone(gain)) for gain in (0.3, 0.25, 0.9))
    assert soft @ softer > soft @ loud
    assert np.linalg.norm(soft) == pytest.approx(1)


def test_pieces_follow_from_the_seed_streamed_or_not() -> None:
    with MusicClient(transport=MockTransport(FakeComposer(styles=("any", "folk")))) as music:
        piece = music.compose(bars=3, seed=5, style="folk")
        with music.stream_compose(bars=3, seed=5) as stream:
            n_chunks = len(list(stream))
        other = music.compose(bars=3, seed=6)
    assert isinstance(piece, Piece)
    assert piece.grid.frames.shape == (48, 88)
    assert n_chunks == 4
    np.testing.assert_array_equal(stream.result().grid.frames, piece.grid.frames)
    assert not np.array_equal(other.grid.frames, piece.grid.frames)


def test_melodies_are_harmonized_an_octave_below_and_bars_are_replaced() -> None:
    with MusicClient(transport=MockTransport(FakeComposer())) as music:
        melody = music.compose(bars=2, seed=3)
        harmonized = music.harmonize(melody.grid).grid.frames > 0
        infilled = music.infill(melody.grid, bars=(1, 2), seed=4).grid.frames
    high = np.argwhere(melody.grid.frames > 0)
    assert harmonized[tuple(high.T)].all()
    assert all(harmonized[step, max(pitch - 12, 0)] for step, pitch in high)
    np.testing.assert_array_equal(infilled[:16], melody.grid.frames[:16])
    assert not np.array_equal(infilled[16:], melody.grid.frames[16:])


def test_recommendations_leave_out_what_was_listened_to_skipped_or_excluded() -> None:
    transport = MockTransport(server())
    with MusicClient(transport=transport) as music:
        assert music.recommend(history=["a"], skipped=["c"], exclude=["d"]).track_ids == ("b",)
        assert music.recommend(history=["a"], filter_listened=False, n=3).track_ids == ("a", "b", "c")
        found = music.recommend("u", explain=True)
        unknown_user = music.recommend("x")
        some_unknown = music.recommend(history=["a", "y"])
        assert music.recommend(audio=tone(0.5)).source == "audio"
    assert (found.source, found[0].title, found[0].artist, found[2].title) == ("user", "Blue", "Someone", None)
    assert found[0].reasons[0].amount == found[0].score
    assert [track.score for track in found] == sorted((track.score for track in found), reverse=True)
    assert (unknown_user.source, unknown_user.unknown.user) == ("popularity", True)
    assert (some_unknown.source, some_unknown.unknown.history) == ("history", ("y",))
    assert isinstance(transport.requests[0], InferRequest)


def test_nothing_is_recommended_for_unknown_ids_alone() -> None:
    with MusicClient(transport=MockTransport(server())) as music:
        for arguments in ({"history": ["y"]}, {"friends": ["y"]}, {"user_id": "x", "history": ["y"]}):
            with pytest.raises(NothingKnownError) as caught:
                music.recommend(**arguments)
            assert caught.value.model == "recommender"
        assert music.recommend(history=["y"], mood="calmness").source == "mood"


def test_similar_tracks_exclude_the_track_itself() -> None:
    with MusicClient(transport=MockTransport(FakeRecommender(["a", "b", "c"]))) as music:
        assert music.similar("b").track_ids == ("a", "c")
        with pytest.raises(NothingKnownError):
            music.similar("x")


def test_searches_find_ids_titles_and_artists() -> None:
    with MusicClient(transport=MockTransport(FakeRecommender(TRACKS))) as music:
        found = [(track.track_id, track.match, track.field) for track in music.find_tracks("blue")]
        assert found == [("a", "exact", "title"), ("b", "words", "title")]
        assert music.find_tracks("body some").tracks[0].match == "words"
        assert music.find_tracks("blue", by="artist").total == 0
        page = music.find_tracks("blue", limit=1, offset=1)
        assert [track.score for track in music.search("blue some", n=1)] == [0.5]
        assert music.search("qqq").source == "words"
        assert "a" not in music.recommend(history=["Blue"], resolve=True).track_ids
    assert (page.track_ids, page.total, page.offset) == (("b",), 2, 1)


@pytest.mark.parametrize("handler", [server(), FakeRecommender(["a"])])
def test_missing_models_are_not_found(handler: Any) -> None:
    with MusicClient(transport=MockTransport(handler)) as music:
        assert music.server_ready()
        assert music.model_ready("recommender")
        assert not music.model_ready("opera")
        with pytest.raises(ModelNotFoundError) as caught:
            music.classify(tone(0.5), model="opera")
        assert caught.value.model == "opera"
        assert music.model_info("recommender") in music.models()
        with pytest.raises(ModelNotFoundError):
            music.model_info("opera")


def test_a_model_of_the_application_itself() -> None:
    class Silence(FakeModel):
        def run(self, inputs: Any) -> Any:
            return {"frames": np.zeros((1, inputs["noise"].shape[1], 88), np.uint8)}

    choice = dict.fromkeys(("temperature", "top_k", "top_p"), (-1, 1))
    inputs = {"prompt": (-1, -1, 88), "noise": (-1, -1, 88), **choice}
    model = Silence(ModelResponse("mine", ("1",), inputs, {"frames": (-1, -1, 88)}, 8))
    with MusicClient(transport=MockTransport(model)) as music:
        assert not music.compose(bars=1, model="mine").grid.frames.any()
    (reply,) = model(StreamRequest("mine", "id", {"noise": np.zeros((1, 2, 88))}, ("frames",)))  # type: ignore[misc]
    assert isinstance(reply, InferResponse)
    assert (reply.request_id, reply.outputs["frames"].shape) == ("id", (1, 2, 88))
