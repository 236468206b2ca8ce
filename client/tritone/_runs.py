"""What the calls need of the client that they are mixed into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, TypeVar

from tritone.credentials import Credentials
from tritone.generation_models import Writers
from tritone.messages import InferResponse, StreamRequest
from tritone.model_cache import Catalogue, Flow
from tritone.retry import Deadline

T = TypeVar("T")


class Runs(Protocol):
    """`MusicClient`."""

    _catalogue: Catalogue
    _writers: Writers
    _credentials: Credentials
    _genre_model: str

    def _run(self, flow: Flow[T], deadline: Deadline) -> T: ...

    def _stream(
        self, request: StreamRequest, again: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> Iterator[InferResponse]: ...

    def _deadline(self, timeout_s: float | None) -> Deadline: ...


class AsyncRuns(Protocol):
    """`AsyncMusicClient`."""

    _catalogue: Catalogue
    _writers: Writers
    _credentials: Credentials
    _genre_model: str

    async def _run(self, flow: Flow[T], deadline: Deadline) -> T: ...

    def _stream(
        self, request: StreamRequest, again: Callable[[], Flow[StreamRequest]], timeout_s: float
    ) -> AsyncIterator[InferResponse]: ...

    def _deadline(self, timeout_s: float | None) -> Deadline: ...
