"""stream_compose with a model in memory, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import numpy as np
import pytest
from tests.unit.client.test_composing import melody
from tests.unit.client.writers import FakeWriters

from tritone import (
    AsyncMusicClient,
    ClientError,
    ConnectionFailedError,
    Grid,
    InvalidInputError,
    InvalidScoreError,
    ModelNotFoundError,
    MusicClient,
    PieceChunk,
    RequestRejectedError,
    ServerBusyError,
    ServerError,
    StreamRequest,
)


@pytest.fixture
def model() -> FakeWriters:
    return FakeWriters()


@pytest.fixture(params=["sync", "async"])
def streamed(request: pytest.FixtureRequest, model: FakeWriters, as_async: Any) -> Any:
    """`streamed(stop_after=1, bars=8, ...)`: the chunks, and the piece so far."""

    def collect(stop_after: int = 10**9, **arguments: Any) -> tuple[list[PieceChunk], Any]:
        chunks: list[PieceChunk] = []
        with MusicClient(transport=model) as music, music.stream_compose(**arguments) as stream:
            for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == stop_after:
                    break
        return chunks, stream.result()

    async def collect_async(stop_after: int = 10**9, **arguments: Any) -> tuple[list[PieceChunk], Any]:
        chunks: list[PieceChunk] = []
        async with (
            AsyncMusicClient(transport=as_async(model)) as music,
            music.stream_compose(**arguments) as stream,
        ):
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == stop_after:
                    break
        return chunks, stream.result()

    def run(**arguments: Any) -> Any:
        return asyncio.run(collect_async(**arguments))

    return collect if request.param == "sync" else run


def test_chunks_are_the_piece(streamed: Any, model: FakeWriters) -> None:
    chunks, piece = streamed(bars=4, seed=7)
    assert [chunk.bars for chunk in chunks] == [(0, 1), (0, 1), (1, 2), (2, 3), (3, 4)]
    assert [chunk.first_frame for chunk in chunks] == [0, 4, 16, 32, 48]
    assert [chunk.grid.meter for chunk in chunks] == [(16, 0), (16, 4), (16, 0), (16, 0), (16, 0)]
    np.testing.assert_array_equal(np.concatenate([chunk.frames for chunk in chunks]), piece.grid.frames)
    np.testing.assert_array_equal(np.concatenate([chunk.nll for chunk in chunks]), piece.nll)
    assert (piece.seed, piece.model, piece.model_version) == (7, "composer", "3")
    assert chunks[0].score.note_num() == 4
    assert model.streams_closed == 1
    with MusicClient(transport=model) as music:
        np.testing.assert_array_equal(music.compose(bars=4, seed=7).grid.frames, piece.grid.frames)


@pytest.mark.parametrize("signature", [(3, 4), (6, 8), (2, 2)])
def test_the_time_signature_of_chunks_and_of_the_whole(streamed: Any, signature: tuple[int, int]) -> None:
    chunks, piece = streamed(bars=2, seed=7, meter=signature)
    assert piece.meter == signature
    assert {chunk.grid.time_signature for chunk in chunks} == {signature}
    assert {tuple(chunk.to_dict()["meter"]) for chunk in chunks} == {signature}


def test_chunks_as_plain_values_are_the_piece(streamed: Any) -> None:
    chunks, piece = streamed(prompt=melody(1), bars=2, seed=7)
    rows = [chunk.to_dict() for chunk in chunks]
    assert [row["first_frame"] for row in rows] == [chunk.first_frame for chunk in chunks]
    assert sum(row["n_frames"] for row in rows) == piece.grid.n_frames - 16
    struck = [
        [row["first_frame"] + onset, pitch]
        for row in rows
        for onset, _, pitch in row["notes"]
        if onset or pitch not in row["held_pitches"]
    ]
    assert struck == [[onset, pitch] for onset, _, pitch in piece.to_dict()["notes"] if onset >= 16]


def test_the_same_request_as_compose(streamed: Any, model: FakeWriters) -> None:
    arguments = {"bars": 2, "seed": 1, "style": "folk", "temperature": 0.5, "top_k": 3, "meter": (3, 4)}
    streamed(prompt=melody(2), **arguments)
    with MusicClient(transport=model) as music:
        music.compose(prompt=melody(2), n_candidates=1, **arguments)  # type: ignore[arg-type]
    (stream,), (call,) = model.asked("composer"), model.asked("music_transformer")
    for name, array in call.inputs.items():
        np.testing.assert_array_equal(stream.inputs[name], array)


def test_chunks_do_not_repeat_the_prompt(streamed: Any) -> None:
    prompt = Grid(melody(2).frames[:20], meter=(16, 0))
    chunks, piece = streamed(prompt=prompt, bars=1, seed=7)
    assert [chunk.first_frame for chunk in chunks] == [20, 32]
    assert [chunk.bars for chunk in chunks] == [(1, 2), (2, 3)]
    np.testing.assert_array_equal(piece.grid.frames[:20], prompt.frames)
    assert piece.grid.n_frames == 48


def test_the_model_reads_the_end_of_a_long_prompt(streamed: Any) -> None:
    prompt = melody(80)
    chunks, piece = streamed(prompt=prompt, bars=2, seed=7)
    assert chunks[0].first_frame == 1280
    assert piece.grid.n_frames == 1312
    np.testing.assert_array_equal(piece.grid.frames[:1280], prompt.frames)


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_stopping_keeps_the_received_chunks(streamed: Any, model: FakeWriters, n_chunks: int) -> None:
    chunks, piece = streamed(stop_after=n_chunks, bars=8, seed=7)
    assert len(chunks) == n_chunks
    assert piece.grid.n_frames == sum(len(chunk.frames) for chunk in chunks)
    assert model.streams_closed == 1


def test_a_drawn_seed_is_available_before_the_first_chunk(model: FakeWriters, as_async: Any) -> None:
    with MusicClient(transport=model) as music:
        stream = music.stream_compose(bars=1)
        assert list(stream)
        assert stream.result().seed == stream.seed
        assert list(stream) == []
    asynchronous = AsyncMusicClient(transport=as_async(model)).stream_compose(bars=1)
    assert 0 <= asynchronous.seed < 2**63
    assert asynchronous.seed != stream.seed


def test_a_result_needs_a_chunk_or_a_prompt(model: FakeWriters, as_async: Any) -> None:
    with MusicClient(transport=model) as music:
        stream = music.stream_compose(bars=1)
        with pytest.raises(ClientError) as caught:
            stream.result()
        assert caught.value.reason == "nothing_received"
        assert music.stream_compose(prompt=melody(2), bars=1).result().grid.n_frames == 32
        stream.close()
        stream.close()
        assert list(stream) == []
    with pytest.raises(ClientError) as caught:
        AsyncMusicClient(transport=as_async(model)).stream_compose(bars=1).result()
    assert caught.value.reason == "nothing_received"


def test_dropping_a_stream_stops_it(model: FakeWriters) -> None:
    with MusicClient(transport=model) as music:
        stream = music.stream_compose(bars=9)
        next(stream)
        assert model.streams_closed == 0
        del stream
        gc.collect()
        assert model.streams_closed == 1


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectionFailedError("gone"), ServerBusyError("full")])
def test_a_stream_is_retried_before_its_first_chunk(
    streamed: Any, model: FakeWriters, failing: Any, error: Any
) -> None:
    def before(request: Any) -> None:
        if model.asked("composer"):
            fail(request)

    fail = failing(2, error)
    model.before = before
    chunks, _ = streamed(bars=1, seed=7)
    assert len(chunks) == 2
    assert len(model.asked("composer")) == 3
    fail = failing(3, error)
    with pytest.raises(type(error)):
        streamed(bars=1, seed=7)


def test_a_stream_is_not_retried_after_its_first_chunk(streamed: Any, model: FakeWriters, monkeypatch: Any) -> None:
    stream = model.stream

    def breaking(request: Any, *, timeout_s: float) -> Any:
        yield next(stream(request, timeout_s=timeout_s))
        raise ConnectionFailedError("gone")

    monkeypatch.setattr(model, "stream", breaking)
    with pytest.raises(ConnectionFailedError):
        streamed(bars=4)
    assert len(model.asked("composer")) == 1


def test_a_stream_that_ends_early(streamed: Any, model: FakeWriters) -> None:
    model.n_answers = 2
    with pytest.raises(ServerError) as caught:
        streamed(bars=4)
    assert (caught.value.model, caught.value.reason) == ("composer", "incomplete_stream")


@pytest.mark.parametrize("first_frame", [0, 5, -4])
def test_responses_out_of_order(streamed: Any, model: FakeWriters, monkeypatch: Any, first_frame: int) -> None:
    stream = model.stream

    def shuffled(request: Any, *, timeout_s: float) -> Any:
        for n, response in enumerate(stream(request, timeout_s=timeout_s)):
            if n == 1:
                response.outputs["first_frame"][:] = first_frame
            yield response

    monkeypatch.setattr(model, "stream", shuffled)
    with pytest.raises(ServerError) as caught:
        streamed(bars=4)
    assert (caught.value.reason, caught.value.output) == ("invalid_output", "first_frame")
    assert (caught.value.model, caught.value.request_id) == ("composer", model.requests[-1].request_id)


def test_chunks_before_a_failure_are_kept(model: FakeWriters) -> None:
    model.n_answers = 2
    with MusicClient(transport=model) as music:
        stream = music.stream_compose(bars=4, seed=7)
        with pytest.raises(ServerError) as caught:
            list(stream)
        assert caught.value.reason == "incomplete_stream"
        assert stream.result().grid.n_frames == 16


def test_a_rejection_removes_the_model_from_the_cache(model: FakeWriters) -> None:
    def refuse(request: Any) -> None:
        if isinstance(request, StreamRequest) and len(model.asked("composer")) == 1:
            raise RequestRejectedError("other shapes")

    model.before = refuse
    with MusicClient(transport=model) as music:
        with pytest.raises(RequestRejectedError):
            list(music.stream_compose(bars=1))
        list(music.stream_compose(bars=1))
    assert [type(request).__name__ for request in model.requests] == 2 * ["ModelRequest", "StreamRequest"]


def test_invalid_input(streamed: Any, model: FakeWriters) -> None:
    for arguments in ({"bars": 0}, {"top_p": 0}, {"seed": -1}, {"bars": 1, "style": "jazz"}):
        with pytest.raises(InvalidInputError) as invalid:
            streamed(**arguments)
        assert invalid.value.argument == list(arguments)[-1]
    with pytest.raises(InvalidScoreError) as score:
        streamed(prompt=b"not MIDI", bars=1)
    assert score.value.reason == "not_midi"
    with pytest.raises(ModelNotFoundError) as missing:
        streamed(model="nobody", bars=1)
    assert missing.value.model == "nobody"
    with pytest.raises(ServerError) as unsuitable:
        streamed(model="music_transformer", bars=1)
    assert (unsuitable.value.model, unsuitable.value.reason) == ("music_transformer", "unsuitable_model")
    assert not model.asked("composer")


def test_closed_clients_raise(model: FakeWriters) -> None:
    music = MusicClient(transport=model)
    music.close()
    with pytest.raises(ClientError) as caught:
        music.stream_compose(bars=1)
    assert caught.value.reason == "closed"


async def test_cancelling_an_asynchronous_stream(model: FakeWriters, as_async: Any) -> None:
    async with AsyncMusicClient(transport=as_async(model)) as music:
        came = asyncio.Event()

        async def read() -> None:
            async with music.stream_compose(bars=100) as stream:
                async for _ in stream:
                    came.set()
                    await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await asyncio.wait_for(came.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert model.streams_closed == 1
