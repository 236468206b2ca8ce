"""The client for threads.

```python
with MusicClient("localhost:8001") as music:
    print(music.classify("song.mp3").label)
    music.compose(bars=8).save("tune.mid")
    print(music.recommend(history=["a song", "another"]).track_ids)
```
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from contextlib import closing
from types import TracebackType
from typing import Self, TypeVar

from tritone._composing_calls import ComposingCalls
from tritone._latent_calls import LatentCalls
from tritone._recommending_calls import RecommendingCalls
from tritone.audio import Audio, FloatArray
from tritone.base_client import BaseClient
from tritone.endpoints import Endpoint
from tritone.exceptions import ClientError, VersionChangedError
from tritone.messages import InferResponse, Request, Response, StreamRequest, Transport, after_losses
from tritone.model_cache import Flow, after
from tritone.results.classification import Classification
from tritone.retry import Deadline, Pause
from tritone.tracing import call_span
from tritone.transports import make_balanced_transport

T = TypeVar("T")


class MusicClient(ComposingCalls, LatentCalls, RecommendingCalls, BaseClient[Transport]):
    """Asks the music models of a server, or of several that serve the same.

    May be shared by threads, and keeps its connections open. After a fork, the child connects by itself; a copy and a
    pickle do too, and a client with secrets cannot be pickled (see docs/how-to/connections.md).
    """

    def classify(
        self,
        audio: Audio,
        *,
        top: int | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Classification:
        """Name a recording's genre, emotions and tags, and embed it.

        Long recordings are streamed: memory stays the same whatever their length.

        Args:
            audio: a path, the bytes of a file, a binary file object (read from its beginning, left open), or
                `(samples, rate_hz)` with samples of shape (S,) or (S, C), floats in -1..1 or any integer
                type at its full scale. Any rate, at least 0.5 s, not silent.
            top: how many labels `probabilities` keeps; all if None.
            model: which model to ask, the client's `genre_model` if None.
            timeout_s: for this call, the client's if None.

        Raises:
            InvalidAudioError: if the recording cannot be used.
            InvalidInputError: if another argument cannot be used.
            ConnectionFailedError: if the server cannot be reached or went away.
            RequestTimeoutError: if the whole took longer than `timeout_s`.
            ServerError: if the server answered with an error; see its subclasses.
        """
        return self._run(self._classify(audio, top, model), self._deadline(timeout_s))

    def embed(self, audio: Audio, *, model: str | None = None, timeout_s: float | None = None) -> FloatArray:
        """Embed a recording: near in this space is alike to the ear.

        Args:
            audio: as for `classify`.
            model: as for `classify`.
            timeout_s: as for `classify`.

        Returns:
            (256,) float32, L2-normalised.

        Raises:
            ClientError: as `classify`.
        """
        return self._run(self._embed(audio, model), self._deadline(timeout_s))

    def server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server is up and all its models are loaded.

        Raises:
            ConnectionFailedError: if it cannot be reached.
            RequestTimeoutError: if it does not answer.
        """
        return self._run(self._ready(None), self._deadline(timeout_s))

    def model_ready(self, model: str, *, timeout_s: float | None = None) -> bool:
        """Whether the server has this model ready; False also if it has never heard of it.

        Raises:
            ConnectionFailedError: if the server cannot be reached.
            RequestTimeoutError: if it does not answer.
        """
        return self._run(self._ready(model), self._deadline(timeout_s))

    def close(self) -> None:
        """Let go of all connections; the client cannot be used any more. May be called more than once."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_transport(self, endpoints: tuple[Endpoint, ...]) -> Transport:
        return make_balanced_transport(endpoints)

    def _run(self, flow: Flow[T], deadline: Deadline) -> T:
        with call_span(flow):
            try:
                request = next(flow)
                while True:
                    try:
                        response = self._answer(request, deadline)
                    except ClientError as error:
                        request = flow.throw(error)
                    else:
                        request = flow.send(response)
            except StopIteration as end:
                result: T = end.value
                return result

    def _answer(self, request: Request | Pause, deadline: Deadline) -> Response | None:
        if isinstance(request, Pause):
            time.sleep(request.delay_s(deadline.left_s()))
            return None
        request = self._prioritized(request)
        failures: list[ClientError] = []
        while True:
            try:
                return self._transport.handle(request, timeout_s=deadline.check(request))
            except ClientError as error:
                failures.append(error)
                delay_s = self._delay_s(request, failures, deadline)
            request = after_losses(request, sum(error.n_lost for error in failures))
            time.sleep(delay_s)

    def _stream(
        self, request: StreamRequest, again: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> Generator[InferResponse, None, None]:
        """Answers as they come; before the first one, `again` makes the request anew where its version is gone."""
        begun = Deadline(timeout_s)
        for n_begun in itertools.count(1):
            with closing(self._stream_of(request, timeout_s)) as responses:
                n_answers = 0
                try:
                    for response in responses:
                        n_answers += 1
                        yield response
                    return
                except VersionChangedError as error:
                    if n_answers:
                        raise
                    pause = Pause(n_begun, error)
            request = self._run(after(pause, again()), begun)

    def _stream_of(self, request: StreamRequest, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Answers as they come; only before the first one may the request be sent again."""
        failures: list[ClientError] = []
        while True:
            deadline = Deadline(timeout_s)
            with closing(self._transport.stream(request, timeout_s=timeout_s)) as responses:
                n_answers = 0
                try:
                    for response in responses:
                        n_answers += 1
                        yield response
                    return
                except ClientError as error:
                    failures.append(error)
                    delay_s = self._stream_delay_s(request, failures, n_answers, deadline)
            request = after_losses(request, sum(error.n_lost for error in failures))
            time.sleep(delay_s)
