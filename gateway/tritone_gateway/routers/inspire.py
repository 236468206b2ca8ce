"""From nothing to recommendations: a piece is composed, classified by its sound, and tracks like it are recommended."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from tritone import Inspiration
from tritone_gateway.bodies import (
    InstrumentNames,
    Options,
    ScoreFile,
    body,
    body_schema,
    instruments_field,
    score_field,
    score_of,
)
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import JSON, MIDI, WAV, contents, negotiated, piece_response
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Write"],
    dependencies=[requires("write"), requires("recommend")],
    responses=responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 502, 503, 504),
)

_TYPES: Final = (JSON, MIDI, WAV)


class InspireRequest(Options):
    """What to begin with: a score, a mood, or nothing."""

    file: ScoreFile | None = score_field("Score to continue: a MIDI file, or notes.", default=None)
    mood: str | None = Field(
        None, max_length=100, description="One of the nine emotions: tempo and mode of the piece, and order of tracks."
    )
    bars: int = Field(8, ge=1, le=256, description="Number of new bars.")
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    temperature: float = Field(1.0, ge=0.01, le=100, description="Below 1 more conservative, above 1 more random.")
    top_k: int | None = Field(None, ge=1, description="Sample among this many candidates; all if left out.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample among the candidates of this total probability.")
    seed: int = Field(
        # JavaScript's numbers hold such a seed exactly.
        default_factory=lambda: secrets.randbelow(1 << 53),
        ge=0,
        description="Reproduces the piece; drawn and returned if left out.",
    )
    tempo_qpm: float | None = Field(None, ge=10, le=1_000, description="Quarter notes per minute of the piece.")
    instruments: InstrumentNames = instruments_field()
    style: str | None = Field(None, max_length=100, description="One of the composer's styles; any if left out.")
    model: str = Field("inspire", max_length=256, description="Name of the model.")


@router.post(
    "/inspire",
    operation_id="inspire",
    summary="Compose a piece and recommend tracks like it",
    responses=contents(Inspiration, _TYPES),
    openapi_extra=body_schema(InspireRequest),
)
async def inspire(
    request: Request, gateway: GatewayOf, options: Annotated[InspireRequest, body(InspireRequest)]
) -> Response:
    """Return a piece, its classification and tracks like it; `Server-Timing` has the durations of the model's work.

    With `Accept: audio/midi` or `audio/wav`, only the piece.
    """
    media_type = negotiated(request, _TYPES)
    prompt = None if options.file is None else await score_of(options.file, gateway)
    result = await gateway.client.inspire(prompt=prompt, **options.model_dump(exclude={"file"}))
    if media_type == JSON:
        content = await asyncio.to_thread(result.to_dict)
        response: Response = JSONResponse(content, headers={"Vary": "Accept"})
    else:
        response = await piece_response(result.piece, media_type)
    response.headers["Server-Timing"] = _timing(result)
    return response


def _timing(result: Inspiration) -> str:
    """Return a `Server-Timing` header, in milliseconds.

    Source: https://www.w3.org/TR/server-timing/
    """
    durations = {"model": result.request_s, "render": result.render_s}
    return ", ".join(f"{name};dur={1_000 * seconds:.1f}" for name, seconds in durations.items())
