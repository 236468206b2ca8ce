"""The client for asyncio.

```python
async with AsyncMusicClient("localhost:8001") as music:
    results = await asyncio.gather(*(music.classify(path) for path in paths))
```
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from tritone._async_composing_calls import AsyncComposingCalls
from tritone._async_latent_calls import AsyncLatentCalls
from tritone._async_recommending_calls import AsyncRecommendingCalls
from tritone.audio import Audio, FloatArray
from tritone.base_client import BaseClient
from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, VersionChangedError
from tritone.messages import AsyncTransport, InferResponse, Request, Response, StreamRequest, after_losses
from tritone.model_cache import Flow, after
from tritone.results.classification import Classification
from tritone.retry import Deadline, Pause
from tritone.tracing import call_span
from tritone.transports import make_async_balanced_transport

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class _Done(Generic[T]):
    result: T


class AsyncMusicClient(AsyncComposingCalls, AsyncLatentCalls, AsyncRecommendingCalls, BaseClient[AsyncTransport]):
    """Asks the music models of a server, or of several that serve the same, from one event loop.

    Keeps its connections open. Recordings and scores are read in asyncio's worker threads, so the loop stays free.
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
        """Name a recording's genre, emotions and tags, and embed it; see `MusicClient.classify`."""
        return await self._run(self._classify(audio, top, model), self._deadline(timeout_s))

    async def embed(self, audio: Audio, *, model: str | None = None, timeout_s: float | None = None) -> FloatArray:
        """Embed a recording as (256,) float32, L2-normalised; see `MusicClient.embed`."""
        return await self._run(self._embed(audio, model), self._deadline(timeout_s))

    async def server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server is up and all its models are loaded; see `MusicClient.server_ready`."""
        return await self._run(self._ready(None), self._deadline(timeout_s))

    async def model_ready(self, model: str, *, timeout_s: float | None = None) -> bool:
        """Whether the server has this model ready; see `MusicClient.model_ready`."""
        return await self._run(self._ready(model), self._deadline(timeout_s))

    async def close(self) -> None:
        """Let go of all connections; the client cannot be used any more. May be called more than once."""
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

    async def _run(self, flow: Flow[T], deadline: Deadline) -> T:
        self._check_loop()
        with call_span(flow):
            step: Request | Pause | _Done[T] = await _advanced(next, flow)
            while not isinstance(step, _Done):
                try:
                    response = await self._answer(step, deadline)
                except ClientError as error:
                    failure = error  # Python forgets `error` where the clause ends
                    step = await _advanced(flow.throw, failure)
                else:
                    step = await _advanced(flow.send, response)
            return step.result

    async def _answer(self, request: Request | Pause, deadline: Deadline) -> Response | None:
        if isinstance(request, Pause):
            await asyncio.sleep(request.delay_s(deadline.left_s()))
            return None
        request = self._prioritized(request)
        failures: list[ClientError] = []
        while True:
            try:
                return await self._transport.handle(request, timeout_s=deadline.check(request))
            except ClientError as error:
                failures.append(error)
                delay_s = self._delay_s(request, failures, deadline)
            request = after_losses(request, sum(error.n_lost for error in failures))
            await asyncio.sleep(delay_s)

    async def _stream(
        self, request: StreamRequest, again: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> AsyncGenerator[InferResponse, None]:
        """Answers as they come; before the first one, `again` makes the request anew where its version is gone."""
        begun = Deadline(timeout_s)
        for n_begun in itertools.count(1):
            async with aclosing(self._stream_of(request, timeout_s)) as responses:
                n_answers = 0
                try:
                    async for response in responses:
                        n_answers += 1
                        yield response
                    return
                except VersionChangedError as error:
                    if n_answers:
                        raise
                    pause = Pause(n_begun, error)
            request = await self._run(after(pause, again()), begun)

    async def _stream_of(self, request: StreamRequest, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """Answers as they come; only before the first one may the request be sent again."""
        failures: list[ClientError] = []
        while True:
            deadline = Deadline(timeout_s)
            async with aclosing(self._transport.stream(request, timeout_s=timeout_s)) as responses:
                n_answers = 0
                try:
                    async for response in responses:
                        n_answers += 1
                        yield response
                    return
                except ClientError as error:
                    failures.append(error)
                    delay_s = self._stream_delay_s(request, failures, n_answers, deadline)
            request = after_losses(request, sum(error.n_lost for error in failures))
            await asyncio.sleep(delay_s)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientError(
                "this AsyncMusicClient belongs to another event loop, where its connections are; "
                "make one inside each asyncio.run()"
            )


async def _advanced(step: Callable[[A], Request | Pause], value: A) -> Request | Pause | _Done[T]:
    """Run a flow to its next request, in a worker thread because that is where recordings are decoded."""

    def run() -> Request | Pause | _Done[T]:
        try:
            return step(value)
        except StopIteration as end:  # a future cannot carry this one
            return _Done(end.value)

    return await asyncio.to_thread(run)
