"""Calls from web pages of other origins: preflight requests, exposed headers, and errors that the page can read."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError
from tests.support.gateways import listening, received, request_head
from tests.unit.gateway.conftest import Start

import tritone
from tritone_gateway import GatewaySettings
from tritone_gateway.security.keys import KeyStore

ORIGIN = "https://studio.example.org"
OTHER = "https://other.example.org"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-request-id",
}


@pytest.fixture
def gateway(start: Start) -> TestClient:
    return start(cors_origins=(ORIGIN, "https://second.example.org"), max_body_mb=1)


def test_a_preflight_request_of_an_allowed_origin_requires_no_key(gateway: TestClient, keys: KeyStore) -> None:
    keys.create("app", ("listen",))
    response = gateway.options("/v1/classify", headers={"Origin": ORIGIN, **PREFLIGHT})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "x-request-id"} <= allowed
    assert "access-control-allow-credentials" not in response.headers
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": OTHER, **PREFLIGHT},
        {"Origin": "null", **PREFLIGHT},
        {"Origin": ORIGIN + ".evil.example", **PREFLIGHT},
        {"Origin": ORIGIN, **PREFLIGHT, "Access-Control-Request-Method": "DELETE"},
    ],
)
def test_other_preflight_requests_are_refused(gateway: TestClient, headers: dict[str, str]) -> None:
    response = gateway.options("/v1/classify", headers=headers)
    assert response.status_code == 400
    assert response.headers.get("access-control-allow-origin") in (None, ORIGIN)
    if headers["Origin"] != ORIGIN:
        assert "access-control-allow-origin" not in response.headers


def test_a_page_can_read_responses_and_their_headers(gateway: TestClient) -> None:
    response = gateway.post("/v1/compose", json={"bars": 1}, headers={"Origin": ORIGIN, "Accept": "audio/midi"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    exposed = {name.strip().lower() for name in response.headers["access-control-expose-headers"].split(",")}
    assert {"x-request-id", "retry-after", "server-timing", "tritone-seed", "content-disposition"} <= exposed
    assert set(response.headers["vary"].replace(" ", "").split(",")) == {"Accept", "Origin"}


def test_a_page_sends_its_key_in_a_header(gateway: TestClient, keys: KeyStore) -> None:
    _, key = keys.create("page", ("recommend",))
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {key}"}
    response = gateway.post("/v1/recommend", json={}, headers=headers)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, ORIGIN)


def test_responses_to_other_origins_are_not_readable(gateway: TestClient) -> None:
    response = gateway.post("/v1/recommend", json={}, headers={"Origin": OTHER})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_without_origins_there_are_no_cors_headers(start: Start) -> None:
    response = start().post("/v1/recommend", json={}, headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_all_origins_are_allowed_without_credentials(start: Start) -> None:
    response = start(cors_origins=("*",)).post("/v1/recommend", json={}, headers={"Origin": OTHER, "Cookie": "a=b"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


def unauthenticated(gateway: TestClient, keys: KeyStore) -> Response:
    keys.create("page", ("recommend",))
    return gateway.post("/v1/recommend", json={}, headers={"Origin": ORIGIN})


def without_scope(gateway: TestClient, keys: KeyStore) -> Response:
    _, key = keys.create("page", ("listen",))
    return gateway.post("/v1/recommend", json={}, headers={"Origin": ORIGIN, "X-API-Key": key})


def too_often(gateway: TestClient, keys: KeyStore) -> Response:
    _, key = keys.create("page", ("recommend",), rate="1/hour")
    headers = {"Origin": ORIGIN, "X-API-Key": key}
    gateway.post("/v1/recommend", json={}, headers=headers)
    return gateway.post("/v1/recommend", json={}, headers=headers)


def keys_damaged(gateway: TestClient, keys: KeyStore) -> Response:
    keys.path.write_text("{")
    return gateway.post("/v1/recommend", json={}, headers={"Origin": ORIGIN})


def request(method: str, path: str, content: bytes = b"", **headers: str) -> Callable[[TestClient, KeyStore], Response]:
    sent = {"Origin": ORIGIN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda gateway, _keys: gateway.request(method, path, content=content, headers=sent)


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (request("POST", "/v1/recommend", b"{", Content_Type="application/json"), 400),
        (unauthenticated, 401),
        (without_scope, 403),
        (request("GET", "/v1/nothing"), 404),
        (request("DELETE", "/v1/recommend"), 405),
        (request("POST", "/v1/compose", b"{}", Content_Type="application/json", Accept="video/mp4"), 406),
        (request("POST", "/v1/classify", bytes(2 << 20), Content_Type="audio/wav"), 413),
        (request("POST", "/v1/recommend", b"<n/>", Content_Type="application/xml"), 415),
        (request("POST", "/v1/recommend", b'{"n": 0}', Content_Type="application/json"), 422),
        (too_often, 429),
        (keys_damaged, 503),
    ],
)
def test_a_page_can_read_errors(
    gateway: TestClient, keys: KeyStore, send: Callable[[TestClient, KeyStore], Response], status: int
) -> None:
    response = send(gateway, keys)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in response.headers


def test_a_page_can_read_errors_of_the_models_and_of_the_gateway(start: Start) -> None:
    def fail(_request: object) -> object:
        raise tritone.ConnectionFailedError("no")

    async def broken() -> None:
        raise ZeroDivisionError

    gateway = start(fail, cors_origins=(ORIGIN,))
    gateway.app.add_api_route("/broken", broken)
    for path, status in (("/v1/models", 503), ("/broken", 500)):
        response = gateway.get(path, headers={"Origin": ORIGIN})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, ORIGIN)


def test_a_page_can_read_the_error_of_a_slow_body(tmp_path: Path) -> None:
    with (
        listening(tmp_path, body_timeout_s=0.2, cors_origins=(ORIGIN,)) as port,
        socket.create_connection(("127.0.0.1", port), 5) as connection,
    ):
        connection.sendall(
            request_head("/v1/classify", "Content-Type: audio/ogg", "Content-Length: 9", f"Origin: {ORIGIN}")
        )
        response = received(connection).lower()
    assert response.startswith(b"http/1.1 408")
    assert f"access-control-allow-origin: {ORIGIN}".encode() in response


@pytest.mark.parametrize("origin", ["studio.example.org", "ftp://a.example", "https://a.example/", "https://a b", ""])
def test_an_invalid_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(cors_origins=(origin,))
