"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.readiness import Readiness
from tritone_gateway.security.callers import requires

router = APIRouter(tags=["Operations"])

# Swagger UI replaces the content of this element. A browser without access to its host keeps showing it.
_SWAGGER_ELEMENT = '<div id="swagger-ui">'
_WITHOUT_SWAGGER = """<p style="font-family: sans-serif; margin: 2rem">
This page loads Swagger UI from cdn.jsdelivr.net. Without access to that host, read the schema:
<a href="/openapi.json">/openapi.json</a>.</p>"""


class Liveness(BaseModel):
    """Whether the process responds."""

    alive: bool = True


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the page that describes every route."""
    page = bytes(get_swagger_ui_html(openapi_url="/openapi.json", title="Tritone: REST").body).decode()
    return HTMLResponse(page.replace(_SWAGGER_ELEMENT, _SWAGGER_ELEMENT + _WITHOUT_SWAGGER))


@router.get("/livez", operation_id="liveness", summary="Check that the process responds")
async def livez() -> Liveness:
    """Respond without a request to the models."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Check that requests can be served",
    response_model=Readiness,
    responses={503: {"description": "Not ready.", "model": Readiness}},
)
async def readyz(gateway: GatewayDependency) -> Response:
    """Return which models are ready, as their server has reported within the last second.

    The status is 503 if the server cannot be reached, no model is ready, a model that the operator requires is not
    ready, or the gateway is shutting down. If only some of the models are ready, the gateway is ready and `degraded`.
    """
    if gateway.load.draining:
        state = Readiness(ready=False, degraded=False, models={}, reason="the gateway is shutting down")
    else:
        state = await gateway.readiness.state(gateway.client)
    return JSONResponse(state.model_dump(), status_code=200 if state.ready else 503)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics in Prometheus's text format",
    dependencies=[requires("admin")],
    responses={200: {"content": {"text/plain": {}}}, **problem_responses(401, 403, 429, 503)},
    response_class=Response,
)
async def metrics(gateway: GatewayDependency) -> Response:
    """Return the metrics of all workers. If keys exist, the scope `admin` is required."""
    return Response(gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST)
