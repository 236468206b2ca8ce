"""The supervisor's HTTP port: what it serves, and clients that send nothing."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tritone_serving import PortTakenError
from tritone_serving.supervision import metrics as supervisor_metrics
from tritone_serving.supervision.metrics import SupervisorMetrics


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[SupervisorMetrics]:
    monkeypatch.setattr(supervisor_metrics, "_CONNECTION_S", 0.5)
    made = SupervisorMetrics()
    made.serve("127.0.0.1", 0)
    yield made
    made.close()


def get(metrics: SupervisorMetrics, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", metrics.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_ready_names_what_does_not_answer(metrics: SupervisorMetrics) -> None:
    assert get(metrics, "/ready")[0] == 200
    metrics.set_problems({"genre_cnn": "no answer"})
    status, body = get(metrics, "/ready")
    assert (status, json.loads(body)) == (503, {"genre_cnn": "no answer"})


@pytest.mark.parametrize("path", ["/", "/metrics/../ready", "/ready%00", "/etc/passwd"])
def test_other_paths_are_not_found(metrics: SupervisorMetrics, path: str) -> None:
    assert get(metrics, path)[0] == 404


def test_metrics_are_served(metrics: SupervisorMetrics) -> None:
    metrics.restarted("ended")
    status, body = get(metrics, "/metrics")
    assert status == 200
    assert b'tritone_supervisor_server_restarts_total{reason="ended"} 1.0' in body


def test_clients_that_send_nothing_are_few_and_disconnected(metrics: SupervisorMetrics) -> None:
    idle = [socket.create_connection(("127.0.0.1", metrics.port), timeout=5) for _ in range(40)]
    try:
        n_threads = sum("process_request" in thread.name for thread in threading.enumerate())
        assert n_threads <= 16
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            try:
                assert get(metrics, "/ready")[0] == 200
                break
            except (OSError, http.client.HTTPException):  # refused while others hold all connections
                time.sleep(0.1)
        else:
            pytest.fail("idle connections keep the port busy")
    finally:
        for each in idle:
            each.close()


def test_port_that_is_taken_is_refused(metrics: SupervisorMetrics) -> None:
    with pytest.raises(PortTakenError) as caught:
        SupervisorMetrics().serve("127.0.0.1", metrics.port)
    assert caught.value.option == "supervisor_port"
