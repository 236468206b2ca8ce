"""record and record_many with a model in memory, for both clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from tritone import (
    AccessDeniedError,
    AsyncMusicClient,
    InvalidInputError,
    ListeningEvent,
    MusicClient,
    RecordedEvent,
    RecordedEvents,
    RequestRejectedError,
    ServerBusyError,
    ServerError,
)
from tritone.messages import InferRequest, InferResponse, Request
from tritone.testing import AsyncMockTransport, FakeEvents, MockTransport

Ask = Callable[..., Any]
AT = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Callable[..., Ask]:
    """Return a function that calls a method of a client with a handler."""

    def make(handler: Any, **options: Any) -> Ask:
        def ask(method: str, *args: Any, **given: Any) -> Any:
            if request.param == "sync":
                with MusicClient(transport=MockTransport(handler), **options) as music:
                    return getattr(music, method)(*args, **given)

            async def run() -> Any:
                async with AsyncMusicClient(transport=AsyncMockTransport(handler), **options) as music:
                    return await getattr(music, method)(*args, **given)

            return asyncio.run(run())

        return ask

    return make


def answering(*outcomes: tuple[str, str]) -> Callable[[Request], InferResponse]:
    columns = zip(*outcomes, strict=True)
    outputs = {
        name: np.array([[each] for each in column], np.object_)
        for name, column in zip(("outcome", "reason"), columns, strict=True)
    }
    return lambda request: InferResponse("recommender_events", "1", "id", outputs)


def test_an_event_is_sent_as_given(connect: Callable[..., Ask]) -> None:
    fake = FakeEvents()
    recorded = connect(fake)(
        "record", 42, "jóga", kind="like", played_s=12, at=AT, context={"device": "car"}, event_id="e-1"
    )
    assert recorded == RecordedEvent("e-1", "new")
    assert fake.events == [
        {
            "id": "e-1",
            "user": "42",
            "track": "jóga",
            "kind": "like",
            "at": AT.timestamp(),
            "played_s": 12.0,
            "context": {"device": "car"},
        }
    ]


def test_what_is_left_out_is_not_sent(connect: Callable[..., Ask]) -> None:
    fake = FakeEvents()
    first, second = (connect(fake)("record", "ann", "t") for _ in range(2))
    assert (first.outcome, second.outcome) == ("new", "new")
    assert first.event_id != second.event_id
    assert fake.events[0] == {"id": first.event_id, "user": "ann", "track": "t", "kind": "play"}


@pytest.mark.parametrize(
    "at", [AT, AT.timestamp(), AT.astimezone(timezone(timedelta(hours=9))), np.float64(AT.timestamp())]
)
def test_a_time_is_a_datetime_or_seconds(connect: Callable[..., Ask], at: Any) -> None:
    fake = FakeEvents()
    connect(fake)("record", "ann", "t", at=at)
    assert fake.events[0]["at"] == AT.timestamp()


def test_an_event_that_is_sent_again_is_a_duplicate(connect: Callable[..., Ask]) -> None:
    ask = connect(FakeEvents())
    events = [ListeningEvent("ann", f"t{number}") for number in range(600)]
    first, second = ask("record_many", events), ask("record_many", iter(events))
    assert (len(first), first.n_new, first.n_duplicates, first.n_refused) == (600, 600, 0, 0)
    assert (second.n_new, second.n_duplicates) == (0, 600)
    assert [each.event_id for each in second] == [each.event_id for each in events]
    assert ask("record_many", []) == RecordedEvents()


def test_a_retry_after_a_busy_store_sends_the_same_id(connect: Callable[..., Ask]) -> None:
    sent: list[str] = []

    def busy_once(request: Request) -> InferResponse:
        assert isinstance(request, InferRequest)
        sent.append(json.loads(request.inputs["event"][0, 0])["id"])
        if len(sent) == 1:
            raise ServerBusyError("event store: it is down")
        return answering(("new", ""))(request)

    recorded = connect(busy_once, retries=1)("record", "ann", "t")
    assert sent == [recorded.event_id] * 2
    sent.clear()
    with pytest.raises(ServerBusyError):
        connect(busy_once, retries=0)("record", "ann", "t")


def test_a_refused_event_is_an_error_of_record_and_a_result_of_record_many(connect: Callable[..., Ask]) -> None:
    with pytest.raises(RequestRejectedError, match="ahead"):
        connect(answering(("refused", "5 years ahead")))("record", "ann", "t")
    with pytest.raises(AccessDeniedError, match="token"):
        connect(answering(("denied", "expected a token")))("record", "ann", "t")
    many = connect(answering(("new", ""), ("refused", "ahead"), ("denied", "token")))
    events = [ListeningEvent("ann", "t", event_id=str(number)) for number in range(3)]
    recorded = many("record_many", events)
    assert (recorded.n_new, recorded.n_refused) == (1, 2)
    assert [each.event_id for each in recorded.refused] == ["1", "2"]
    assert RecordedEvents.from_dict(json.loads(recorded.to_json())) == recorded


@pytest.mark.parametrize(
    ("fields", "argument"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"track_id": 1.0}, "track_id"),
        ({"track_id": "x" * 1_025}, "track_id"),
        ({"kind": "listen"}, "kind"),
        ({"kind": None}, "kind"),
        ({"at": datetime(2026, 1, 1)}, "at"),
        ({"at": "2026-01-01"}, "at"),
        ({"at": float("nan")}, "at"),
        ({"at": -1}, "at"),
        ({"at": True}, "at"),
        ({"at": 10**400}, "at"),
        ({"played_s": -1}, "played_s"),
        ({"played_s": 1e6}, "played_s"),
        ({"played_s": "3"}, "played_s"),
        ({"context": "car"}, "context"),
        ({"context": {"Device": "x"}}, "context"),
        ({"context": {"a": "\n"}}, "context"),
        ({"context": {str(number): "x" for number in range(9)}}, "context"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a b"}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"event_id": 7}, "event_id"),
    ],
)
def test_an_invalid_field_is_refused_before_anything_is_sent(
    connect: Callable[..., Ask], fields: dict[str, Any], argument: str
) -> None:
    fake = FakeEvents()
    given = {"user_id": "ann", "track_id": "t", **fields}
    with pytest.raises(InvalidInputError) as caught:
        connect(fake)("record", **given)
    assert caught.value.argument == argument
    with pytest.raises(InvalidInputError, match=re.escape(f"events[1].{argument}")) as caught:
        connect(fake)("record_many", [ListeningEvent("ann", "t"), ListeningEvent(**given)])
    assert caught.value.argument == "events"
    assert fake.events == []


def test_what_is_no_event_is_refused(connect: Callable[..., Ask]) -> None:
    with pytest.raises(InvalidInputError, match="ListeningEvent"):
        connect(FakeEvents())("record_many", [{"user_id": "ann", "track_id": "t"}])


def test_credentials_go_with_events() -> None:
    transport = MockTransport(FakeEvents())
    with MusicClient(transport=transport, service_key="s" * 40) as music:
        music.record("ann", "t")
        music.record("ann", "t", user_token="a.b.c")  # noqa: S106 - no secret
    assert [dict(request.headers) for request in transport.requests] == [
        {"tritone-service-key": "s" * 40},
        {"tritone-user-token": "a.b.c"},
    ]


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"outcome": np.array([["new"], ["new"]], np.object_), "reason": np.array([[""]], np.object_)},
        {"outcome": np.array([[1]]), "reason": np.array([[""]], np.object_)},
        {"outcome": np.array([["perhaps"]], np.object_), "reason": np.array([[""]], np.object_)},
    ],
)
def test_a_malformed_response_is_an_error(connect: Callable[..., Ask], outputs: dict[str, Any]) -> None:
    with pytest.raises(ServerError) as caught:
        connect(lambda request: InferResponse("recommender_events", "1", "id", outputs))("record", "ann", "t")
    assert caught.value.reason in ("missing_output", "invalid_output")
