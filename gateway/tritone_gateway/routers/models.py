"""The models that the server has."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import ModelInfo
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import JSON, contents
from tritone_gateway.security.callers import CallerOf

router = APIRouter(prefix="/v1", tags=["Models"], responses=responses(401, 429, 502, 503, 504))


class Models(BaseModel):
    """The loaded models."""

    models: list[ModelInfo] = Field(description="In order of their names.")


@router.get("/models", operation_id="listModels", summary="List the models", responses=contents(Models, (JSON,)))
async def list_models(gateway: GatewayOf, _caller: CallerOf) -> Response:
    """Return the loaded models with their versions, and whether they are ready."""
    return JSONResponse({"models": [each.to_dict() for each in await gateway.client.models()]})
