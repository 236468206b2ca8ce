"""Generation of music: compose, continue, harmonise, infill, vary, reconstruct, interpolate, sample and convert."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from tritone import Piece, to_grid
from tritone.music.instruments import check_instruments
from tritone_gateway.bodies import body, body_schema, read_score
from tritone_gateway.events import composition_events
from tritone_gateway.gateway import Gateway, GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import (
    EVENT_STREAM,
    PIECE_TYPES,
    PIECES_TYPES,
    negotiate,
    piece_response,
    pieces_response,
    result_responses,
)
from tritone_gateway.request_models import (
    InstrumentNames,
    PieceSampling,
    RequestBody,
    Sampling,
    ScoreFile,
    draw_seed,
    instruments_field,
    score_field,
)
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Write"],
    dependencies=[requires("write")],
    responses=problem_responses(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 502, 503, 504),
)

_COMPOSE_TYPES: Final = (*PIECE_TYPES, EVENT_STREAM)
_SCORE: Final = "a MIDI file, or notes."
_ONE_PIECE: Final = result_responses(Piece, PIECE_TYPES)


class ComposeRequest(PieceSampling):
    """A piece to compose from scratch, or to continue from `file`."""

    file: ScoreFile | None = score_field(f"Score to continue: {_SCORE}", default=None)
    bars: int = Field(8, ge=1, le=1_000, description="Number of new bars.")
    meter: tuple[int, int] | None = Field(None, description="Time signature, as in [3, 4].", examples=[[4, 4]])
    key: str | int | None = Field(
        None,
        description="Tonic, as in F# or 6; like the other conditions that of `file`, or drawn, if left out.",
        examples=["G"],
    )
    mode: Literal["major", "minor"] | None = Field(None, description="Mode of the key.")
    density: Literal["low", "medium", "high"] | None = Field(
        None, description="Notes per bar, among pieces of the style."
    )
    voices: int | None = Field(None, ge=1, le=6, description="Notes at once.")
    structure: str | None = Field(
        None,
        max_length=64,
        description="A letter for each phrase; equal letters are the same music.",
        examples=["AABA"],
    )
    ending: bool = Field(True, description="Whether the piece comes to its end with the last bar.")
    n_candidates: int = Field(
        8,
        ge=1,
        le=16,
        description="Maximum number of pieces that are composed until one has the requested key and ending; with "
        "server-sent events always one.",
    )
    stream_model: str = Field("composer", max_length=256, description="Name of the model for server-sent events.")


class ContinueRequest(ComposeRequest):
    """A score to continue."""

    file: ScoreFile = score_field(f"Score to continue: {_SCORE}")


class HarmonizeRequest(PieceSampling):
    """A melody to harmonise."""

    file: ScoreFile = score_field(f"The melody: {_SCORE}")
    highest: bool = Field(False, description="Use the highest voice of the score as the melody.")
    n_candidates: int = Field(
        8,
        ge=1,
        le=16,
        description="Harmonize so many times; the best result returns: with a cadence at the end, the fewest parallel "
        "fifths and octaves, and the highest likelihood, in this order.",
    )


class InfillRequest(PieceSampling):
    """A score and the range of bars to replace."""

    file: ScoreFile = score_field(f"The score: {_SCORE}")
    bars: tuple[int, int] = Field(
        description="Range of bars to replace, counted from 0: the first one, and the one after the last.",
        examples=[[4, 6]],
    )


class LatentSampling(Sampling):
    """Sampling parameters of a model that decodes points of its latent space."""

    top_k: int | None = Field(
        1, ge=1, description="Sample only from this many most probable candidates; 1 selects the most probable one."
    )
    model: str = Field("music_vae", max_length=256, description="Name of the model.")


class VaryRequest(LatentSampling):
    """A score to vary along a musical attribute."""

    file: ScoreFile = score_field(f"The score, of two bars: {_SCORE}")
    attribute: str = Field(
        max_length=100,
        description="Musical attribute: note_density, pitch_range or rhythmic_complexity.",
        examples=["note_density"],
    )
    amount: float = Field(
        ge=-10, le=10, description="Change of the attribute, in standard deviations over real music; may be negative."
    )


class ReconstructRequest(LatentSampling):
    """A score to encode and decode."""

    file: ScoreFile = score_field(f"The score, of two bars: {_SCORE}")


class InterpolateRequest(LatentSampling):
    """Two scores to interpolate between."""

    a: ScoreFile = score_field(f"The first score, of two bars: {_SCORE}")
    b: ScoreFile = score_field(f"The second score, of two bars: {_SCORE}")
    steps: int = Field(5, ge=2, le=100, description="Number of pieces, including both ends.")


class SampleRequest(RequestBody):
    """Pieces of two bars to sample. Each model accepts only some of the conditions."""

    model: str = Field("music_gan", max_length=256, description="Name of the model.")
    n: int = Field(4, ge=1, le=1_000, description="Number of pieces.")
    seed: int = Field(
        default_factory=draw_seed,
        ge=0,
        description="Random seed, which reproduces the pieces. If omitted, one is drawn and returned.",
    )
    temperature: float | None = Field(
        None, ge=0.01, le=100, description="Sampling temperature: below 1 is more conservative, above 1 more random."
    )
    top_k: int | None = Field(None, ge=1, description="Sample only from this many most probable candidates.")
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Sample only from the most probable candidates that together have this probability.",
    )
    tempo_qpm: float | None = Field(
        None, ge=10, le=1_000, description="Tempo of the result in quarter notes per minute."
    )
    instruments: InstrumentNames = instruments_field()
    key: str | int | None = Field(None, description="Tonic, such as F#, or its number from C, such as 6 (music_gan).")
    mode: str | None = Field(None, description="Mode: major or minor (music_gan).")
    density: float | None = Field(None, ge=0, le=16, description="Number of notes struck per quarter note (music_gan).")
    truncation: float | None = Field(
        None, gt=0, le=1, description="Truncation of the noise: lower values give less varied pieces (music_gan)."
    )
    note_density: float | None = Field(
        None, ge=-10, le=10, description="Note density, in standard deviations from the mean (music_vae)."
    )
    pitch_range: float | None = Field(
        None, ge=-10, le=10, description="Pitch range, in standard deviations from the mean (music_vae)."
    )
    rhythmic_complexity: float | None = Field(
        None, ge=-10, le=10, description="Rhythmic complexity, in standard deviations from the mean (music_vae)."
    )


class ConvertRequest(RequestBody):
    """A score to convert to another format."""

    file: ScoreFile = score_field(f"The score: {_SCORE}")
    instruments: InstrumentNames = instruments_field()


class Pieces(BaseModel):
    """A list of pieces."""

    pieces: list[Piece]


@router.post(
    "/compose",
    operation_id="compose",
    summary="Compose a piece",
    responses=result_responses(Piece, _COMPOSE_TYPES),
    openapi_extra=body_schema(ComposeRequest),
)
async def compose(
    request: Request, gateway: GatewayDependency, options: Annotated[ComposeRequest, body(ComposeRequest)]
) -> Response:
    """Compose a piece from scratch, or continue a score. With `Accept: text/event-stream`, stream its bars."""
    return await _compose_or_continue(request, gateway, options)


@router.post(
    "/continue",
    operation_id="continue",
    summary="Continue a score",
    responses=result_responses(Piece, _COMPOSE_TYPES),
    openapi_extra=body_schema(ContinueRequest),
)
async def continue_(
    request: Request, gateway: GatewayDependency, options: Annotated[ContinueRequest, body(ContinueRequest)]
) -> Response:
    """Return the score followed by new bars. With `Accept: text/event-stream`, stream the new bars."""
    return await _compose_or_continue(request, gateway, options)


@router.post(
    "/harmonize",
    operation_id="harmonize",
    summary="Harmonize a melody",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(HarmonizeRequest),
)
async def harmonize(
    request: Request, gateway: GatewayDependency, options: Annotated[HarmonizeRequest, body(HarmonizeRequest)]
) -> Response:
    """Return the melody with accompanying voices."""
    return await _piece_from_score(request, gateway, options, gateway.client.harmonize)


@router.post(
    "/infill",
    operation_id="infill",
    summary="Replace bars of a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(InfillRequest),
)
async def infill(
    request: Request, gateway: GatewayDependency, options: Annotated[InfillRequest, body(InfillRequest)]
) -> Response:
    """Return the score with new bars that fit the music before and after them."""
    return await _piece_from_score(request, gateway, options, gateway.client.infill)


@router.post(
    "/vary",
    operation_id="vary",
    summary="Vary a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(VaryRequest),
)
async def vary(
    request: Request, gateway: GatewayDependency, options: Annotated[VaryRequest, body(VaryRequest)]
) -> Response:
    """Return a variation with more or less of a musical attribute."""
    return await _piece_from_score(request, gateway, options, gateway.client.vary)


@router.post(
    "/reconstruct",
    operation_id="reconstruct",
    summary="Encode and decode a score",
    responses=_ONE_PIECE,
    openapi_extra=body_schema(ReconstructRequest),
)
async def reconstruct(
    request: Request, gateway: GatewayDependency, options: Annotated[ReconstructRequest, body(ReconstructRequest)]
) -> Response:
    """Return the score after encoding and decoding, which shows what the model preserves."""
    return await _piece_from_score(request, gateway, options, gateway.client.reconstruct)


@router.post(
    "/interpolate",
    operation_id="interpolate",
    summary="Interpolate between two scores",
    responses=result_responses(Pieces, PIECES_TYPES),
    openapi_extra=body_schema(InterpolateRequest),
)
async def interpolate(
    request: Request, gateway: GatewayDependency, options: Annotated[InterpolateRequest, body(InterpolateRequest)]
) -> Response:
    """Return pieces that lead from one score to another."""
    media_type = negotiate(request, PIECES_TYPES)
    a, b = await read_score(options.a, gateway), await read_score(options.b, gateway)
    pieces = await gateway.client.interpolate(a, b, **options.model_dump(exclude={"a", "b"}))
    return await pieces_response(pieces, media_type)


@router.post(
    "/sample",
    operation_id="sample",
    summary="Sample new pieces",
    responses=result_responses(Pieces, PIECES_TYPES),
    openapi_extra=body_schema(SampleRequest),
)
async def sample(
    request: Request, gateway: GatewayDependency, options: Annotated[SampleRequest, body(SampleRequest)]
) -> Response:
    """Return new pieces of two bars, decoded from random noise."""
    media_type = negotiate(request, PIECES_TYPES)
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
    request: Request, gateway: GatewayDependency, options: Annotated[ConvertRequest, body(ConvertRequest)]
) -> Response:
    """Return a score as the models represent it: in sixteenth notes, without its instruments and dynamics."""
    media_type = negotiate(request, PIECE_TYPES)
    score = await read_score(options.file, gateway)
    piece = Piece(await asyncio.to_thread(to_grid, score), instruments=check_instruments(options.instruments) or ())
    return await piece_response(piece, media_type, gateway.notation)


async def _piece_from_score(
    request: Request,
    gateway: Gateway,
    options: HarmonizeRequest | InfillRequest | VaryRequest | ReconstructRequest,
    call: Callable[..., Awaitable[Piece]],
) -> Response:
    """Call a method of the SDK with the score of a request, and return the resulting piece."""
    media_type = negotiate(request, PIECE_TYPES)
    score = await read_score(options.file, gateway)
    piece = await call(score, **options.model_dump(exclude={"file"}))
    return await piece_response(piece, media_type, gateway.notation)


async def _compose_or_continue(request: Request, gateway: Gateway, options: ComposeRequest) -> Response:
    media_type = negotiate(request, _COMPOSE_TYPES)
    prompt = None if options.file is None else await read_score(options.file, gateway)
    arguments = options.model_dump(exclude={"file", "model", "stream_model", "n_candidates"})
    if media_type == EVENT_STREAM:
        stream = gateway.client.stream_compose(prompt=prompt, model=options.stream_model, **arguments)
        return await composition_events(request, stream)
    piece = await gateway.client.compose(
        prompt=prompt, model=options.model, n_candidates=options.n_candidates, **arguments
    )
    return await piece_response(piece, media_type, gateway.notation)
