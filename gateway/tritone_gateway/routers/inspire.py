"""Compose a piece, classify its rendered audio and recommend similar tracks, in one request."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from tritone import Inspiration
from tritone_gateway.bodies import body, body_schema, read_score
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import JSON, MIDI, WAV, negotiate, piece_response, result_responses
from tritone_gateway.request_models import MOOD_DESCRIPTION, Mood, PieceSampling, ScoreFile, score_field
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Write"],
    dependencies=[requires("write"), requires("recommend")],
    responses=problem_responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 502, 503, 504),
)

_TYPES: Final = (JSON, MIDI, WAV)


class InspireRequest(PieceSampling):
    """A piece to compose from a score, from a mood or from scratch."""

    file: ScoreFile | None = score_field("Score to continue: a MIDI file, or notes.", default=None)
    mood: Mood | None = Field(
        None, description=f"{MOOD_DESCRIPTION} The strongest sets tempo and mode of the piece, and ranks the tracks."
    )
    bars: int = Field(8, ge=1, le=256, description="Number of new bars.")
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    model: str = Field("inspire", max_length=256, description="Name of the model.")


@router.post(
    "/inspire",
    operation_id="inspire",
    summary="Compose a piece and recommend similar tracks",
    responses=result_responses(Inspiration, _TYPES),
    openapi_extra=body_schema(InspireRequest),
)
async def inspire(
    request: Request, gateway: GatewayDependency, options: Annotated[InspireRequest, body(InspireRequest)]
) -> Response:
    """Return a piece, its classification and similar tracks.

    The header `Server-Timing` has the duration of the call to the model and, as a part of it, of rendering. With
    `Accept: audio/midi` or `audio/wav`, the response is only the piece.
    """
    media_type = negotiate(request, _TYPES)
    prompt = None if options.file is None else await read_score(options.file, gateway)
    result = await gateway.client.inspire(prompt=prompt, **options.model_dump(exclude={"file"}))
    if media_type == JSON:
        content = await asyncio.to_thread(result.to_dict)
        response: Response = JSONResponse(content, headers={"Vary": "Accept"})
    else:
        response = await piece_response(result.piece, media_type, gateway.notation)
    response.headers["Server-Timing"] = _timing(result)
    return response


def _timing(result: Inspiration) -> str:
    """Return the value of a `Server-Timing` header; durations are in milliseconds.

    Source: https://www.w3.org/TR/server-timing/
    """
    durations = {"model": result.request_s, "render": result.render_s}
    return ", ".join(f"{name};dur={1_000 * seconds:.1f}" for name, seconds in durations.items())
