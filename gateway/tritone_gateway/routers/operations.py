"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

import tritone
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.security.callers import requires

router = APIRouter(tags=["Operations"])

_READY_TIMEOUT_S = 2.0


class Liveness(BaseModel):
    """Whether the process responds."""

    alive: bool = True


class Readiness(BaseModel):
    """Whether requests can be served."""

    ready: bool
    models: dict[str, bool] = Field(description="Whether each loaded model is ready.")
    reason: str | None = Field(None, description="Why not.")


@router.get("/livez", operation_id="liveness", summary="Whether the process responds")
async def livez() -> Liveness:
    """Respond without asking the models."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Whether requests can be served",
    response_model=Readiness,
    responses={503: {"description": "Not ready.", "model": Readiness}},
)
async def readyz(gateway: GatewayOf) -> Response:
    """Ask the server for its models and each model whether it is ready; 503 if one is not, or before a stop."""
    models: dict[str, bool] = {}
    reason = None
    if gateway.load.draining:
        reason = "the gateway is about to stop"
    else:
        try:
            models = {each.name: each.ready for each in await gateway.client.models(timeout_s=_READY_TIMEOUT_S)}
        except tritone.TritoneError as error:
            reason = str(error)
        else:
            waiting = [name for name, ready in models.items() if not ready]
            if not models:
                reason = "the server has no models"
            elif waiting:
                reason = f"not ready: {', '.join(waiting)}"
    state = Readiness(ready=reason is None, models=models, reason=reason)
    return JSONResponse(state.model_dump(), status_code=200 if state.ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics in Prometheus's text format",
    dependencies=[requires("admin")],
    responses={200: {"content": {"text/plain": {}}}, **responses(401, 403, 429, 503)},
    response_class=Response,
)
async def metrics(gateway: GatewayOf) -> Response:
    """Return the metrics of all workers; a key needs the scope `admin`."""
    return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)
