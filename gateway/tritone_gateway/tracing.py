"""OpenTelemetry traces, from the HTTP request through the SDK's call to the model on the server.

FastAPI creates the span of the HTTP request, as a child of the caller's `traceparent` if there is one. The span of the
SDK's call is a child of it and is propagated to Triton, which continues the trace if it runs with `--otlp-url`.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

_LOGGER: Final = logging.getLogger(__name__)
_TIMEOUT_S: Final = 5.0
_SCOPE: Final = "tritone_gateway"


class OtlpJsonExporter(SpanExporter):
    """Sends spans to a collector as OTLP in JSON over HTTP.

    OpenTelemetry's own exporter needs protobuf 5, and the client of Triton needs protobuf 4.
    Format: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._failed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; a failing collector is logged once, and the spans are lost."""
        body = json.dumps(_document(spans)).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 - an address that the operator has set
                self._failed = False
        except OSError as error:
            if not self._failed:
                _LOGGER.warning("traces cannot be sent to %s (%s)", self._url, error)
            self._failed = True
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


@contextmanager
def export_spans(url: str) -> Iterator[TracerProvider]:
    """Export the spans of the block to a collector."""
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "tritone-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OtlpJsonExporter(url), schedule_delay_millis=1_000))
    trace.set_tracer_provider(provider)
    try:
        yield provider
    finally:
        provider.shutdown()


def _document(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    resource = spans[0].resource.attributes if spans else {}
    scope = {"scope": {"name": _SCOPE}, "spans": [_span(span) for span in spans]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}


def _span(span: ReadableSpan) -> dict[str, Any]:
    context: Any = span.get_span_context()  # never None for a span that has ended
    parent = {} if span.parent is None else {"parentSpanId": f"{span.parent.span_id:016x}"}
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        **parent,
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from 1, with 0 for unspecified
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": span.status.status_code.value},
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}
