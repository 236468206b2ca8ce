"""The calls of `AsyncMusicClient` that write notes one after the other, or judge what is written."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tritone._runs import AsyncRuns
from tritone.constants import COMPOSE_MODEL, PREDICT_MODEL, STREAM_MODEL
from tritone.messages import InferResponse
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.compose import compose_flow, harmonize_flow, infill_flow, make_wish
from tritone.operations.predict import Prediction, predict_flow
from tritone.operations.stream import AsyncPieceStream, Growing, stream_flow


class AsyncComposingCalls:
    """Mixed into `AsyncMusicClient`; see `ComposingCalls`."""

    async def compose(
        self: AsyncRuns,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = COMPOSE_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        tempo_qpm: float | None = None,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write music, from nothing or on from a prompt; see `MusicClient.compose`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = compose_flow(self._writers, prompt=prompt, bars=bars, meter=meter, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    def stream_compose(
        self: AsyncRuns,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = STREAM_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        tempo_qpm: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncPieceStream:
        """Write music as `compose` does and hand it over bar by bar; see `MusicClient.stream_compose`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)

        async def begin() -> tuple[Growing, AsyncIterator[InferResponse]]:
            flow = stream_flow(self._writers, prompt=prompt, bars=bars, meter=meter, wish=wish, model=model)
            deadline = self._deadline(timeout_s)
            request, growing = await self._run(flow, deadline)
            return growing, self._stream(request, growing.request, deadline.timeout_s)

        return AsyncPieceStream(wish.seed, begin)

    async def harmonize(
        self: AsyncRuns,
        melody: ScoreLike,
        *,
        seed: int | None = None,
        highest: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write other voices under a melody; see `MusicClient.harmonize`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = harmonize_flow(self._writers, melody=melody, highest=highest, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def infill(
        self: AsyncRuns,
        score: ScoreLike,
        *,
        bars: tuple[int, int],
        seed: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Write some bars of a score anew, to fit what is before and after them; see `MusicClient.infill`."""
        wish = make_wish(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, style=style, tempo_qpm=tempo_qpm)
        flow = infill_flow(self._writers, score=score, bars=bars, wish=wish, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def predict(
        self: AsyncRuns, score: ScoreLike, *, model: str = PREDICT_MODEL, timeout_s: float | None = None
    ) -> Prediction:
        """How a model expected a score to go on, frame by frame; see `MusicClient.predict`."""
        return await self._run(predict_flow(self._writers, score=score, model=model), self._deadline(timeout_s))
