"""From nothing to recommendations: a piece is composed, classified by its sound, and tracks like it are recommended."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from tritone import Inspiration
from tritone_gateway.bodies import ScoreFile, body, body_schema, score_field, score_of
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import JSON, MIDI, WAV, contents, negotiated, piece_response
from tritone_gateway.sampling import Styled
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Write"],
    dependencies=[requires("write"), requires("recommend")],
    responses=responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 502, 503, 504),
)

_TYPES: Final = (JSON, MIDI, WAV)


class InspireRequest(Styled):
    """What to begin with: a score, a mood, or nothing."""

    file: ScoreFile | None = score_field("Score to continue: a MIDI file, or notes.", default=None)
    mood: str | None = Field(
        None, max_length=100, description="One of the nine emotions: tempo and mode of the piece, and order of tracks."
    )
    bars: int = Field(8, ge=1, le=256, description="Number of new bars.")
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
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
