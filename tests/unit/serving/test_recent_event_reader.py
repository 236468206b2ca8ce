"""The cf_ensemble backend's reading of recorded events."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tritone_serving.events import (
    EVENTS_VARIABLE,
    NO_EVENTS,
    Event,
    EventStore,
    EventStoreUnavailableError,
    checked_event,
    event_id,
    open_store,
)

KEY = b"k" * 32
USER, OTHER = bytes(range(16)), bytes(range(16, 32))


def recorded(user: bytes, track: str, sent: str) -> Event:
    now = time.time()
    return checked_event(id=event_id(KEY, user.hex(), sent), user=user.hex(), track=track, now=now)


class FailingStore:
    """A store that cannot be read until it is mended."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.is_down = True
        self.n_calls = 0

    def latest(self, users: Sequence[str], most: int) -> list[list[Event]]:
        self.n_calls += 1
        if self.is_down:
            raise EventStoreUnavailableError("it is down")
        return self.store.latest(users, most)

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    return open_store(f"sqlite://{tmp_path}/events.db")


def test_events_go_to_the_requests_of_their_users(cf_ensemble: Any, store: EventStore) -> None:
    store.append([recorded(USER, "a", "1"), recorded(OTHER, "b", "1")])
    reader = cf_ensemble.events.RecentEventReader(lambda: store, warn=print)
    recent = reader.read([USER, None, OTHER, USER, bytes(16)])
    assert [[each.track for each in events] for events in recent.by_request] == [["a"], [], ["b"], ["a"], []]
    assert recent.is_available
    reader.close()


def test_an_event_is_seen_by_the_next_read(cf_ensemble: Any, store: EventStore, tmp_path: Path) -> None:
    reader = cf_ensemble.events.RecentEventReader(lambda: store, warn=print)
    assert reader.read([USER]).by_request == [[]]
    other_process = open_store(f"sqlite://{tmp_path}/events.db")
    other_process.append([recorded(USER, "a", "1")])
    assert len(reader.read([USER]).by_request[0]) == 1


def test_requests_without_users_do_not_open_the_store(cf_ensemble: Any) -> None:
    def fail() -> EventStore:
        raise AssertionError("opened")

    recent = cf_ensemble.events.RecentEventReader(fail, warn=print).read([None, None])
    assert (list(map(len, recent.by_request)), recent.is_available) == ([0, 0], True)


def test_a_store_that_is_down_is_left_alone_for_a_while_and_used_again(cf_ensemble: Any, store: EventStore) -> None:
    store.append([recorded(USER, "a", "1")])
    failing = FailingStore(store)
    clock, warnings = [100.0], []
    reader = cf_ensemble.events.RecentEventReader(lambda: failing, warn=warnings.append, clock=lambda: clock[0])
    for _ in range(3):
        recent = reader.read([USER])
        assert (recent.is_available, [len(each) for each in recent.by_request]) == (False, [0])
    assert (failing.n_calls, len(warnings)) == (1, 1)
    assert USER.hex() not in warnings[0]
    failing.is_down = False
    clock[0] += cf_ensemble.events.PAUSE_S
    assert reader.read([USER]).is_available


def test_a_store_that_cannot_be_opened_is_tried_again(cf_ensemble: Any, store: EventStore) -> None:
    stores: list[EventStore] = []

    def opened() -> EventStore:
        if not stores:
            raise EventStoreUnavailableError("no file")
        return stores[0]

    clock = [0.0]
    reader = cf_ensemble.events.RecentEventReader(opened, warn=lambda text: None, clock=lambda: clock[0])
    assert not reader.read([USER]).is_available
    stores.append(store)
    clock[0] += cf_ensemble.events.PAUSE_S
    assert reader.read([USER]).is_available


def test_a_server_without_events_has_no_reader(cf_ensemble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, NO_EVENTS)
    assert cf_ensemble.events.RecentEventReader.from_environment(print) is None


def test_an_invalid_address_is_a_failure_of_the_store(cf_ensemble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, "nonsense://x")
    warnings: list[str] = []
    reader = cf_ensemble.events.RecentEventReader.from_environment(warnings.append)
    assert not reader.read([USER]).is_available
    assert "invalid event store" in warnings[0]


def test_a_file_that_does_not_exist_yet_holds_no_events(
    cf_ensemble: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "state" / "events.db"
    monkeypatch.setenv(EVENTS_VARIABLE, f"sqlite://{path}")
    reader = cf_ensemble.events.RecentEventReader.from_environment(print)
    recent = reader.read([USER])
    assert (recent.is_available, recent.by_request) == (True, [()])
    assert not path.exists()
    open_store(f"sqlite://{path}").append([recorded(USER, "a", "1")])
    assert len(reader.read([USER]).by_request[0]) == 1


@pytest.mark.parametrize(
    "change", ["kind = 9", "kind = 'zz'", "context = '{bad'", "track = x'ff'", "id = 'x' || hex(id)"]
)
def test_a_damaged_row_is_a_failure_of_the_store(
    cf_ensemble: Any, store: EventStore, tmp_path: Path, change: str
) -> None:
    store.append([recorded(USER, "a", "1")])
    with sqlite3.connect(tmp_path / "events.db") as connection:
        connection.execute(f"UPDATE events SET {change}")  # noqa: S608 - of this test
    warnings: list[str] = []
    reader = cf_ensemble.events.RecentEventReader(lambda: store, warn=warnings.append)
    assert not reader.read([USER]).is_available
    assert "a row is damaged" in warnings[0]


def test_a_path_that_cannot_be_looked_up_is_a_failure_of_the_store(
    cf_ensemble: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, "sqlite:///" + "a" * 300)
    warnings: list[str] = []
    reader = cf_ensemble.events.RecentEventReader.from_environment(warnings.append)
    assert not reader.read([USER]).is_available
    assert "File name too long" in warnings[0]
