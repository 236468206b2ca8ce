"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.readiness import Readiness
from tritone_gateway.security.callers import requires

router = APIRouter(tags=["Operations"])


class Liveness(BaseModel):
    """Whether the process responds."""

    alive: bool = True


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
    """Tell which models are ready, as their server reports at most a second ago.

    503 if the server cannot be reached, no model is ready, one that the operator requires is not, or before a stop.
    While some models are ready and others are not, the gateway is ready and `degraded`.
    """
    if gateway.load.draining:
        state = Readiness(ready=False, degraded=False, models={}, reason="the gateway is about to stop")
    else:
        state = await gateway.readiness.state(gateway.client)
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
