"""Server-sent events of a composition.

The event `start` has the seed, `bars` each chunk as it arrives, and `piece` the complete piece. A stream that fails
ends with `error` and a problem. Comments keep the connection open while the model computes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from tritone import AsyncPieceStream, PieceChunk
from tritone_gateway.problems import problem_of
from tritone_gateway.representations import EVENT_STREAM

_KEEP_ALIVE_S: Final = 10.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}


async def composition_events(request: Request, stream: AsyncPieceStream) -> StreamingResponse:
    """Return a response that streams a composition.

    The first chunk is awaited before the response begins, so that an invalid request has an error status. If the caller
    disconnects, the stream is closed, which stops the model.

    Raises:
        ClientError: the composition failed before its first chunk.
    """
    try:
        first = await anext(stream, None)
    except BaseException:
        await stream.close()
        raise
    request_id: str = request.scope["state"]["request_id"]
    return StreamingResponse(_events(stream, first, request_id), media_type=EVENT_STREAM, headers=_HEADERS)


async def _events(stream: AsyncPieceStream, first: PieceChunk | None, request_id: str) -> AsyncGenerator[bytes, None]:
    async with stream:
        yield _event("start", {"seed": stream.seed})
        chunk = first
        try:
            while chunk is not None:
                yield _event("bars", chunk.to_dict())
                pending = asyncio.ensure_future(anext(stream, None))
                try:
                    while not (await asyncio.wait([pending], timeout=_KEEP_ALIVE_S))[0]:
                        yield _KEEP_ALIVE
                    chunk = pending.result()
                finally:
                    pending.cancel()
            yield _event("piece", stream.result().to_dict())
        except Exception as error:
            problem, _ = problem_of(error, request_id)
            yield _event("error", problem.model_dump(exclude_none=True))


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")))
