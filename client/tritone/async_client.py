"""The client for asyncio."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

from tritone.arguments import (
    Id,
    Ids,
    Mood,
    Times,
    Weights,
    check_model_name,
)
from tritone.audio import Audio, FloatArray
from tritone.base_client import BaseClient
from tritone.constants import (
    COMPOSE_MODEL,
    EVENTS_MODEL,
    INSPIRE_MODEL,
    LATENT_MODEL,
    PLAYLIST_DIVERSITY,
    PREDICT_MODEL,
    RECOMMEND_MODEL,
    SAMPLE_MODEL,
    STREAM_MODEL,
    EventKind,
)
from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, InvalidAudioError, VersionChangedError
from tritone.messages import (
    AsyncTransport,
    Flow,
    InferResponse,
    Pause,
    Request,
    Response,
    StreamRequest,
    ready_flow,
)
from tritone.music.instruments import Instruments
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.classify import classify_flow, classify_group_flow, embed_flow
from tritone.operations.compose import compose_flow, harmonize_flow, infill_flow, predict_flow
from tritone.operations.events import ListeningEvent, chunks, record_flow, record_many_flow
from tritone.operations.inspire import inspire_flow
from tritone.operations.latent import interpolate_flow, reconstruct_flow, vary_flow
from tritone.operations.many import OnError, OnProgress, amap_ordered
from tritone.operations.models import model_info_flow, models_flow
from tritone.operations.playlist import PlaylistOptions, playlist_flow
from tritone.operations.recommend import (
    RecommendOptions,
    find_tracks_flow,
    recommend_flow,
    search_flow,
    similar_flow,
)
from tritone.operations.sample import Conditions, sample_flow
from tritone.operations.steering import Steering
from tritone.operations.stream import AsyncPieceStream, StreamAccumulator, stream_flow
from tritone.results.classification import Classification
from tritone.results.events import RecordedEvent, RecordedEvents
from tritone.results.inspiration import Inspiration
from tritone.results.model_info import ModelInfo
from tritone.results.playlist import Playlist
from tritone.results.prediction import Prediction
from tritone.results.recommendations import Recommendations, TrackPage
from tritone.retry import Deadline, pause_s, restarted_flow
from tritone.sampling import (
    SamplingParams,
    check_seed,
    fresh_seed,
)
from tritone.tracing import call_span
from tritone.transports import make_async_balanced_transport

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class _Done(Generic[T]):
    result: T


class AsyncMusicClient(BaseClient[AsyncTransport]):
    """A client as `MusicClient` for one event loop; its methods are documented there.

    Recordings and scores are read in the worker threads of asyncio, so that the event loop stays free.

    ```python
    async with AsyncMusicClient("localhost:8001") as music:
        results = await asyncio.gather(*(music.classify(path) for path in paths))
    ```
    """

    _loop: asyncio.AbstractEventLoop | None = None

    async def classify(
        self,
        audio: Audio,
        *,
        top: int | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Classify a recording by genre, emotions and tags, and embed it; see `MusicClient.classify`."""
        flow = classify_flow(
            self._models,
            audio,
            model=self._genre_model if model is None else model,
            top=top,
            audio_format=self._audio_format,
        )
        return await self._run(flow, self._deadline(timeout_s))

    async def embed(self, audio: Audio, *, model: str | None = None, timeout_s: float | None = None) -> FloatArray:
        """Embed a recording; recordings with similar sound have similar embeddings; see `MusicClient.embed`."""
        flow = embed_flow(
            self._models,
            audio,
            model=self._genre_model if model is None else model,
            audio_format=self._audio_format,
        )
        return await self._run(flow, self._deadline(timeout_s))

    async def classify_group(
        self,
        audios: Sequence[Audio],
        *,
        top: int | None = None,
        max_duration_s: float | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification | InvalidAudioError]:
        """Classify several recordings with shared requests; see `MusicClient.classify_group`."""
        flow = classify_group_flow(
            self._models,
            audios,
            model=self._genre_model if model is None else model,
            top=top,
            audio_format=self._audio_format,
            max_duration_s=max_duration_s,
        )
        return await self._run(flow, self._deadline(timeout_s))

    def classify_many(
        self,
        audios: Iterable[Audio],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        on_progress: OnProgress | None = None,
        top: int | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Classification | ClientError]:
        """Classify many recordings at once: `async for` over the results; see `MusicClient.classify_many`."""
        call = partial(self.classify, top=top, model=model, timeout_s=timeout_s)
        return amap_ordered(call, audios, concurrency=concurrency, on_error=on_error, on_progress=on_progress)

    def embed_many(
        self,
        audios: Iterable[Audio],
        *,
        concurrency: int = 8,
        on_error: OnError = "raise",
        on_progress: OnProgress | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[FloatArray | ClientError]:
        """Embed many recordings at once: `async for` over the vectors; see `MusicClient.classify_many`."""
        call = partial(self.embed, model=model, timeout_s=timeout_s)
        return amap_ordered(call, audios, concurrency=concurrency, on_error=on_error, on_progress=on_progress)

    async def compose(
        self,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = COMPOSE_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        key: str | int | None = None,
        mode: str | None = None,
        density: str | None = None,
        voices: int | None = None,
        structure: str | None = None,
        ending: bool = True,
        n_candidates: int = 8,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        timeout_s: float | None = None,
    ) -> Piece:
        """Compose a piece from scratch, or continue a prompt; see `MusicClient.compose`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        steering = Steering.checked(
            key=key, mode=mode, density=density, voices=voices, structure=structure, ending=ending
        )
        flow = compose_flow(
            self._models,
            prompt=prompt,
            bars=bars,
            meter=meter,
            sampling=sampling,
            steering=steering,
            n_candidates=n_candidates,
            model=model,
        )
        return await self._run(flow, self._deadline(timeout_s))

    def stream_compose(
        self,
        *,
        prompt: ScoreLike | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        model: str = STREAM_MODEL,
        style: str | None = None,
        meter: tuple[int, int] | None = None,
        key: str | int | None = None,
        mode: str | None = None,
        density: str | None = None,
        voices: int | None = None,
        structure: str | None = None,
        ending: bool = True,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        timeout_s: float | None = None,
    ) -> AsyncPieceStream:
        """Compose as `compose` does, and return the piece bar by bar; see `MusicClient.stream_compose`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        steering = Steering.checked(
            key=key, mode=mode, density=density, voices=voices, structure=structure, ending=ending
        )

        async def begin() -> tuple[StreamAccumulator, AsyncIterator[InferResponse]]:
            flow = stream_flow(
                self._models,
                prompt=prompt,
                bars=bars,
                meter=meter,
                sampling=sampling,
                steering=steering,
                model=model,
            )
            deadline = self._deadline(timeout_s)
            request, accumulator = await self._run(flow, deadline)
            return accumulator, self._stream(request, accumulator.request, deadline.timeout_s)

        return AsyncPieceStream(sampling.seed, begin)

    async def harmonize(
        self,
        melody: ScoreLike,
        *,
        seed: int | None = None,
        highest: bool = False,
        n_candidates: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Compose other voices for a melody; see `MusicClient.harmonize`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = harmonize_flow(
            self._models, melody=melody, highest=highest, n_candidates=n_candidates, sampling=sampling, model=model
        )
        return await self._run(flow, self._deadline(timeout_s))

    async def infill(
        self,
        score: ScoreLike,
        *,
        bars: tuple[int, int],
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = COMPOSE_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Replace some bars of a score by new ones that fit their surroundings; see `MusicClient.infill`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = infill_flow(self._models, score=score, bars=bars, sampling=sampling, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def predict(
        self, score: ScoreLike, *, model: str = PREDICT_MODEL, timeout_s: float | None = None
    ) -> Prediction:
        """Return how probable a model finds each time step of a score; see `MusicClient.predict`."""
        return await self._run(predict_flow(self._models, score=score, model=model), self._deadline(timeout_s))

    async def reconstruct(
        self,
        score: ScoreLike,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Encode a score into the latent space of a model and decode it again; see `MusicClient.reconstruct`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = reconstruct_flow(self._models, score=score, sampling=sampling, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def interpolate(
        self,
        a: ScoreLike,
        b: ScoreLike,
        *,
        steps: int = 5,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> tuple[Piece, ...]:
        """Return pieces between two scores; see `MusicClient.interpolate`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = interpolate_flow(self._models, a=a, b=b, steps=steps, sampling=sampling, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def vary(
        self,
        score: ScoreLike,
        *,
        attribute: str,
        amount: float,
        seed: int | None = None,
        temperature: float | None = None,
        top_k: int | None = 1,
        top_p: float | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        model: str = LATENT_MODEL,
        timeout_s: float | None = None,
    ) -> Piece:
        """Return a variation of a score with more or less of a musical attribute; see `MusicClient.vary`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = vary_flow(self._models, score=score, attribute=attribute, amount=amount, sampling=sampling, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def sample(
        self,
        model: str = SAMPLE_MODEL,
        n: int = 4,
        seed: int | None = None,
        *,
        timeout_s: float | None = None,
        **conditions: Unpack[Conditions],
    ) -> tuple[Piece, ...]:
        """Generate new pieces of two bars from noise; see `MusicClient.sample`."""
        first = fresh_seed() if seed is None else check_seed(seed)
        flow = sample_flow(self._models, model=model, n=n, seed=first, conditions=dict(conditions))
        return await self._run(flow, self._deadline(timeout_s))

    async def recommend(
        self,
        user_id: Id | None = None,
        *,
        history: Ids | None = None,
        weights: Weights | None = None,
        times: Times | None = None,
        skipped: Ids | None = None,
        friends: Ids | None = None,
        audio: Audio | None = None,
        mood: Mood | None = None,
        n: int = 10,
        exclude: Ids | None = None,
        filter_listened: bool = True,
        diversity: float = 0.0,
        novelty: float = 0.0,
        explain: bool | int = False,
        resolve: bool = False,
        model: str = RECOMMEND_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Recommend tracks; see `MusicClient.recommend`."""
        options = RecommendOptions(
            user_id=user_id,
            history=history,
            weights=weights,
            times=times,
            skipped=skipped,
            friends=friends,
            mood=mood,
            n=n,
            exclude=exclude,
            filter_listened=filter_listened,
            diversity=diversity,
            novelty=novelty,
            explain=explain,
            resolve=resolve,
        )
        flow = recommend_flow(
            self._models,
            options,
            audio=audio,
            genre_model=self._genre_model,
            audio_format=self._audio_format,
            model=model,
            credentials=self._credentials,
            user_token=user_token,
        )
        return await self._run(flow, self._deadline(timeout_s), in_thread=audio is not None or not options.is_small)

    async def similar(
        self,
        track_id: Id | None = None,
        *,
        audio: Audio | None = None,
        by: str = "both",
        n: int = 10,
        resolve: bool = False,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Return tracks that are similar to a track or a recording; see `MusicClient.similar`."""
        flow = similar_flow(
            self._models,
            track_id,
            audio=audio,
            by=by,
            n=n,
            resolve=resolve,
            genre_model=self._genre_model,
            audio_format=self._audio_format,
            model=model,
        )
        return await self._run(flow, self._deadline(timeout_s), in_thread=audio is not None)

    async def playlist(
        self,
        start: Id,
        end: Id | None = None,
        *,
        n: int = 20,
        mood: Mood | None = None,
        diversity: float = PLAYLIST_DIVERSITY,
        seed: int | None = None,
        after: Ids | None = None,
        exclude: Ids | None = None,
        artist_gap: int | None = None,
        user_id: Id | None = None,
        history: Ids | None = None,
        skipped: Ids | None = None,
        model: str = RECOMMEND_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> Playlist:
        """Make a playlist; see `MusicClient.playlist`."""
        options = PlaylistOptions(
            start=start,
            end=end,
            n=n,
            after=after,
            exclude=exclude,
            artist_gap=artist_gap,
            diversity=diversity,
            mood=mood,
            user_id=user_id,
            history=history,
            skipped=skipped,
            seed=fresh_seed() if seed is None else check_seed(seed),
        )
        flow = playlist_flow(options, model=model, credentials=self._credentials, user_token=user_token)
        return await self._run(flow, self._deadline(timeout_s))

    async def find_tracks(
        self,
        query: Id,
        *,
        by: str | None = None,
        limit: int = 10,
        offset: int = 0,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> TrackPage:
        """Search for tracks by title, artist or id; see `MusicClient.find_tracks`."""
        flow = find_tracks_flow(query, by=by, limit=limit, offset=offset, model=model)
        return await self._run(flow, self._deadline(timeout_s), in_thread=False)

    async def search(
        self,
        query: str,
        n: int = 10,
        *,
        model: str = RECOMMEND_MODEL,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """Search for tracks by a description; see `MusicClient.search`."""
        flow = search_flow(query, n=n, model=model)
        return await self._run(flow, self._deadline(timeout_s), in_thread=False)

    async def record(
        self,
        user_id: Id,
        track_id: Id,
        *,
        kind: EventKind = "play",
        played_s: float | None = None,
        at: datetime | float | None = None,
        context: Mapping[str, str] | None = None,
        event_id: str | None = None,
        model: str = EVENTS_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedEvent:
        """Record what a user did with a track; see `MusicClient.record`."""
        event = ListeningEvent(user_id, track_id, kind, played_s, at, context)
        if event_id is not None:
            event = replace(event, event_id=event_id)
        flow = record_flow(event, model=model, credentials=self._credentials, user_token=user_token)
        return await self._run(flow, self._deadline(timeout_s), in_thread=False)

    async def record_many(
        self,
        events: Iterable[ListeningEvent],
        *,
        model: str = EVENTS_MODEL,
        user_token: str | None = None,
        timeout_s: float | None = None,
    ) -> RecordedEvents:
        """Record events, in requests of up to 256; see `MusicClient.record_many`."""
        recorded: list[RecordedEvent] = []
        for chunk in chunks(events):
            flow = record_many_flow(
                chunk, model=model, credentials=self._credentials, user_token=user_token, first=len(recorded)
            )
            recorded += await self._run(flow, self._deadline(timeout_s), in_thread=False)
        return RecordedEvents(tuple(recorded))

    async def inspire(
        self,
        *,
        prompt: ScoreLike | None = None,
        mood: Mood | None = None,
        bars: int = 8,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
        n: int = 10,
        model: str = INSPIRE_MODEL,
        timeout_s: float | None = None,
    ) -> Inspiration:
        """Compose a piece, classify its sound and recommend tracks like it; see `MusicClient.inspire`."""
        sampling = SamplingParams.checked(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            style=style,
            tempo_qpm=tempo_qpm,
            instruments=instruments,
        )
        flow = inspire_flow(self._models, prompt=prompt, mood=mood, bars=bars, n=n, sampling=sampling, model=model)
        return await self._run(flow, self._deadline(timeout_s))

    async def server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Return whether the server is up and all its models are loaded; see `MusicClient.server_ready`."""
        return await self._run(ready_flow(None), self._deadline(timeout_s), in_thread=False)

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """Return the models that the server has loaded; see `MusicClient.models`."""
        return await self._run(models_flow(), self._deadline(timeout_s), in_thread=False)

    async def model_info(self, model: str, *, timeout_s: float | None = None) -> ModelInfo:
        """Return the state of one model that the server has loaded; see `MusicClient.model_info`."""
        return await self._run(model_info_flow(check_model_name(model)), self._deadline(timeout_s), in_thread=False)

    async def model_ready(self, model: str, *, timeout_s: float | None = None) -> bool:
        """Return whether a model is ready; see `MusicClient.model_ready`."""
        return await self._run(ready_flow(check_model_name(model)), self._deadline(timeout_s), in_thread=False)

    async def close(self) -> None:
        """Close all connections; the client cannot be used afterwards. May be called more than once."""
        self._closed = True
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _make_transport(self, endpoints: tuple[Endpoint, ...]) -> AsyncTransport:
        return make_async_balanced_transport(endpoints)

    async def _run(self, flow: Flow[T], deadline: Deadline, *, in_thread: bool = True) -> T:
        """Send the requests of a flow and return its result.

        Args:
            flow: the requests.
            deadline: of the whole call.
            in_thread: whether the flow's own work, such as decoding a recording, runs in a thread. A flow that does
                little is faster without: each step in a thread takes some 50 us and a change of the running thread.
        """
        self._check_loop()
        with call_span(flow):
            step: Request | Pause | _Done[T] = await _advanced(next, flow, in_thread=in_thread)
            while not isinstance(step, _Done):
                try:
                    response = await self._respond(step, deadline)
                except ClientError as error:
                    failure = error  # Python deletes `error` at the end of the clause
                    step = await _advanced(flow.throw, failure, in_thread=in_thread)
                else:
                    step = await _advanced(flow.send, response, in_thread=in_thread)
            return step.result

    async def _respond(self, step: Request | Pause, deadline: Deadline) -> Response | None:
        if isinstance(step, Pause):
            await asyncio.sleep(pause_s(step, deadline.left_s()))
            return None
        attempts = self._attempts(step)
        while True:
            try:
                return await self._transport.handle(attempts.request, timeout_s=deadline.check(attempts.request))
            except ClientError as error:
                delay_s = attempts.delay_s(error, deadline)
            await asyncio.sleep(delay_s)

    async def _stream(
        self, request: StreamRequest, make_request: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses to a stream; before the first one, a request whose model version is gone is replaced."""
        start_deadline = Deadline(timeout_s)
        for n_starts in itertools.count(1):
            has_begun = False
            async with aclosing(self._stream_attempts(request, timeout_s)) as responses:
                try:
                    async for response in responses:
                        has_begun = True
                        yield response
                    return
                except VersionChangedError as error:
                    if has_begun:
                        raise
                    pause = Pause(n_starts, error)
            request = await self._run(restarted_flow(pause, make_request()), start_deadline)

    async def _stream_attempts(self, request: StreamRequest, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses to a stream; before the first one, the request may be sent again."""
        attempts = self._attempts(request)
        while True:
            deadline = Deadline(timeout_s)
            has_begun = False
            async with aclosing(self._transport.stream(attempts.request, timeout_s=timeout_s)) as responses:
                try:
                    async for response in responses:
                        has_begun = True
                        yield response
                    return
                except ClientError as error:
                    self._stream_failed(request, error, has_begun=has_begun)
                    delay_s = attempts.delay_s(error, deadline)
            await asyncio.sleep(delay_s)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientError(
                "this AsyncMusicClient has its connections in another event loop; create one inside each asyncio.run()",
                reason="other_event_loop",
            )


async def _advanced(step: Callable[[A], Request | Pause], value: A, *, in_thread: bool) -> Request | Pause | _Done[T]:
    """Run a flow to its next request."""

    def run() -> Request | Pause | _Done[T]:
        try:
            return step(value)
        except StopIteration as end:  # a future cannot carry this exception
            return _Done(end.value)

    return await asyncio.to_thread(run) if in_thread else run()
