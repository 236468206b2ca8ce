"""Requests that are refused before routing are counted with their route, and with their caller if known."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.test_limits import listening, received, request_head

from tritone_gateway.security.keys import KeyStore

SERIES = re.compile(r"(tritone_gateway_(?:caller_)?requests_total)\{(.*)\} ([\d.]+)")


def counted(gateway: TestClient) -> dict[tuple[str, ...], float]:
    """Requests by the labels caller (if known), route and status."""
    return counts(gateway.app.state.gateway.metrics.text().decode())  # type: ignore[attr-defined]


def counts(text: str) -> dict[tuple[str, ...], float]:
    found = {}
    for _, labels, value in SERIES.findall(text):
        each = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[tuple(each[name] for name in ("caller", "route", "status") if name in each)] = float(value)
    return found


@pytest.fixture
def key(keys: KeyStore) -> dict[str, str]:
    """The header of a caller that may send one request an hour."""
    _, text = keys.create("shop", ("recommend",), rate="1/hour")
    return {"X-API-Key": text}


def test_a_refused_key_is_counted_with_its_route_and_no_caller(start: Start, key: dict[str, str]) -> None:
    gateway = start()
    for path in ("/v1/recommend", "/v1/tracks/ryans/reel-7/audio", "/v1/nothing"):
        assert gateway.post(path, headers={"X-API-Key": "wrong"}).status_code == 401
    assert counted(gateway) == {
        ("/v1/recommend", "401"): 1,
        ("/v1/tracks/{track_id:path}/audio", "401"): 1,
        ("unmatched", "401"): 1,
    }


def full(gateway: TestClient) -> None:
    gateway.app.state.gateway.load.n_requests = 256  # type: ignore[attr-defined]


def over_its_rate(gateway: TestClient) -> None:
    pass


@pytest.mark.parametrize(
    ("prepare", "body", "status"),
    [(over_its_rate, b"{}", 429), (full, b"{}", 503), (lambda _: None, bytes(2 << 20), 413)],
)
def test_the_caller_of_a_refused_request_is_counted(
    start: Start, key: dict[str, str], prepare: Callable[[TestClient], None], body: bytes, status: int
) -> None:
    gateway = start(max_body_mb=1)
    headers = {**key, "Content-Type": "application/json"}
    if status == 429:
        assert gateway.post("/v1/recommend", content=b"{}", headers=headers).status_code == 200
    prepare(gateway)
    assert gateway.post("/v1/recommend", content=body, headers=headers).status_code == status
    found = counted(gateway)
    assert found["/v1/recommend", str(status)] == 1
    assert found["shop", "/v1/recommend", str(status)] == 1
    assert not [labels for labels in found if "unmatched" in labels]


def test_a_refused_request_is_not_released_as_an_admitted_one(start: Start, keys: KeyStore) -> None:
    """The count of requests in progress stays right after refusals."""
    _, text = keys.create("busy", ("recommend",), concurrency=1)
    gateway = start()
    load: Any = gateway.app.state.gateway.load  # type: ignore[attr-defined]
    load.n_requests = 256
    for _ in range(3):
        assert gateway.post("/v1/recommend", json={}, headers={"X-API-Key": text}).status_code == 503
    assert load.n_requests == 256
    load.n_requests = 0
    for _ in range(3):
        assert gateway.post("/v1/recommend", json={}, headers={"X-API-Key": text}).status_code == 200
    assert load.n_requests == 0


def test_unknown_paths_add_no_metric_series(start: Start, key: dict[str, str]) -> None:
    gateway = start()
    for index in range(50):
        gateway.get(f"/v1/made-up-{index}", headers={"X-API-Key": "wrong"})
        gateway.get(f"/made-up-{index}")
        gateway.get(f"/v1/tracks/{index}/audio", headers={"X-API-Key": "wrong"})
    assert counted(gateway) == {
        ("unmatched", "401"): 50,
        ("unmatched", "404"): 50,
        ("/v1/tracks/{track_id:path}/audio", "401"): 50,
    }


def test_a_served_and_a_refused_request_have_the_same_route(start: Start, keys: KeyStore) -> None:
    _, text = keys.create("app", ("recommend",))
    gateway = start()
    for headers in ({"X-API-Key": text}, {}):
        gateway.get("/v1/tracks/reel-1/audio", headers=headers)
        gateway.get("/v1/tracks?q=reel", headers=headers)
    routes = {labels[-2] for labels in counted(gateway)}
    assert routes == {"/v1/tracks/{track_id:path}/audio", "/v1/tracks"}


def test_a_body_that_does_not_arrive_is_counted_with_route_and_caller(tmp_path: Path) -> None:
    import urllib.request

    with listening(tmp_path, body_timeout_s=0.2) as port:
        with socket.create_connection(("127.0.0.1", port), 5) as slow:
            slow.sendall(request_head("/v1/classify", "Content-Type: audio/ogg", "Content-Length: 1000"))
            assert received(slow).startswith(b"HTTP/1.1 408")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            found = counts(response.read().decode())
    assert found["/v1/classify", "408"] == 1
    assert found["anonymous", "/v1/classify", "408"] == 1
