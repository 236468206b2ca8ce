"""New music: composed, continued, harmonised, infilled, varied, interpolated, sampled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from tritone import Piece, to_grid
from tritone.music.instruments import check_instruments
from tritone_gateway.bodies import Options, ScoreFile, body, body_schema, score_field, score_of
from tritone_gateway.events import composition_events
from tritone_gateway.gateway import Gateway, GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import (
    EVENT_STREAM,
    PIECE_TYPES,
    PIECES_TYPES,
    contents,
    negotiated,
    piece_response,
    pieces_response,
)
from tritone_gateway.sampling import InstrumentNames, Sampling, Styled, drawn_seed, instruments_field
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Write"],
    dependencies=[requires("write")],
    responses=responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 502, 503, 504),
)

_COMPOSED_TYPES: Final = (*PIECE_TYPES, EVENT_STREAM)
_SCORE: Final = "a MIDI file, or notes."
_ONE_PIECE: Final = contents(Piece, PIECE_TYPES)


class ComposeRequest(Styled):
    """A piece to compose from scratch, or to continue from `file`."""

    file: ScoreFile | None = score_field(f"Score to continue: {_SCORE}", default=None)
    bars: int = Field(8, ge=1, le=1_000, description="Number of new bars.")
    meter: tuple[int, int] | None = Field(None, description="Time signature, as in [3, 4].", examples=[[4, 4]])
    stream_model: str = Field("composer", max_length=256, description="Name of the model for server-sent events.")


class ContinueRequest(ComposeRequest):
    """A score to continue."""

    file: ScoreFile = score_field(f"Score to continue: {_SCORE}")


class HarmonizeRequest(Styled):
    """A melody to compose other voices for."""

    file: ScoreFile = score_field(f"The melody: {_SCORE}")
    highest: bool = Field(False, description="Use the highest voice of the score as the melody.")
    n_candidates: int = Field(1, ge=1, le=16, description="Harmonize so many times; the most likely result returns.")


class InfillRequest(Styled):
    """A score some bars of which are to be replaced."""

    file: ScoreFile = score_field(f"The score: {_SCORE}")
    bars: tuple[int, int] = Field(
        description="The first bar to replace, counted from 0, and the first one after them.", examples=[[4, 6]]
    )


class Latent(Sampling):
    """How a model decodes a point of its latent space."""

    top_k: int | None = Field(1, ge=1, description="1 for the most likely notes.")
    model: str = Field("music_vae", max_length=256, description="Name of the model.")


class VaryRequest(Latent):
    """A score to vary along a musical attribute."""

    file: ScoreFile = score_field(f"The score, of two bars: {_SCORE}")
    attribute: str = Field(
        max_length=100, description="note_density, pitch_range or rhythmic_complexity.", examples=["note_density"]
    )
    amount: float = Field(ge=-10, le=10, description="How far, in standard deviations of real music; may be negative.")


class ReconstructRequest(Latent):
    """A score to encode and decode."""

    file: ScoreFile = score_field(f"The score, of two bars: {_SCORE}")


class InterpolateRequest(Latent):
    """Two scores to find pieces between."""

    a: ScoreFile = score_field(f"The first score, of two bars: {_SCORE}")
    b: ScoreFile = score_field(f"The second score, of two bars: {_SCORE}")
    steps: int = Field(5, ge=2, le=100, description="Number of pieces, those of both ends included.")


class SampleRequest(Options):
    """New pieces of two bars from noise. Each model accepts some of the conditions and refuses the others."""

    model: str = Field("music_gan", max_length=256, description="Name of the model.")
    n: int = Field(4, ge=1, le=1_000, description="Number of pieces.")
    seed: int = Field(
        default_factory=drawn_seed, ge=0, description="Reproduces the pieces; drawn and returned if left out."
    )
    temperature: float | None = Field(None, ge=0.01, le=100, description="Below 1 more conservative.")
    top_k: int | None = Field(None, ge=1, description="Sample among this many candidates.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample among the candidates of this total probability.")
    tempo_qpm: float | None = Field(None, ge=10, le=1_000, description="Quarter notes per minute of the result.")
    instruments: InstrumentNames = instruments_field()
    key: str | int | None = Field(None, description="Tonic, as in F# or 6 (music_gan).")
    mode: str | None = Field(None, description="major or minor (music_gan).")
    density: float | None = Field(None, ge=0, le=16, description="Struck notes in a quarter (music_gan).")
    truncation: float | None = Field(None, gt=0, le=1, description="Less is safer and less varied (music_gan).")
    note_density: float | None = Field(None, ge=-10, le=10, description="Standard deviations (music_vae).")
    pitch_range: float | None = Field(None, ge=-10, le=10, description="Standard deviations (music_vae).")
    rhythmic_complexity: float | None = Field(None, ge=-10, le=10, description="Standard deviations (music_vae).")


class ConvertRequest(Options):
    """A score to return in another form."""

    file: ScoreFile = score_field(f"The score: {_SCORE}")
    instruments: InstrumentNames = instruments_field()


class Pieces(BaseModel):
    """Several pieces."""

    pieces: list[Piece]


@router.post(
    "/compose",
    operation_id="compose",
    summary="Compose a piece",
    responses=contents(Piece, _COMPOSED_TYPES),
    openapi_extra=body_schema(ComposeRequest),
)
async def compose(
    request: Request, gateway: GatewayOf, options: Annotated[ComposeRequest, body(ComposeRequest)]
) -> Response:
    """Compose from scratch, or continue a score; with `Accept: text/event-stream`, bar by bar."""
    return await _composed(request, gateway, options)


@router.post(
    "/continue",
    operation_id="continue",
    summary="Continue a score",
    responses=contents(Piece, _COMPOSED_TYPES),
    openapi_extra=body_schema(ContinueRequest),
)
async def continue_(
    request: Request, gateway: GatewayOf, options: Annotated[ContinueRequest, body(ContinueRequest)]
) -> Response:
    """Return the score and new bars; with `Accept: text/event-stream`, bar by bar."""
    return await _composed(request, gateway, options)


@router.post(
    "/harmonize",
    operation_id="harmonize",
    summary="Harmonize a melody",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(HarmonizeRequest),
)
async def harmonize(
    request: Request, gateway: GatewayOf, options: Annotated[HarmonizeRequest, body(HarmonizeRequest)]
) -> Response:
    """Return the melody with other voices."""
    return await _changed(request, gateway, options, gateway.client.harmonize)


@router.post(
    "/infill",
    operation_id="infill",
    summary="Replace bars of a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(InfillRequest),
)
async def infill(
    request: Request, gateway: GatewayOf, options: Annotated[InfillRequest, body(InfillRequest)]
) -> Response:
    """Return the score with new bars that fit their surroundings."""
    return await _changed(request, gateway, options, gateway.client.infill)


@router.post(
    "/vary",
    operation_id="vary",
    summary="Vary a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(VaryRequest),
)
async def vary(request: Request, gateway: GatewayOf, options: Annotated[VaryRequest, body(VaryRequest)]) -> Response:
    """Return a variation with more or less of a musical attribute."""
    return await _changed(request, gateway, options, gateway.client.vary)


@router.post(
    "/reconstruct",
    operation_id="reconstruct",
    summary="Encode and decode a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(ReconstructRequest),
)
async def reconstruct(
    request: Request, gateway: GatewayOf, options: Annotated[ReconstructRequest, body(ReconstructRequest)]
) -> Response:
    """Return what a model keeps of a score."""
    return await _changed(request, gateway, options, gateway.client.reconstruct)


@router.post(
    "/interpolate",
    operation_id="interpolate",
    summary="Find pieces between two scores",
    responses=contents(Pieces, PIECES_TYPES),
    openapi_extra=body_schema(InterpolateRequest),
)
async def interpolate(
    request: Request, gateway: GatewayOf, options: Annotated[InterpolateRequest, body(InterpolateRequest)]
) -> Response:
    """Return pieces that lead from one score to another."""
    media_type = negotiated(request, PIECES_TYPES)
    a, b = await score_of(options.a, gateway), await score_of(options.b, gateway)
    pieces = await gateway.client.interpolate(a, b, **options.model_dump(exclude={"a", "b"}))
    return await pieces_response(pieces, media_type)


@router.post(
    "/sample",
    operation_id="sample",
    summary="Create new pieces",
    responses=contents(Pieces, PIECES_TYPES),
    openapi_extra=body_schema(SampleRequest),
)
async def sample(
    request: Request, gateway: GatewayOf, options: Annotated[SampleRequest, body(SampleRequest)]
) -> Response:
    """Return new pieces of two bars from noise."""
    media_type = negotiated(request, PIECES_TYPES)
    conditions: Any = options.model_dump(exclude={"model", "n", "seed"}, exclude_none=True)
    pieces = await gateway.client.sample(options.model, options.n, options.seed, **conditions)
    return await pieces_response(pieces, media_type)


@router.post(
    "/convert",
    operation_id="convert",
    summary="Convert a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(ConvertRequest),
)
async def convert(
    request: Request, gateway: GatewayOf, options: Annotated[ConvertRequest, body(ConvertRequest)]
) -> Response:
    """Return a score as the models read it: in sixteenths, without its instruments and loudness."""
    media_type = negotiated(request, PIECE_TYPES)
    score = await score_of(options.file, gateway)
    piece = Piece(await asyncio.to_thread(to_grid, score), instruments=check_instruments(options.instruments) or ())
    return await piece_response(piece, media_type)


async def _changed(
    request: Request,
    gateway: Gateway,
    options: HarmonizeRequest | InfillRequest | VaryRequest | ReconstructRequest,
    call: Callable[..., Awaitable[Piece]],
) -> Response:
    """Return what a call of the SDK makes of a score."""
    media_type = negotiated(request, PIECE_TYPES)
    score = await score_of(options.file, gateway)
    return await piece_response(await call(score, **options.model_dump(exclude={"file"})), media_type)


async def _composed(request: Request, gateway: Gateway, options: ComposeRequest) -> Response:
    media_type = negotiated(request, _COMPOSED_TYPES)
    prompt = None if options.file is None else await score_of(options.file, gateway)
    arguments = options.model_dump(exclude={"file", "model", "stream_model"})
    if media_type == EVENT_STREAM:
        stream = gateway.client.stream_compose(prompt=prompt, model=options.stream_model, **arguments)
        return await composition_events(request, stream)
    piece = await gateway.client.compose(prompt=prompt, model=options.model, **arguments)
    return await piece_response(piece, media_type)
