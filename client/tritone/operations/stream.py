"""A piece that arrives while it is being written: the flow of `stream_compose`, its chunks, and what holds them.

Shapes: N frames of the whole request, n of one answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import field, replace
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from tritone.exceptions import ClientError, NotCopiedError, ServerError
from tritone.generation_models import STREAMER, Writer, Writers, checked
from tritone.messages import InferResponse, StreamRequest
from tritone.model_cache import Flow, check_model_name, next_request_id, on_live_versions
from tritone.music.grid import HELD, HIGHEST_PITCH, LOWEST_PITCH, N_PITCHES, STRUCK, Frames, Grid
from tritone.music.piece import Piece, nll_of
from tritone.music.scores import ScoreLike
from tritone.operations.compose import Wish, continuing, writing_inputs
from tritone.operations.plan import GIVEN, Plan
from tritone.results.json_result import INTEGER, NUMBER, JsonResult, array_of, json_result, optional

OUTPUTS: Final = ("frames", "nll", "first_frame")


@json_result
class PieceChunk(JsonResult):
    """The next bars of a piece, or the first beat of it.

    Attributes:
        first_frame: where it begins in the whole piece, the prompt included.
        frames: (n, 88) uint8, as in `Grid.frames`; notes of the chunk before may be held on into it.
        nll: (n,) float32, nats of what stands in each frame.
        bars: the bars of the whole piece that it reaches into, counted from 0, the end not included.
        grid: the chunk as a piece of its own: what is held on into it is struck at its beginning.
    """

    first_frame: int
    frames: Frames = field(repr=False)
    nll: npt.NDArray[np.float32] = field(repr=False)
    bars: tuple[int, int]
    grid: Grid = field(repr=False)

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "first_frame": INTEGER,
        "bars": array_of(INTEGER, 2),
        **Grid.json_properties,
        "held_pitches": array_of(INTEGER),
        "nll": array_of(optional(NUMBER)),
    }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: those of `Grid.to_dict`, and the MIDI pitches held on into the chunk."""
        return {
            "first_frame": int(self.first_frame),
            "bars": [int(bar) for bar in self.bars],
            **self.grid.to_dict(),
            "held_pitches": (np.flatnonzero(self.frames[0] == HELD) + LOWEST_PITCH).tolist(),
            "nll": [None if np.isnan(nats) else nats for nats in self.nll.tolist()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the chunk whose `to_dict` gave the values.

        Raises:
            InvalidScoreError: a value is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        grid = Grid.from_dict(values)
        frames = grid.frames.copy()
        for pitch in values["held_pitches"]:
            if not LOWEST_PITCH <= pitch <= HIGHEST_PITCH or not frames[0, pitch - LOWEST_PITCH]:
                raise ValueError(f"held_pitches hold {pitch}; expected pitches that sound at the first time step")
            frames[0, pitch - LOWEST_PITCH] = HELD
        first, last = values["bars"]
        return cls(values["first_frame"], frames, nll_of(values["nll"], grid), (int(first), int(last)), grid)

    @property
    def score(self) -> Any:
        """The chunk as a `symusic.Score` of its own, from time 0.

        Raises:
            MissingExtraError: symusic is not installed.
        """
        return Piece(self.grid).score


class Growing:
    """What has arrived of a piece, and what is asked of the model that writes it."""

    def __init__(self, writers: Writers, plan_for: Callable[[Writer], Plan], wish: Wish, model: str) -> None:
        self.seed = wish.seed
        self.model = model
        self.plan: Plan  # of the last request
        self._writers = writers
        self._plan_for = plan_for
        self._wish = wish
        self._version: str | None = None
        self._frames = np.zeros((0, N_PITCHES), np.uint8)
        self._nll = np.zeros(0, np.float32)

    def request(self) -> Flow[StreamRequest]:
        """What is to be streamed, of the version that is served; again, as long as nothing has arrived."""
        model = self.model

        def attempt() -> Flow[StreamRequest]:
            known = yield from self._writers.look_up(model, STREAMER)
            self.plan = self._plan_for(known)
            inputs = writing_inputs(known, self.plan, self._wish)
            return StreamRequest(model, next_request_id("stream"), inputs, OUTPUTS, version=known.version)

        return (yield from on_live_versions(lambda: self._writers.forget(model), attempt))

    def add(self, response: InferResponse) -> PieceChunk | None:
        """Take the next answer; None if it holds nothing but prompt.

        Raises:
            ServerError: it is not the next answer, or none at all.
        """
        n_before = len(self._frames)
        frames = response.outputs["frames"]
        n_new = frames.shape[1] if frames.ndim == 3 else 0
        frames = checked(response, "frames", (1, n_new, N_PITCHES), largest=STRUCK)[0]
        nll = checked(response, "nll", (1, n_new))[0]
        first = int(checked(response, "first_frame", (1, 1))[0, 0])
        if first != n_before or first + n_new > self.plan.n_heard:
            raise ServerError(
                f"model {self.model!r} answered frames {first} to {first + n_new} after {n_before} of "
                f"{self.plan.n_heard}; expected the next ones",
                model=self.model,
                request_id=response.request_id,
            )
        self._version = response.version
        self._frames = np.concatenate([self._frames, frames])
        self._nll = np.concatenate([self._nll, nll])
        return self._chunk(n_before)

    def check_complete(self) -> None:
        """Called when the server says that this was all.

        Raises:
            ServerError: it was not.
        """
        if len(self._frames) < self.plan.n_heard:
            raise ServerError(
                f"model {self.model!r} stopped after {len(self._frames)} of {self.plan.n_heard} frames",
                model=self.model,
            )

    def piece(self) -> Piece:
        """Prompt and all that has arrived.

        Raises:
            ClientError: nothing has.
        """
        n_prompt = int((self.plan.mode == GIVEN).sum())
        if not len(self._frames) and not n_prompt:
            raise ClientError("nothing of the piece has arrived yet; iterate over the stream first", model=self.model)
        # Of a prompt the whole is there, even before the server has come to its end.
        n_given = n_prompt - self.plan.heard.start
        frames, nll = self._frames, self._nll
        if len(frames) < n_given:
            frames = np.concatenate([frames, self.plan.given[len(frames) : n_given]])
            nll = np.concatenate([nll, np.full(n_given - len(nll), np.nan, np.float32)])
        return self.plan.piece(frames, nll, seed=self.seed, model=self.model, model_version=self._version)

    def _chunk(self, n_before: int) -> PieceChunk | None:
        offset = self.plan.heard.start
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
    writers: Writers,
    *,
    prompt: ScoreLike | None,
    bars: int,
    meter: tuple[int, int] | None,
    wish: Wish,
    model: str,
) -> Flow[tuple[StreamRequest, Growing]]:
    """What is to be streamed: the flow of `MusicClient.stream_compose`, up to the stream itself."""
    growing = Growing(writers, continuing(prompt, bars, meter, wish), wish, check_model_name(model))
    request = yield from growing.request()
    return request, growing


class PieceStream:
    """Chunks of a piece as they are written; `close`, or leaving its `with` block, stops the server's work.

    ```python
    with music.stream_compose(bars=64, seed=7) as stream:
        for chunk in stream:
            play(chunk.grid)
    piece = stream.result()
    ```
    """

    def __init__(self, growing: Growing, responses: Iterator[InferResponse]) -> None:
        self._growing = growing
        self._responses = responses
        self._closed = False

    @property
    def seed(self) -> int:
        """Gives the same piece again."""
        return self._growing.seed

    def result(self) -> Piece:
        """Prompt and all chunks that have arrived so far, as a piece.

        Raises:
            ClientError: nothing has arrived.
        """
        return self._growing.piece()

    def close(self) -> None:
        """Stop; what has arrived stays. May be called more than once."""
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
                chunk = self._growing.add(response)
                if chunk is not None:
                    return chunk
            self._growing.check_complete()
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


def _not_copied() -> NotCopiedError:
    return NotCopiedError("a stream cannot be copied or pickled; pass its result() on, or stream in each process")


class AsyncPieceStream:
    """The same for asyncio: `async with`, `async for`, `await stream.close()`.

    Nothing is asked of the server before the first chunk is awaited; what is wrong with the prompt shows there.
    """

    def __init__(self, seed: int, begin: Callable[[], Awaitable[tuple[Growing, AsyncIterator[InferResponse]]]]) -> None:
        self.seed = seed
        self._begin = begin
        self._growing: Growing | None = None
        self._responses: AsyncIterator[InferResponse] | None = None
        self._closed = False

    def result(self) -> Piece:
        """See `PieceStream.result`."""
        if self._growing is None:
            raise ClientError("nothing of the piece has arrived yet; iterate over the stream first")
        return self._growing.piece()

    async def close(self) -> None:
        """Stop; what has arrived stays. May be called more than once."""
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
            if self._growing is None or self._responses is None:
                self._growing, self._responses = await self._begin()
            async for response in self._responses:
                chunk = self._growing.add(response)
                if chunk is not None:
                    return chunk
            self._growing.check_complete()
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
