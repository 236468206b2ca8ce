"""List of the served models."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import ModelInfo
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import JSON, result_responses
from tritone_gateway.security.callers import CallerDependency

router = APIRouter(prefix="/v1", tags=["Models"], responses=problem_responses(401, 429, 502, 503, 504))


class Models(BaseModel):
    """The loaded models."""

    models: list[ModelInfo] = Field(description="The models, sorted by name.")


@router.get(
    "/models", operation_id="listModels", summary="List the models", responses=result_responses(Models, (JSON,))
)
async def list_models(gateway: GatewayDependency, _caller: CallerDependency) -> Response:
    """Return the loaded models with their versions and readiness."""
    return JSONResponse({"models": [each.to_dict() for each in await gateway.client.models()]})
