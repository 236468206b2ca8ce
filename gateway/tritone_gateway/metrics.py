"""Prometheus metrics and one log line for each request.

Labels have the template of the route, such as `/v1/classify`, never ids of users or tracks. Logs have neither audio nor
ids nor histories.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from starlette.routing import BaseRoute
from starlette.types import Scope

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_LOGGER: Final = logging.getLogger("tritone_gateway.requests")
_MAX_CHILDREN: Final = 4_096
_UNMATCHED: Final = "unmatched"
_QUIET_ROUTES: Final = ("/livez", "/readyz", "/metrics")


class Metrics:
    """Metrics of one worker process; `text` returns the totals of all workers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "tritone_gateway_requests", "Requests by route and status.", labels, registry=self.registry
        )
        self.durations = Histogram(
            "tritone_gateway_request_duration_seconds",
            "Seconds from the headers of a request to the end of its response.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "tritone_gateway_requests_in_flight",
            "Requests being served.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.caller_requests = Counter(
            "tritone_gateway_caller_requests",
            "Requests by caller, route and status.",
            ("caller", "route", "status"),
            registry=self.registry,
        )
        self.caller_received = Counter(
            "tritone_gateway_caller_received_bytes",
            "Bytes of request bodies by caller.",
            ("caller",),
            registry=self.registry,
        )
        self.caller_sent = Counter(
            "tritone_gateway_caller_sent_bytes", "Bytes of responses by caller.", ("caller",), registry=self.registry
        )
        self.models = Gauge(
            "tritone_gateway_models",
            "Number of models that are ready, and that are not ready, at the last check of /readyz.",
            ("state",),
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self.rate_fallbacks = Counter(
            "tritone_gateway_rate_fallbacks",
            "Requests counted in memory because the rate store failed.",
            registry=self.registry,
        )

        # Cached, because looking up a metric by its labels takes as long as a small request.
        self.of_route = lru_cache(maxsize=_MAX_CHILDREN)(self._of_route)
        self.of_caller = lru_cache(maxsize=_MAX_CHILDREN)(self._of_caller)

    def _of_route(self, method: str, route: str, status: str) -> tuple[Counter, Histogram]:
        return self.requests.labels(method, route, status), self.durations.labels(method, route)

    def _of_caller(self, caller: str, route: str, status: str) -> tuple[Counter, Counter, Counter]:
        requests = self.caller_requests.labels(caller, route, status)
        return requests, self.caller_received.labels(caller), self.caller_sent.labels(caller)

    def begin(self, scope: Scope, headers: Mapping[bytes, bytes], request_id: str) -> RequestRecord:
        """Count a request that begins."""
        self.in_flight.inc()
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")[:55]
        return RequestRecord(self, scope["method"], request_id, traceparent)

    def set_models(self, *, n_ready: int, n_not_ready: int) -> None:
        """Set the number of models that are ready, and that are not."""
        self.models.labels("ready").set(n_ready)
        self.models.labels("not_ready").set(n_not_ready)

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        if MULTIPROCESS_VARIABLE not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


@dataclass
class RequestRecord:
    """Measurements of one request, which `finish` counts and logs.

    Attributes:
        caller: None for routes that need no key, and for refused keys.
        status: None until the response begins.
    """

    metrics: Metrics
    method: str
    request_id: str
    traceparent: str
    caller: str | None = None
    status: int | None = None
    n_sent: int = 0

    def __post_init__(self) -> None:
        self._start_s = time.perf_counter()

    def respond(self, status: int) -> None:
        """Record the status of the response when it begins."""
        self.status = status

    def add_sent(self, n_bytes: int) -> None:
        """Add bytes of the response that were sent."""
        self.n_sent += n_bytes

    def finish(self, route: str | None, n_received: int) -> None:
        """Count and log the request.

        Args:
            route: template of the route; None if there is no such route.
            n_received: bytes of the body.
        """
        duration_s = time.perf_counter() - self._start_s
        route = route or _UNMATCHED
        status = str(self.status or 499)  # 499: the caller disconnected before the response
        metrics = self.metrics
        metrics.in_flight.dec()
        requests, durations = metrics.of_route(self.method, route, status)
        requests.inc()
        durations.observe(duration_s)
        if self.caller is not None:
            caller_requests, received, sent = metrics.of_caller(self.caller, route, status)
            caller_requests.inc()
            received.inc(n_received)
            sent.inc(self.n_sent)
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        if _LOGGER.isEnabledFor(level):
            _LOGGER.log(
                level,
                "%s %s %s %.1f ms",
                self.method,
                route,
                status,
                duration_s * 1e3,
                extra={
                    "request_id": self.request_id,
                    "caller": self.caller,
                    "method": self.method,
                    "route": route,
                    "status": int(status),
                    "duration_ms": round(duration_s * 1e3, 1),
                    "received_bytes": n_received,
                    "sent_bytes": self.n_sent,
                    "traceparent": self.traceparent or None,
                },
            )


class RouteTemplates:
    """Templates of the routes of an application, such as `/v1/tracks/{track_id}/audio`.

    They label requests that are refused before a route is found. Paths without parameters are looked up in a set, so
    that refusing a request stays cheap.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._fixed: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for context in iter_route_contexts(routes):
            route: Any = context
            if not isinstance(context.original_route, APIRoute):
                continue
            if route.param_convertors:
                self._patterns.append((route.path_regex, route.path))
            else:
                self._fixed.add(route.path)

    def find(self, path: str) -> str | None:
        """Return the template of the route that a path matches, whatever the method; None if there is no such route."""
        if path in self._fixed:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), None)
