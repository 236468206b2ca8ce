"""What the calls need of the client that they are mixed into."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

from tritone_client._catalogue import Flow
from tritone_client._deadline import Deadline
from tritone_client._generation_models import Writers
from tritone_client._messages import InferResponse, StreamRequest

T = TypeVar("T")


class Runs(Protocol):
    """`MusicClient`."""

    _writers: Writers

    def _run(self, flow: Flow[T], deadline: Deadline) -> T: ...

    def _stream(self, request: StreamRequest, timeout_s: float) -> Iterator[InferResponse]: ...

    def _deadline(self, timeout_s: float | None) -> Deadline: ...


class AsyncRuns(Protocol):
    """`AsyncMusicClient`."""

    _writers: Writers

    async def _run(self, flow: Flow[T], deadline: Deadline) -> T: ...

    def _stream(self, request: StreamRequest, timeout_s: float) -> AsyncIterator[InferResponse]: ...

    def _deadline(self, timeout_s: float | None) -> Deadline: ...
