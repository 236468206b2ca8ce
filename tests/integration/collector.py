"""A collector of OpenTelemetry traces (OTLP over HTTP, JSON) in this process."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """Spans as they came, each with `name`, `traceId`, `spanId`, `parentSpanId` and `attributes`."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[dict[str, Any]] = []

    def of_trace(self, trace_id: str, *, n_spans: int, timeout_s: float = 15) -> list[dict[str, Any]]:
        """The spans of a trace, once there are so many."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            found = [span for span in list(self.spans) if span["traceId"] == trace_id]
            if len(found) >= n_spans:
                return found
            time.sleep(0.05)
        raise AssertionError(f"fewer than {n_spans} spans of trace {trace_id}: {self.spans}")

    def of_call(self, call: Callable[[], str], *, n_spans: int) -> list[dict[str, Any]]:
        """The spans of a call that returns its trace id; it is made again if some are lost.

        Triton's exporter discards spans that it cannot send at once, as on a busy machine.
        """
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return self.of_trace(call(), n_spans=n_spans)
        return self.of_trace(call(), n_spans=n_spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for resource in said["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    collector.spans.extend(scope["spans"])
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
