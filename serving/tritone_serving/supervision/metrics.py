"""The supervisor's own metrics and readiness, on a port of the launcher.

Triton's metrics are not available while the server restarts, and Triton reports a model as ready whose process is dead.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, make_wsgi_app

from tritone_serving._exceptions import PortTakenError
from tritone_serving.supervision.options import ProblemReason

PREFIX: Final = "tritone_supervisor"
_SERVER_REASONS: Final[tuple[ProblemReason, ...]] = ("ended", "stopped", "hung", "memory", "all_models")
_MODEL_REASONS: Final[tuple[ProblemReason, ...]] = ("dead", "stopped", "hung", "failing", "memory", "not_loaded")
_N_CONNECTIONS: Final = 16
_CONNECTION_S: Final = 5.0


class SupervisorMetrics:
    """Counters and gauges of one supervisor; `serve` publishes them over HTTP.

    Attributes:
        port: HTTP port; 0 if they are not published.
    """

    def __init__(self) -> None:
        self.port = 0
        self._registry = CollectorRegistry()
        self._metrics_app: Any = make_wsgi_app(self._registry)
        self._problems: Mapping[str, str] = {}
        self._http: WSGIServer | None = None
        self._restarts = self._counter("server_restarts", "Restarts of the server process, by reason", "reason")
        self._failed_starts = self._counter("failed_starts", "Starts of the server process that failed")
        self._reloads = self._counter("model_reloads", "Reloads of a model, by reason", "model", "reason")
        self._failed_reloads = self._counter(
            "failed_model_reloads", "Reloads after which a model did not answer", "model"
        )
        self._checks = self._counter(
            "health_checks",
            "Requests that the supervisor sent to models, which nv_inference_* count too",
            "model",
            "result",
        )
        self._healthy = self._gauge(
            "model_healthy", "1 while a model answers, 0 while it is being repaired or is not loaded", "model"
        )
        self._patience = self._gauge("patience", "Factor on time limits, 1 on an idle machine")
        self._memory = self._gauge("resident_bytes", "Memory of the server and its stubs, shared pages counted once")
        for reason in _SERVER_REASONS:
            self._restarts.labels(reason)
        self._memory_limit = self._gauge(
            "resident_limit_bytes", "Memory at which the supervisor restarts the server or reloads a model"
        )

    def serve(self, host: str, port: int) -> int:
        """Serve `/metrics` and `/ready` over HTTP from a thread.

        `/ready` returns 503 with a JSON object of problems while the server restarts or after the reload of a model
        failed, and 200 otherwise, also during a reload. It only reports what the supervisor already knows.

        Args:
            host: address to listen on.
            port: 0 picks a free one.

        Returns:
            The port in use.

        Raises:
            PortTakenError: the port cannot be used.
        """
        try:
            self._http = make_server(host, port, self._respond, server_class=_HttpServer, handler_class=_QuietHandler)
        except OSError as error:
            raise PortTakenError(
                f"port {port} on {host} cannot be used for the supervisor's metrics ({error.strerror}); choose another "
                f"with --supervisor-port N",
                port=port,
                option="supervisor_port",
            ) from error
        threading.Thread(target=self._http.serve_forever, name="supervisor-http", daemon=True).start()
        self.port = int(self._http.server_port)
        return self.port

    def close(self) -> None:
        """End the HTTP server."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()

    def set_problems(self, problems: Mapping[str, str]) -> None:
        """Set the problems that `/ready` reports, by model or `server`; empty if there are none."""
        self._problems = dict(problems)

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            response: Iterable[bytes] = self._metrics_app(environ, start_response)
            return response
        status, body = (
            HTTPStatus.NOT_FOUND,
            {"error": "this is the supervisor of `tritone serve`, not Triton: expected /metrics or /ready"},
        )
        if environ["PATH_INFO"] == "/ready":
            problems = dict(self._problems)
            status, body = (HTTPStatus.SERVICE_UNAVAILABLE, problems) if problems else (HTTPStatus.OK, {})
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]

    def add_model(self, model: str) -> None:
        """Start the counters of a model at 0, because `increase` ignores the first value of a series."""
        for reason in _MODEL_REASONS:
            self._reloads.labels(model, reason)
        self._failed_reloads.labels(model)

    def restarted(self, reason: ProblemReason) -> None:
        """Count a restart of the server process."""
        self._restarts.labels(reason).inc()

    def start_failed(self) -> None:
        """Count a failed start of the server process."""
        self._failed_starts.inc()

    def reloaded(self, model: str, reason: ProblemReason) -> None:
        """Count a reload of a model."""
        self._reloads.labels(model, reason).inc()
        self._healthy.labels(model).set(0)

    def reload_failed(self, model: str) -> None:
        """Count a failed reload of a model."""
        self._failed_reloads.labels(model).inc()

    def checked(self, model: str, result: str) -> None:
        """Count a finished health check."""
        self._checks.labels(model, result).inc()

    def set_healthy(self, model: str, is_healthy: bool) -> None:
        """Set whether a model responds."""
        self._healthy.labels(model).set(is_healthy)

    def set_patience(self, factor: float) -> None:
        """Set the factor on time limits."""
        self._patience.set(round(factor, 2))

    def set_memory(self, resident_bytes: int, limit_bytes: int) -> None:
        """Set the memory in use and the limit, in bytes."""
        self._memory.set(resident_bytes)
        self._memory_limit.set(limit_bytes)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self._registry)


class _HttpServer(ThreadingMixIn, WSGIServer):
    """HTTP server with limits on the number of clients and their time, so that they cannot exhaust the launcher."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._free = threading.BoundedSemaphore(_N_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread; close it if there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection, and close it after a few seconds in any case."""
        deadline = threading.Timer(_CONNECTION_S, _disconnect, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a client disconnects."""


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  - the base class's name
        """Print nothing for a request, because probes come every few seconds."""


def _disconnect(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
