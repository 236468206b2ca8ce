"""The ASGI application."""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from tritone import AsyncMusicClient
from tritone_gateway import openapi, problems
from tritone_gateway.admission import Admission, WorkerLoad
from tritone_gateway.gateway import Gateway
from tritone_gateway.metrics import Metrics, RouteTemplates
from tritone_gateway.routers import ROUTERS
from tritone_gateway.routers.studio import mount_page
from tritone_gateway.security.callers import Callers
from tritone_gateway.security.keys import KeyStore, default_keys_file
from tritone_gateway.security.rates import RateLimits
from tritone_gateway.settings import GatewaySettings

_DESCRIPTION: Final = (
    "Models that analyse, compose and recommend music. Every route is a call of the Python SDK; errors are problem "
    "details as defined by RFC 9457. If the operator has created API keys, each request needs one: "
    "`Authorization: Bearer KEY`."
)
_EXPOSED_HEADERS: Final = (
    "Content-Disposition",
    "X-Request-ID",
    "Retry-After",
    "Server-Timing",
    "Tritone-Seed",
    "Tritone-Model",
    "Tritone-Model-Version",
)


@contextmanager
def drain_before_stop(load: WorkerLoad, drain_s: float) -> Iterator[None]:
    """Delay the shutdown on SIGTERM: meanwhile `/readyz` responds 503, and connections close after their next response.

    A load balancer thus stops sending requests before the socket closes. Outside the main thread, signals are not
    handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: Any) -> None:
        if load.draining or not callable(stop):
            return
        load.draining = True
        loop.call_soon_threadsafe(loop.call_later, drain_s, stop, number, frame)

    if not callable(stop):  # the application runs without a server, as in a test
        yield
        return
    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


def _span_export(otlp_url: str | None) -> AbstractContextManager[object]:
    """Return a context that exports spans to a collector; without a collector, OpenTelemetry's SDK is not imported."""
    if otlp_url is None:
        return nullcontext()
    from tritone_gateway.tracing import export_spans

    return export_spans(otlp_url)


def create_app(settings: GatewaySettings | None = None, *, music: AsyncMusicClient | None = None) -> FastAPI:
    """Return the gateway as an ASGI application.

    Args:
        settings: the defaults if None.
        music: client of the models, for example with a mock transport; None to connect to `settings.server`. The
            application closes it.
    """
    settings = settings or GatewaySettings()
    gateway = Gateway(settings, Metrics())
    rates = RateLimits(
        store=settings.rate_store, n_workers=settings.workers, on_fallback=gateway.metrics.rate_fallbacks.inc
    )
    callers = Callers(
        KeyStore(settings.keys_file or default_keys_file()),
        anonymous=settings.is_loopback or settings.allow_anonymous,
        rates=rates,
        n_workers=settings.workers,
        local_names_only=settings.is_loopback and not settings.allow_anonymous,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        client = music or AsyncMusicClient(
            settings.server,
            timeout_s=settings.timeout_s,
            retries=settings.retries,
            service_key_file=settings.service_key_file,
            api_key=settings.api_key,
            api_key_file=settings.api_key_file,
            genre_model=settings.genre_model,
        )
        async with client:
            gateway.music = client
            with _span_export(settings.otlp_url), drain_before_stop(gateway.load, settings.drain_s):
                yield {"header_timeout_s": settings.header_timeout_s, "send_timeout_s": settings.send_timeout_s}
            gateway.music = None
        gateway.notation.close()
        await rates.close()

    app = FastAPI(
        title="Tritone",
        summary="Music intelligence as a service",
        description=_DESCRIPTION,
        version=importlib.metadata.version("tritone"),
        docs_url=None,  # see routers/operations.py
        lifespan=lifespan,
        separate_input_output_schemas=False,
        telemetry={
            "tracing": settings.otlp_url is not None,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
        },
    )
    app.state.gateway = gateway
    problems.add_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    mount_page(app)

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.schema_of(app)
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]  # FastAPI's documented way
    app.add_middleware(
        Admission,
        settings=settings,
        callers=callers,
        load=gateway.load,
        metrics=gateway.metrics,
        templates=RouteTemplates(app.routes),
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED_HEADERS),
        )
    return app
