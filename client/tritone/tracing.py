"""OpenTelemetry tracing: one span for each call, propagated to the server as W3C `traceparent`.

OpenTelemetry is used only if the program has already imported it; a program without the import cannot be tracing.
The server continues the trace if it was started with `tritone serve --otlp-url`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

_SCOPE: Final = "tritone"


def call_span(flow: Any) -> AbstractContextManager[object]:
    """Return a span for one call of the client, named as in `tritone.classify`; it records the errors of the call."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return nullcontext()
    name = getattr(flow, "__name__", "call").strip("_").removesuffix("_flow")
    span: AbstractContextManager[object] = trace.get_tracer(_SCOPE).start_as_current_span(
        f"tritone.{name}", kind=trace.SpanKind.CLIENT
    )
    return span


def trace_headers() -> Mapping[str, str]:
    """Return the headers that propagate the current trace; empty if no trace is active."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
