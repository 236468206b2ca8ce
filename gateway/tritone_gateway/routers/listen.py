"""Recordings: genre, emotions, tags and embeddings; how probable a model finds a score."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import Classification, Prediction
from tritone_gateway.bodies import (
    AudioFile,
    Options,
    ScoreFile,
    audio_field,
    body,
    body_schema,
    recording_of,
    score_field,
    score_of,
)
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import CLASSIFICATION_TYPES, JSON, classification_response, contents, negotiated
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Listen"],
    dependencies=[requires("listen")],
    responses=responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503, 504),
)

_FORMATS = "any format that libsndfile reads: WAV, FLAC, Ogg Vorbis, Opus, MP3, ..."


class ClassifyRequest(Options):
    """A recording to classify."""

    file: AudioFile = audio_field(f"The recording, in {_FORMATS}")
    top: int | None = Field(None, ge=1, le=1_000, description="Number of labels in the response; all if left out.")
    model: str | None = Field(None, max_length=256, description="Name of the model.")


class EmbedRequest(Options):
    """A recording to embed."""

    file: AudioFile = audio_field(f"The recording, in {_FORMATS}")
    model: str | None = Field(None, max_length=256, description="Name of the model.")


class Embedding(BaseModel):
    """The embedding of a recording; recordings that sound alike have similar embeddings."""

    embedding: list[float] = Field(description="256 numbers, of length 1 as a vector.")


class PredictRequest(Options):
    """A score to predict."""

    file: ScoreFile = score_field("The score: a MIDI file, or notes.")
    model: str = Field("polyphony_rnn", max_length=256, description="Name of the model.")


@router.post(
    "/classify",
    operation_id="classify",
    summary="Classify a recording",
    responses={**contents(Classification, CLASSIFICATION_TYPES), **responses(406)},
    openapi_extra=body_schema(ClassifyRequest),
)
async def classify(
    request: Request, gateway: GatewayOf, options: Annotated[ClassifyRequest, body(ClassifyRequest)]
) -> Response:
    """Return genre, emotions, tags, a timeline in windows of 3 s and an embedding."""
    media_type = negotiated(request, CLASSIFICATION_TYPES)
    audio = await recording_of(options.file, gateway)
    result = await gateway.client.classify(audio, top=options.top, model=options.model)
    return await classification_response(result, media_type)


@router.post(
    "/embed",
    operation_id="embed",
    summary="Embed a recording",
    responses=contents(Embedding, (JSON,)),
    openapi_extra=body_schema(EmbedRequest),
)
async def embed(gateway: GatewayOf, options: Annotated[EmbedRequest, body(EmbedRequest)]) -> Response:
    """Return a vector; recordings that sound alike have similar vectors."""
    audio = await recording_of(options.file, gateway)
    embedding = await gateway.client.embed(audio, model=options.model)
    return JSONResponse({"embedding": embedding.tolist()})


@router.post(
    "/predict",
    operation_id="predict",
    summary="Rate how probable a model finds a score",
    responses=contents(Prediction, (JSON,)),
    openapi_extra=body_schema(PredictRequest),
)
async def predict(gateway: GatewayOf, options: Annotated[PredictRequest, body(PredictRequest)]) -> Response:
    """Return the negative log-likelihood of each time step, high where the music is surprising."""
    score = await score_of(options.file, gateway)
    return JSONResponse((await gateway.client.predict(score, model=options.model)).to_dict())
