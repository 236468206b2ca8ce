"""POST /v1/events: one event or many, what is passed on, and whose events a caller may write."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.test_callers import bearer

from tritone import InferRequest, ServerBusyError
from tritone.testing import FakeEvents
from tritone_gateway.security.keys import KeyStore

EVENT = {"user_id": "u1", "track_id": "t1"}


def test_events_are_stored_as_given(start: Start) -> None:
    fake = FakeEvents()
    gateway = start(fake)
    events = [
        {**EVENT, "event_id": "e1", "kind": "like", "at": "2026-11-29T12:00:00+01:00", "context": {"device": "car"}},
        {**EVENT, "event_id": "e2", "kind": "skip", "at": 1_600_000_000, "played_s": 2.5},
        EVENT,
    ]
    response = gateway.post("/v1/events", json={"events": events})
    assert response.status_code == 200, response.text
    result = response.json()
    assert (result["n_new"], result["n_duplicates"], result["n_refused"]) == (3, 0, 0)
    assert [each["event_id"] for each in result["events"]][:2] == ["e1", "e2"]
    assert fake.events[0]["at"] == 1_795_950_000
    assert fake.events[0]["context"] == {"device": "car"}
    assert (fake.events[1]["at"], fake.events[1]["played_s"]) == (1_600_000_000, 2.5)
    assert "at" not in fake.events[2]
    again = gateway.post("/v1/events", json={"events": events[:2]}).json()
    assert (again["n_new"], again["n_duplicates"]) == (0, 2)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"events": []},
        {"events": EVENT},
        {"events": [{**EVENT, "kind": "listen"}]},
        {"events": [{"user_id": "u1"}]},
        {"events": [{**EVENT, "user_id": ""}]},
        {"events": [{**EVENT, "at": "2026-11-29T12:00:00"}]},
        {"events": [{**EVENT, "at": -1}]},
        {"events": [{**EVENT, "played_s": 86_401}]},
        {"events": [{**EVENT, "context": {"Device": "x"}}]},
        {"events": [{**EVENT, "event_id": "a b"}]},
        {"events": [{**EVENT, "volume": 11}]},
        {"events": [EVENT] * 1_001},
    ],
)
def test_invalid_events_are_refused_before_anything_is_stored(start: Start, body: dict[str, Any]) -> None:
    fake = FakeEvents()
    response = start(fake).post("/v1/events", json=body)
    assert response.status_code == 422
    assert fake.events == []


def test_a_key_writes_events_of_its_users_only(start: Start, keys: KeyStore) -> None:
    fake = FakeEvents()
    gateway = start(fake)
    _, key = keys.create("shop", ("recommend",), users="shop:")
    _, other = keys.create("listen", ("listen",), users="all")
    own, foreign = {**EVENT, "user_id": "shop:1"}, {**EVENT, "user_id": "other:1"}
    assert gateway.post("/v1/events", json={"events": [own]}, headers=bearer(key)).status_code == 200
    response = gateway.post("/v1/events", json={"events": [own, foreign]}, headers=bearer(key))
    assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (403, "user-denied")
    assert gateway.post("/v1/events", json={"events": [own]}, headers=bearer(other)).status_code == 403
    assert gateway.post("/v1/events", json={"events": [own]}).status_code == 401
    assert [each["user"] for each in fake.events] == ["shop:1"]


def test_a_user_token_is_passed_on_and_checked_by_the_model(start: Start, keys: KeyStore) -> None:
    fake, seen = FakeEvents(), []

    def handler(request: Any) -> Any:
        if isinstance(request, InferRequest):
            seen.append(request.headers)
        return fake(request)

    _, key = keys.create("app", ("recommend",))
    headers = {**bearer(key), "Tritone-User-Token": "token-of-u1"}
    assert start(handler).post("/v1/events", json={"events": [EVENT]}, headers=headers).status_code == 200
    assert "token-of-u1" in seen[0].values()


def test_a_store_that_is_down_is_a_503(start: Start) -> None:
    def down(request: Any) -> Any:
        raise ServerBusyError("event store 10.0.0.1:6379: it is down")

    assert start(down).post("/v1/events", json={"events": [EVENT]}).status_code == 503
