"""Streamed composition: a piece whose bars arrive while the model writes the next ones.

Shapes: N frames of the request, n of one response.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from tritone.arguments import check_model_name
from tritone.exceptions import ClientError, NotCopiedError, ServerError
from tritone.messages import (
    Flow,
    InferResponse,
    StreamRequest,
    next_request_id,
)
from tritone.model_cache import STREAMER, ModelCache, checked_output
from tritone.music.grid import N_PITCHES, STRUCK
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.compose import Planner, at_default_tempo, composer_inputs, continuation_planner
from tritone.operations.plan import GIVEN, CompositionPlan
from tritone.operations.steering import Steering, SteeringInputs, conditions_for
from tritone.results.piece_chunk import PieceChunk
from tritone.retry import on_live_versions
from tritone.sampling import SamplingParams

OUTPUTS: Final = ("frames", "nll", "first_frame")


class StreamAccumulator:
    """Collects the responses of a stream into a piece."""

    def __init__(
        self, cache: ModelCache, plan_for: Planner, sampling: SamplingParams, steering: Steering, model: str
    ) -> None:
        self.seed = sampling.seed
        self.model = model
        self.plan: CompositionPlan  # of the last request
        self._cache = cache
        self._plan_for = plan_for
        self._sampling = sampling
        self._steering = steering
        self._conditions: SteeringInputs
        self._version: str | None = None
        self._frames = np.zeros((0, N_PITCHES), np.uint8)
        self._nll = np.zeros(0, np.float32)

    def request(self) -> Flow[StreamRequest]:
        """Make the request of the stream, for the version that is served; repeatable before the first response."""
        model = self.model

        def start() -> Flow[StreamRequest]:
            known = yield from self._cache.look_up(model, STREAMER)
            plan = self._plan_for(known)
            self._conditions = conditions_for(known, plan, self._sampling, self._steering)
            self.plan = at_default_tempo(plan, self._sampling, self._conditions)
            inputs = composer_inputs(known, self.plan, self._sampling, self._conditions)
            return StreamRequest(model, next_request_id("stream"), inputs, OUTPUTS, version=known.version)

        return (yield from on_live_versions(self._cache, (model,), start))

    def add(self, response: InferResponse) -> PieceChunk | None:
        """Add a response and return its chunk; None if it is within the prompt.

        Raises:
            ServerError: it is malformed or not the next one.
        """
        n_before = len(self._frames)
        frames = checked_output(response, "frames", (1, None, N_PITCHES), largest=STRUCK)[0]
        n_new = len(frames)
        nll = checked_output(response, "nll", (1, n_new))[0]
        first = int(checked_output(response, "first_frame", (1, 1))[0, 0])
        if first != n_before or first + n_new > self.plan.n_frames:
            raise ServerError(
                f"unexpected frames from model {self.model!r}: expected the next ones after {n_before} of "
                f"{self.plan.n_frames}, got {first} to {first + n_new}",
                model=self.model,
                request_id=response.request_id,
                reason="invalid_output",
                output="first_frame",
            )
        self._version = response.version
        self._frames = np.concatenate([self._frames, frames])
        self._nll = np.concatenate([self._nll, nll])
        return self._chunk(n_before)

    def check_complete(self) -> None:
        """Check, when the server ends the stream, that all frames have arrived.

        Raises:
            ServerError: frames are missing.
        """
        if len(self._frames) < self.plan.n_frames:
            raise ServerError(
                f"model {self.model!r} stopped after {len(self._frames)} of {self.plan.n_frames} frames",
                model=self.model,
                reason="incomplete_stream",
            )

    def piece(self) -> Piece:
        """Return the prompt and all frames that have arrived.

        Raises:
            ClientError: nothing has arrived.
        """
        n_prompt = int((self.plan.mode == GIVEN).sum())
        if not len(self._frames) and not n_prompt:
            raise _nothing_received(self.model)
        # The prompt is complete even before responses for all of it have arrived.
        n_given = n_prompt - self.plan.excerpt.start
        frames, nll = self._frames, self._nll
        if len(frames) < n_given:
            frames = np.concatenate([frames, self.plan.given[len(frames) : n_given]])
            nll = np.concatenate([nll, np.full(n_given - len(nll), np.nan, np.float32)])
        about = {"model": self.model, "model_version": self._version, **self._sampling.of_pieces()}
        return self.plan.piece(frames, nll, **about, conditions=self._conditions.to_dict())

    def _chunk(self, n_before: int) -> PieceChunk | None:
        offset = self.plan.excerpt.start
        first = max(offset + n_before, int((self.plan.mode == GIVEN).sum()))
        frames = self._frames[first - offset :]
        if not len(frames):
            return None
        whole = self.plan.grid
        length, index = whole.meter
        bars = (index + first) // length, -(-(index + first + len(frames)) // length)
        meter = (length, (index + first) % length)
        grid = replace(whole, frames=frames, meter=meter, dropped={})
        return PieceChunk(first, frames, self._nll[first - offset :], bars, grid)


def stream_flow(
    cache: ModelCache,
    *,
    prompt: ScoreLike | None,
    bars: int,
    meter: tuple[int, int] | None,
    sampling: SamplingParams,
    steering: Steering,
    model: str,
) -> Flow[tuple[StreamRequest, StreamAccumulator]]:
    """Make the request of a stream and its accumulator; see `MusicClient.stream_compose`."""
    accumulator = StreamAccumulator(
        cache, continuation_planner(prompt, bars, meter, sampling), sampling, steering, check_model_name(model)
    )
    request = yield from accumulator.request()
    return request, accumulator


class PieceStream:
    """An iterator over the chunks of a piece; closing it, or leaving its `with` block, stops the work of the server.

    ```python
    with music.stream_compose(bars=64, seed=7) as stream:
        for chunk in stream:
            play(chunk.grid)
    piece = stream.result()
    ```
    """

    def __init__(self, accumulator: StreamAccumulator, responses: Iterator[InferResponse]) -> None:
        self._accumulator = accumulator
        self._responses = responses
        self._closed = False

    @property
    def seed(self) -> int:
        """The seed that reproduces the piece."""
        return self._accumulator.seed

    def result(self) -> Piece:
        """Return the prompt and all chunks that have arrived so far as a piece.

        Raises:
            ClientError: nothing has arrived.
        """
        return self._accumulator.piece()

    def close(self) -> None:
        """Stop the stream; chunks that have arrived are kept. May be called more than once."""
        self._closed = True
        close = getattr(self._responses, "close", None)
        if close is not None:
            close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PieceChunk:
        if self._closed:
            raise StopIteration
        try:
            for response in self._responses:
                chunk = self._accumulator.add(response)
                if chunk is not None:
                    return chunk
            self._accumulator.check_complete()
        except BaseException:
            self.close()
            raise
        self._closed = True
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise _not_copied()


def _nothing_received(model: str | None) -> ClientError:
    return ClientError(
        "nothing of the piece has arrived yet; iterate over the stream first", model=model, reason="nothing_received"
    )


def _not_copied() -> NotCopiedError:
    return NotCopiedError(
        "a stream cannot be copied or pickled; pass its result() on, or stream in each process", reason="stream"
    )


class AsyncPieceStream:
    """An asynchronous iterator over the chunks of a piece: `async with`, `async for`, `await stream.close()`.

    Nothing is sent before the first chunk is awaited, so an invalid prompt is reported there.
    """

    def __init__(
        self, seed: int, begin: Callable[[], Awaitable[tuple[StreamAccumulator, AsyncIterator[InferResponse]]]]
    ) -> None:
        self.seed = seed
        self._begin = begin
        self._accumulator: StreamAccumulator | None = None
        self._responses: AsyncIterator[InferResponse] | None = None
        self._closed = False

    def result(self) -> Piece:
        """Return the prompt and all chunks that have arrived so far as a piece; see `PieceStream.result`."""
        if self._accumulator is None:
            raise _nothing_received(None)
        return self._accumulator.piece()

    async def close(self) -> None:
        """Stop the stream; chunks that have arrived are kept. May be called more than once."""
        self._closed = True
        close = getattr(self._responses, "aclose", None)
        if close is not None:
            await close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PieceChunk:
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._accumulator is None or self._responses is None:
                self._accumulator, self._responses = await self._begin()
            async for response in self._responses:
                chunk = self._accumulator.add(response)
                if chunk is not None:
                    return chunk
            self._accumulator.check_complete()
        except BaseException:
            await self.close()
            raise
        self._closed = True
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> Any:
        raise _not_copied()
