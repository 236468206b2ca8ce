"""API keys: authentication, scopes, rates and access to stored users."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.support.tones import tone_file
from tests.unit.gateway.conftest import TRACKS, Start

from tritone.watched_files import CHECK_INTERVAL_S
from tritone_gateway import GatewaySettings
from tritone_gateway.security.keys import ApiKeyError, KeyStore, Scope


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_keys_loopback_requires_none(gateway: TestClient) -> None:
    assert gateway.get("/v1/models").status_code == 200


def test_without_keys_other_machines_are_refused_unless_allowed(start: Start) -> None:
    assert start(host="0.0.0.0").get("/v1/models").status_code == 401  # noqa: S104
    assert start(host="0.0.0.0", allow_anonymous=True).get("/v1/models").status_code == 200  # noqa: S104


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_allows_the_routes_of_its_scopes(start: Start, keys: KeyStore, header: str) -> None:
    _, key = keys.create("app", ("recommend",))
    gateway = start()
    headers = {header: f"Bearer {key}" if header == "Authorization" else key}
    assert gateway.post("/v1/recommend", json={"n": 1}, headers=headers).status_code == 200
    refused = gateway.post("/v1/compose", json={"bars": 1}, headers=headers)
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:tritone:problem:scope-missing"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer tritone_000000000000_" + "A" * 43},
        {"X-API-Key": "\xff\xfe"},
        {"X-API-Key": "x" * 5_000},
    ],
)
def test_an_invalid_key_is_401_with_a_challenge(start: Start, keys: KeyStore, headers: dict[str, str]) -> None:
    keys.create("app", ("recommend",))
    response = start().post(
        "/v1/recommend", json={}, headers={name: value.encode("latin-1") for name, value in headers.items()}
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"


def test_a_revoked_key_is_refused_and_does_not_enable_anonymous_access(start: Start, keys: KeyStore) -> None:
    made, key = keys.create("app", ("recommend",))
    gateway = start()
    assert gateway.post("/v1/recommend", json={}, headers=bearer(key)).status_code == 200
    keys.revoke(made.id)
    time.sleep(0.6)  # the gateway looks at the file every half second
    assert gateway.post("/v1/recommend", json={}, headers=bearer(key)).status_code == 401
    assert gateway.post("/v1/recommend", json={}).status_code == 401


def test_a_rotated_key_is_accepted_with_both_secrets_during_the_grace_period(keys: KeyStore, tmp_path: Path) -> None:
    clock = [1_000.0]
    store = KeyStore(tmp_path / "rotated.json", clock=lambda: clock[0])
    made, old = store.create("app", ("listen",))
    rotated, new = store.rotate(made.id, grace_s=60)
    assert old != new
    assert rotated.id == made.id
    assert [store.find(each) is not None for each in (old, new)] == [True, True]
    clock[0] += 61
    assert [store.find(each) is not None for each in (old, new)] == [False, True]


def test_a_key_expires(tmp_path: Path) -> None:
    clock = [1_000.0]
    store = KeyStore(tmp_path / "keys.json", clock=lambda: clock[0])
    _, key = store.create("app", ("listen",), ttl_s=10)
    assert store.find(key) is not None
    clock[0] += 10
    assert store.find(key) is None


def test_the_key_file_is_private_and_contains_no_secret(keys: KeyStore) -> None:
    _, key = keys.create("app", ("listen",))
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert key.rpartition("_")[2] not in keys.path.read_text()
    assert key[-43:] not in repr(keys.keys())


@pytest.mark.parametrize(
    "values",
    [
        {"caller": ""},
        {"caller": "a b"},
        {"caller": "a\n"},
        {"scopes": ()},
        {"scopes": ("root",)},
        {"rate": "0/minute"},
        {"rate": "10/week"},
        {"rate": "-1/second"},
        {"concurrency": 0},
    ],
)
def test_an_invalid_key_is_not_created(keys: KeyStore, values: dict[str, object]) -> None:
    arguments = {"caller": "app", "scopes": ("listen",), **values}
    with pytest.raises(ApiKeyError):
        keys.create(**arguments)
    assert not keys.path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2, "keys": []}', '{"keys": [{"id": "x"}]}'])
def test_a_damaged_key_file_refuses_all_requests(start: Start, keys: KeyStore, content: str) -> None:
    keys.path.write_text(content)
    response = start().get("/v1/models")
    assert response.status_code == 503
    assert response.json()["type"] == "urn:tritone:problem:keys-unreadable"
    with pytest.raises(ApiKeyError):
        keys.create("app", ("listen",))
    assert keys.path.read_text() == content


def test_requests_beyond_the_rate_get_429_with_retry_after(start: Start, keys: KeyStore) -> None:
    _, key = keys.create("app", ("recommend",), rate="3/hour")
    _, other = keys.create("other", ("recommend",))
    gateway = start()
    responses = [gateway.post("/v1/recommend", json={}, headers=bearer(key)) for _ in range(4)]
    assert [response.status_code for response in responses] == [200, 200, 200, 429]
    assert int(responses[-1].headers["retry-after"]) > 0
    assert gateway.post("/v1/recommend", json={}, headers=bearer(other)).status_code == 200


@pytest.mark.parametrize(
    ("users", "user_id", "allowed"),
    [("none", "u1", False), ("all", "u1", True), ("shop:", "shop:7", True), ("shop:", "other:7", False)],
)
def test_a_key_may_use_only_its_stored_users(
    start: Start, keys: KeyStore, users: str, user_id: str, allowed: bool
) -> None:
    _, key = keys.create("app", ("recommend",), users=users)
    gateway = start()
    for body in ({"user_id": user_id}, {"friends": [user_id]}, {"friends": user_id}):
        response = gateway.post("/v1/recommend", json={**body, "history": [TRACKS[0]]}, headers=bearer(key))
        assert response.status_code == (200 if allowed else 403), response.text


def test_example_users_are_those_of_the_operator(start: Start) -> None:
    assert start().get("/v1/users/examples").json() == {"user_ids": []}
    gateway = start(example_users=("u1", "u2"))
    assert gateway.get("/v1/users/examples").json() == {"user_ids": ["u1", "u2"]}


@pytest.mark.parametrize(
    ("scope", "users", "expected"),
    [
        ("recommend", "none", []),
        ("recommend", "all", ["shop:1", "other:2"]),
        ("recommend", "shop:", ["shop:1"]),
        ("listen", "all", None),
    ],
)
def test_example_users_are_limited_to_the_users_of_the_key(
    start: Start, keys: KeyStore, scope: Scope, users: str, expected: list[str] | None
) -> None:
    _, key = keys.create("app", (scope,), users=users)
    response = start(example_users=("shop:1", "other:2")).get("/v1/users/examples", headers=bearer(key))
    assert response.status_code == (403 if expected is None else 200)
    assert response.json().get("user_ids") == expected


def test_example_users_are_not_logged() -> None:
    assert "u1" not in repr(GatewaySettings(example_users=("u1",)))


def test_a_user_token_is_passed_on(start: Start, keys: KeyStore) -> None:
    from tritone.testing import FakeRecommender

    seen = []
    fake = FakeRecommender(["a"])

    def handler(request: object) -> object:
        seen.append(dict(getattr(request, "headers", {})))
        return fake(request)

    _, key = keys.create("app", ("recommend",))
    gateway = start(handler)
    response = gateway.post(
        "/v1/recommend", json={"user_id": "u1"}, headers={**bearer(key), "Tritone-User-Token": "token-of-u1"}
    )
    assert response.status_code == 200, response.text
    assert any("token-of-u1" in headers.values() for headers in seen)


def test_usage_is_counted_by_caller_and_metrics_require_the_admin_scope(start: Start, keys: KeyStore) -> None:
    _, key = keys.create("shop", ("listen",))
    _, admin = keys.create("ops", ("admin",))
    gateway = start()
    recording = tone_file()
    gateway.post("/v1/classify", content=recording, headers={**bearer(key), "content-type": "audio/ogg"})
    assert gateway.get("/metrics", headers=bearer(key)).status_code == 403
    text = gateway.get("/metrics", headers=bearer(admin)).text
    assert 'tritone_gateway_caller_requests_total{caller="shop",route="/v1/classify",status="200"} 1.0' in text
    assert f'tritone_gateway_caller_received_bytes_total{{caller="shop"}} {float(len(recording))}' in text


def test_liveness_readiness_and_the_schema_require_no_key(start: Start, keys: KeyStore) -> None:
    keys.create("app", ("listen",))
    gateway = start()
    assert [gateway.get(path).status_code for path in ("/livez", "/readyz", "/openapi.json", "/docs")] == [200] * 4


def test_the_page_of_the_routes_leads_to_the_schema_where_swagger_ui_cannot_be_loaded(start: Start) -> None:
    page = start().get("/docs").text
    assert page.index('<div id="swagger-ui"><p') < page.index('<a href="/openapi.json">')


def test_keys_survive_concurrent_changes(keys: KeyStore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: KeyStore(keys.path).create(f"app{i}", ("listen",))[1], range(16)))
    assert len(json.loads(keys.path.read_text())["keys"]) == 16
    assert all(KeyStore(keys.path).find(key) for key in made)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_page_whose_name_resolves_to_this_machine_gets_nothing_without_a_key(start: Start, host: str) -> None:
    response = start().get("/v1/models", headers={"Host": host})

    assert response.status_code == 403
    assert response.json()["type"] == "urn:tritone:problem:host-refused"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "127.1.2.3", "[::1]:8080", "a.localhost"]
)
def test_names_of_this_machine_need_no_key(start: Start, host: str) -> None:
    assert start().get("/v1/models", headers={"Host": host}).status_code == 200


def test_any_name_is_served_with_a_key_or_where_everybody_is(start: Start, keys: KeyStore) -> None:
    assert start(allow_anonymous=True).get("/v1/models", headers={"Host": "music.example"}).status_code == 200
    _, key = keys.create("app", ("recommend",))
    response = start().get("/v1/models", headers={"Host": "music.example", **bearer(key)})
    assert response.status_code == 200


def test_the_loss_of_the_keys_does_not_open_the_gateway(start: Start, keys: KeyStore) -> None:
    keys.create("app", ("recommend",))
    gateway = start()
    assert gateway.get("/v1/models").status_code == 401
    keys.path.unlink()
    time.sleep(CHECK_INTERVAL_S + 0.05)
    assert gateway.get("/v1/models").status_code == 401


def test_a_damaged_file_of_keys_shows_neither_its_path_nor_its_content(start: Start, keys: KeyStore) -> None:
    keys.path.write_text('{"keys": "sesame-content"}')
    response = start().get("/v1/models")

    assert response.status_code == 503
    assert response.json()["type"] == "urn:tritone:problem:keys-unreadable"
    assert str(keys.path) not in response.text
    assert "sesame" not in response.text


def test_an_empty_prefix_of_users_is_refused(keys: KeyStore) -> None:
    with pytest.raises(ApiKeyError):
        keys.create("app", ("recommend",), users="")
