"""Tests of the spans of calls and their propagation, and that programs without tracing are not affected."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tritone import AsyncMusicClient, ConnectionFailedError, InferRequest, MusicClient
from tritone.endpoints import make_endpoint
from tritone.tracing import trace_headers
from tritone.transports import grpc_wire, http_wire

AUDIO = (np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32), 22_050)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    # A program sets its provider once; tests need one each.
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return made


def test_all_requests_of_a_call_carry_its_span(exporter: InMemorySpanExporter, model: Any) -> None:
    seen = []
    model.before = lambda request: seen.append(trace_headers())
    with MusicClient(transport=model) as music:
        music.classify(AUDIO)
    (span,) = exporter.get_finished_spans()
    assert span.name == "tritone.classify"
    assert span.kind is trace.SpanKind.CLIENT
    assert len(seen) > 1
    assert {headers["traceparent"].split("-")[1] for headers in seen} == {f"{span.context.trace_id:032x}"}
    assert trace_headers() == {}


def test_concurrent_calls_have_separate_traces(exporter: InMemorySpanExporter, model: Any, as_async: Any) -> None:
    async def run() -> None:
        async with AsyncMusicClient(transport=as_async(model)) as music:
            await asyncio.gather(*(music.embed(AUDIO) for _ in range(3)))

    asyncio.run(run())
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["tritone.embed"] * 3
    assert len({span.context.trace_id for span in spans}) == 3


def test_failures_are_recorded(exporter: InMemorySpanExporter, model: Any, failing: Any) -> None:
    model.before = failing(1, ConnectionFailedError("gone"))
    with MusicClient(transport=model, retries=0) as music, pytest.raises(ConnectionFailedError):
        music.embed(AUDIO)
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "gone" in str(span.status.description)


def test_both_protocols_send_trace_headers() -> None:
    parent = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
    token = context.attach(trace.set_span_in_context(parent))
    try:
        expected = f"00-{1:032x}-{2:016x}-01"
        request = InferRequest("m", "i", {"x": np.zeros(1, np.float32)}, ("y",))
        call = http_wire.first_call(request, make_endpoint("http://x:1", api_key="k"))
        assert call.headers["traceparent"] == expected
        assert call.headers["authorization"] == "Bearer k"
        assert ("traceparent", expected) in grpc_wire.traced((("a", "b"),))
    finally:
        context.detach(token)


def test_opentelemetry_is_not_imported_without_tracing() -> None:
    script = """
import sys
from tests.unit.client.conftest import FakeModel, noise
from tritone import MusicClient
with MusicClient(transport=FakeModel()) as music:
    music.classify(noise(1))
MusicClient(["a:1", "b:1"]).close()
MusicClient("http://a:1").close()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
