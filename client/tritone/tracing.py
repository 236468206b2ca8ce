"""OpenTelemetry: a span for each call, and its trace handed on to the server (W3C `traceparent`).

Nothing is imported unless the program itself has imported OpenTelemetry: a program that has not cannot be tracing.
The server continues the trace if it was started with `tritone serve --otlp-url`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

_SCOPE: Final = "tritone"


def call_span(flow: Any) -> AbstractContextManager[object]:
    """A span around one call of the client, named by it: `tritone.classify`; errors are noted on it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return nullcontext()
    name = getattr(flow, "__name__", "call").strip("_").removesuffix("_flow")
    span: AbstractContextManager[object] = trace.get_tracer(_SCOPE).start_as_current_span(
        f"tritone.{name}", kind=trace.SpanKind.CLIENT
    )
    return span


def trace_headers() -> Mapping[str, str]:
    """The headers that carry the current trace; none where there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
