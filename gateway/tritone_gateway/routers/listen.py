"""Analysis: classification and embedding of recordings, and the likelihood of scores."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import Classification, Prediction
from tritone_gateway.bodies import body, body_schema, read_recording, read_score
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import (
    CLASSIFICATION_TYPES,
    JSON,
    classification_response,
    negotiate,
    result_responses,
)
from tritone_gateway.request_models import AudioFile, RequestBody, ScoreFile, audio_field, score_field
from tritone_gateway.security.callers import requires

router = APIRouter(
    prefix="/v1",
    tags=["Listen"],
    dependencies=[requires("listen")],
    responses=problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503, 504),
)

_FORMATS = "any format that libsndfile reads: WAV, FLAC, Ogg Vorbis, Opus, MP3, ..."


class ClassifyRequest(RequestBody):
    """A recording to classify."""

    file: AudioFile = audio_field(f"The recording, in {_FORMATS}")
    top: int | None = Field(None, ge=1, le=1_000, description="Number of labels in the response; all by default.")
    model: str | None = Field(None, max_length=256, description="Name of the model.")


class EmbedRequest(RequestBody):
    """A recording to embed."""

    file: AudioFile = audio_field(f"The recording, in {_FORMATS}")
    model: str | None = Field(None, max_length=256, description="Name of the model.")


class Embedding(BaseModel):
    """The embedding of a recording; similar recordings have similar embeddings."""

    embedding: list[float] = Field(description="Vector of 256 numbers with Euclidean norm 1.")


class PredictRequest(RequestBody):
    """A score whose likelihood is computed."""

    file: ScoreFile = score_field("The score: a MIDI file, or notes.")
    model: str = Field("polyphony_rnn", max_length=256, description="Name of the model.")


@router.post(
    "/classify",
    operation_id="classify",
    summary="Classify a recording",
    responses={**result_responses(Classification, CLASSIFICATION_TYPES), **problem_responses(406)},
    openapi_extra=body_schema(ClassifyRequest),
)
async def classify(
    request: Request, gateway: GatewayDependency, options: Annotated[ClassifyRequest, body(ClassifyRequest)]
) -> Response:
    """Return genre, emotions, tags, a timeline in windows of 3 s and an embedding."""
    media_type = negotiate(request, CLASSIFICATION_TYPES)
    audio = await read_recording(options.file, gateway)
    result = await gateway.client.classify(audio, top=options.top, model=options.model)
    return await classification_response(result, media_type)


@router.post(
    "/embed",
    operation_id="embed",
    summary="Embed a recording",
    responses=result_responses(Embedding, (JSON,)),
    openapi_extra=body_schema(EmbedRequest),
)
async def embed(gateway: GatewayDependency, options: Annotated[EmbedRequest, body(EmbedRequest)]) -> Response:
    """Return the embedding vector; similar recordings have similar vectors."""
    audio = await read_recording(options.file, gateway)
    embedding = await gateway.client.embed(audio, model=options.model)
    return JSONResponse({"embedding": embedding.tolist()})


@router.post(
    "/predict",
    operation_id="predict",
    summary="Compute the likelihood of a score",
    responses=result_responses(Prediction, (JSON,)),
    openapi_extra=body_schema(PredictRequest),
)
async def predict(gateway: GatewayDependency, options: Annotated[PredictRequest, body(PredictRequest)]) -> Response:
    """Return the negative log-likelihood of each time step, which is high where the music is surprising."""
    score = await read_score(options.file, gateway)
    return JSONResponse((await gateway.client.predict(score, model=options.model)).to_dict())
