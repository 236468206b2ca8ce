"""Errors as problem+json: statuses, types and the fields of the SDK's exceptions."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from tests.unit.gateway.conftest import Start

import tritone
from tritone.exceptions import VersionChangedError


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (tritone.ModelNotFoundError("no", model="recommender"), 404, "model-not-found"),
        (tritone.NothingKnownError("no", model="recommender"), 404, "nothing-known"),
        (tritone.RequestRejectedError("no"), 422, "rejected"),
        (tritone.ServerBusyError("no"), 503, "busy"),
        (tritone.AccessDeniedError("no"), 403, "access-denied"),
        (VersionChangedError("no"), 503, "version-changed"),
        (tritone.ServerError("no"), 502, "bad-response"),
        (tritone.RequestTimeoutError("no"), 504, "timeout"),
        (tritone.ConnectionFailedError("no"), 503, "unreachable"),
        (tritone.MissingExtraError("no"), 501, "missing-extra"),
        (tritone.InvalidInputError("no", argument="n"), 422, "invalid-argument"),
    ],
)
def test_each_exception_of_the_sdk_becomes_a_problem(start: Start, error: Exception, status: int, kind: str) -> None:
    def fail(_request: object) -> object:
        raise error

    response = start(fail, timeout_s=1).post("/v1/recommend", json={}, headers={"X-Request-ID": "my-id.1"})
    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:tritone:problem:{kind}"
    assert problem["status"] == status
    assert problem["instance"] == "urn:tritone:request:my-id.1"
    assert problem.get("model") in ("recommender", None)
    assert problem.get("argument") == getattr(error, "argument", None)
    assert ("retry-after" in response.headers) == (status == 503)


def test_an_unexpected_error_has_no_details(start: Start) -> None:
    def fail(_request: object) -> object:
        raise ZeroDivisionError("secret detail")

    response = start(fail).post("/v1/recommend", json={})
    assert response.status_code in (500, 502)
    assert "secret detail" not in response.text or response.status_code == 502
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"n": 5, "n": 5}', "application/json", 200),
        (b"", "application/json", 200),
        (b"n=5", "application/x-www-form-urlencoded", 200),
        (b"<n>5</n>", "application/xml", 415),
        (b"--x\r\n", "multipart/form-data", 400),
        (b"no parts", "multipart/form-data; boundary=x", 400),
    ],
)
def test_unreadable_bodies_are_problems(gateway: TestClient, content: bytes, media_type: str, status: int) -> None:
    response = gateway.post("/v1/recommend", content=content, headers={"content-type": media_type})
    assert response.status_code == status, response.text
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"


def test_all_invalid_values_are_listed(gateway: TestClient) -> None:
    problem = gateway.post("/v1/recommend", json={"n": 0, "diversity": 2, "unknown": 1}).json()
    assert {each["argument"] for each in problem["errors"]} == {"n", "diversity", "unknown"}


def test_a_single_invalid_value_is_named(gateway: TestClient) -> None:
    problem = gateway.post("/v1/compose", json={"temperature": -1}).json()
    assert problem["argument"] == "temperature"


def test_an_unreadable_recording_has_a_reason(gateway: TestClient) -> None:
    response = gateway.post("/v1/classify", files={"file": b"not audio"})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:tritone:problem:invalid-audio"
    assert response.json()["reason"] == "unreadable"


def test_an_unreadable_score_has_a_reason(gateway: TestClient) -> None:
    response = gateway.post("/v1/continue", files={"file": b"not midi"})
    assert response.json()["type"] == "urn:tritone:problem:invalid-score"
    assert response.json()["reason"] == "not_midi"


@pytest.mark.parametrize(
    "notes", [[[0, 1, 0]], [[-1, 1, 60]], [[0, 0, 60]], [[0, 99_999, 60]], [], [[0, 1, 60.5]], [[0, 1]]]
)
def test_invalid_notes_are_422(gateway: TestClient, notes: list[list[float]]) -> None:
    response = gateway.post("/v1/continue", json={"file": {"notes": notes}})
    assert response.status_code == 422, response.text


@pytest.mark.parametrize(
    "file", [{"base64": "%%%"}, {"url": "ftp://a/b"}, {"url": "http://169.254.169.254/x"}, {}, "text", 5, None]
)
def test_invalid_files_in_json_are_422(gateway: TestClient, file: object) -> None:
    assert gateway.post("/v1/classify", json={"file": file}).status_code == 422


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/compose", 405), ("GET", "/v1/nothing", 404)])
def test_unknown_routes_and_methods_are_problems(gateway: TestClient, method: str, path: str, status: int) -> None:
    response = gateway.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "\r\nSet-Cookie: a=b"])
def test_unsafe_request_ids_are_replaced(gateway: TestClient, given: str) -> None:
    try:
        response = gateway.get("/livez", headers={"X-Request-ID": given})
    except Exception:
        return
    assert response.headers["x-request-id"] != given


def test_readiness_has_a_reason(start: Start) -> None:
    def down(_request: object) -> object:
        raise tritone.ConnectionFailedError("no connection to localhost:8001")

    gateway = start(down)
    response = gateway.get("/readyz")
    assert response.status_code == 503
    assert json.loads(response.text)["reason"] == "no connection to localhost:8001"
    assert gateway.get("/livez").status_code == 200


@pytest.mark.parametrize("content", ["é", "QUI", "QUJD\n", "=", "Q U I="])
def test_invalid_base64_is_422(gateway: TestClient, content: str) -> None:
    response = gateway.post("/v1/classify", json={"file": {"base64": content}})
    assert response.status_code == 422
    assert "base64" in response.json()["detail"].lower()
