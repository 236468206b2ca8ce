"""`tritone events`, and how `tritone forget` removes a user's events."""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.support import recommender_artifacts as models
from tests.support.event_stores import hashed

import tritone
from tritone.exceptions import ServerBusyError
from tritone.testing import FakeEvents, MockTransport
from tritone_serving.events import EventStoreUrlError, checked_event, event_id, existing_store_url, open_store
from tritone_serving.recommender import pseudonym, read_key

NOW = time.time()
LOG = """user_id,track_id,timestamp,skipped,ms_played
ann,t1,2026-01-01T10:00:00Z,0,1500
bob,t2,2026-01-01T10:00:00Z,1,
ann,t1,2026-01-01T10:00:00Z,0,1500
,t3,2026-01-01T10:00:00Z,0,1
cid,t4,never,0,1
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEvents:
    made = FakeEvents()
    patch(monkeypatch, made)
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.delenv("TRITONE_EVENTS", raising=False)
    monkeypatch.chdir(tmp_path)
    return made


def patch(monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    client = tritone.MusicClient

    def connect(*args: Any, **options: Any) -> Any:
        return client(*args, **{**options, "retries": 0, "transport": MockTransport(handler)})

    monkeypatch.setattr(tritone, "MusicClient", partial(connect))


def test_events_of_a_log_are_imported_once(run_tritone: Any, fake: FakeEvents, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG)
    ended = run_tritone("events", "import", "log.csv", "--json")
    assert ended.status == 1  # rows were left out
    result = json.loads(ended.stdout)
    assert (result["n_new"], result["n_duplicates"], result["n_refused"], result["last_row"]) == (3, 0, 2, 3)
    assert result["problems"] == {"4": "no user", "5": "no time that can be read"}
    assert [(each["user"], each["track"], each["kind"], each.get("played_s")) for each in fake.events] == [
        ("ann", "t1", "play", 1.5),
        ("bob", "t2", "skip", None),
        ("ann", "t1", "play", 1.5),
    ]
    assert {each["at"] for each in fake.events} == {1_767_261_600.0}
    again = json.loads(run_tritone("events", "import", "log.csv", "--json").stdout)
    assert (again["n_new"], again["n_duplicates"]) == (0, 3)


def test_rows_that_the_client_refuses_are_left_out(run_tritone: Any, fake: FakeEvents, tmp_path: Path) -> None:
    long = "t" * 2_000
    lines = [f"ann,t{number},2026-01-01T10:00:00Z,e{number}" for number in range(300)]
    lines[7], lines[200], lines[290] = (
        f"ann,{long},2026-01-01T10:00:00Z,x",
        "ann,t,2026-01-01T10:00:00Z,a b",
        lines[290],
    )
    (tmp_path / "log.csv").write_text("user_id,track_id,timestamp,event_id\n" + "\n".join(lines) + "\n")
    ended = run_tritone("events", "import", "log.csv", "--json")
    result = json.loads(ended.stdout)
    assert (ended.status, result["n_new"], result["n_refused"], result["last_row"]) == (1, 298, 2, 300)
    assert set(result["problems"]) == {"8", "201"}
    assert "event_id" in result["problems"]["201"]


def test_rows_with_a_bad_length_or_encoding_are_left_out(run_tritone: Any, fake: FakeEvents, tmp_path: Path) -> None:
    rows = [b"ann,t1,1767261600,30", b"ann,t2,1767261600,long", b"Jos\xe9,t3,1767261600,30", b"bob,t\xff,1767261600,"]
    (tmp_path / "log.csv").write_bytes(b"user,track,time,played_s\n" + b"\n".join(rows) + b"\n")
    ended = run_tritone("events", "import", "log.csv", "--json")
    result = json.loads(ended.stdout)
    assert (ended.status, result["n_new"]) == (1, 1)
    assert result["problems"] == {
        "2": "invalid time played: expected a number, got 'long'",
        "3": "its user is not UTF-8 text",
        "4": "its track is not UTF-8 text",
    }


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_tables_of_all_formats_are_read(run_tritone: Any, fake: FakeEvents, tmp_path: Path, suffix: str) -> None:
    kinds = ["play", "skip", "love", "dislike", ""]
    frame = pd.DataFrame(
        {
            "listener": [f"u{number}" for number in range(5)],
            "track": [f"t{number}" for number in range(5)],
            "played_at": [1_600_000_000 + number for number in range(5)],
            "event": kinds,
            "event_id": [f"own-{number}" for number in range(5)],
        }
    )
    path = tmp_path / f"events.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path, engine="fastparquet")
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t", index=False)
    ended = run_tritone("events", "import", path)
    assert ended.status == 0, ended.stderr
    assert [each["kind"] for each in fake.events] == ["play", "skip", "like", "dislike", "play"]
    assert [each["id"] for each in fake.events] == [f"own-{number}" for number in range(5)]
    assert "5 new events" in ended.stderr


def test_an_import_that_failed_goes_on_after_the_last_row(
    run_tritone: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, n_calls = FakeEvents(), []

    def failing(request: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) == 3:
            raise ServerBusyError("event store: it is down")
        return made(request)

    patch(monkeypatch, failing)
    path = tmp_path / "log.csv"
    path.write_text("user,track,time\n" + "".join(f"u,t{n},{1_600_000_000 + n}\n" for n in range(1_000)))
    ended = run_tritone("events", "import", path)
    assert ended.status == 1
    assert "--after-row 512" in ended.stderr
    assert "event store" in ended.stderr
    ended = run_tritone("events", "import", path, "--after-row", 512, "--json")
    assert (ended.status, json.loads(ended.stdout)["n_new"]) == (0, 488)
    assert len(made.events) == 1_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user,track\nann,t1\n", "time"),
        ("track,time\nt1,1\n", "user"),
        ("", "empty"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error(
    run_tritone: Any, fake: FakeEvents, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "log.csv").write_text(content)
    ended = run_tritone("events", "import", "log.csv")
    assert ended.status == 1
    assert says in ended.stderr
    assert fake.events == []


@pytest.fixture
def filled(tmp_path: Path) -> tuple[str, Path]:
    """A store with 5 events of a user of the artifact and 2 of another one, 1 of them too old; and the key."""
    key = tmp_path / "recommender.key"
    artifact = models.make_artifact(tmp_path / "artifact", key)
    models.publish(artifact, key, tmp_path / "repository", ensembles=False)
    url = f"sqlite://{tmp_path / 'events.db'}"
    content = read_key(key)
    with contextlib.closing(open_store(url)) as store:
        for number in range(7):
            user = pseudonym(content, models.user_id(3 if number < 5 else 4)).hex()
            age_s = 86_400 * 365 if number == 6 else number
            sent = event_id(content, user, str(number))
            store.append([checked_event(id=sent, user=user, track=f"t{number}", at=NOW - age_s, now=NOW)])
    return url, key


def test_an_existing_store_is_given_or_that_of_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, filled: tuple[str, Path]
) -> None:
    monkeypatch.delenv("TRITONE_EVENTS", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert existing_store_url() is None  # the server has written no event yet
    file = tmp_path / "state" / "tritone" / "events.db"
    file.parent.mkdir(parents=True)
    file.touch()
    assert existing_store_url() == f"sqlite://{file}"
    assert existing_store_url("off") is None
    monkeypatch.setenv("TRITONE_EVENTS", "off")
    assert existing_store_url() is None
    assert existing_store_url(filled[0]) == filled[0]
    missing = f"sqlite://{tmp_path / 'missing.db'}"
    assert existing_store_url(missing) == missing  # a named store has to exist
    with pytest.raises(EventStoreUrlError, match="expected sqlite"):
        existing_store_url("mysql://host")


def test_count_prune_and_forget(run_tritone: Any, filled: tuple[str, Path]) -> None:
    url, key = filled
    assert run_tritone("events", "count", "--events", url).stdout == "7\n"
    assert json.loads(run_tritone("events", "prune", "--events", url, "--json").stdout) == {
        "n_removed": 1,
        "n_events": 6,
    }
    ended = run_tritone("events", "forget", models.user_id(3), "--key", key, "--events", url, "--json")
    assert (ended.status, json.loads(ended.stdout)) == (0, {"n_removed": 5})
    ended = run_tritone("events", "forget", models.user_id(3), "--key", key, "--events", url)
    assert ended.status == 1
    assert models.user_id(3) not in ended.stderr
    assert json.loads(run_tritone("events", "count", "--events", url, "--json").stdout) == {"n_events": 1}


def test_forget_removes_the_events_of_the_user_too(run_tritone: Any, filled: tuple[str, Path], tmp_path: Path) -> None:
    url, key = filled
    arguments = ("forget", models.user_id(3), "--repository", tmp_path / "repository", "--key", key, "--events", url)
    ended = run_tritone(*arguments, "--json")
    assert ended.status == 0, ended.stderr
    assert json.loads(ended.stdout)["n_events"] == 5
    assert run_tritone("events", "count", "--events", url).stdout == "2\n"
    with contextlib.closing(open_store(url)) as store:
        user = pseudonym(read_key(key), models.user_id(3)).hex()
        store.append([checked_event(id=hashed("x"), user=user, track="t", now=time.time())])
    ended = run_tritone(*arguments, "--json")  # only events are left
    assert (ended.status, json.loads(ended.stdout)["n_events"]) == (0, 1)


def test_forget_reports_a_store_that_is_down_and_does_the_rest(
    run_tritone: Any, filled: tuple[str, Path], tmp_path: Path
) -> None:
    _, key = filled
    arguments = ("forget", models.user_id(3), "--repository", tmp_path / "repository", "--key", key)
    ended = run_tritone(*arguments, "--events", "valkey://127.0.0.1:1", "--json")
    assert ended.status == 1
    result = json.loads(ended.stdout)
    assert result["n_events"] is None
    assert result["versions"] == {"recommender": 2}
    assert "event" in result["failed"][0]
    assert "event store" in ended.stderr


@pytest.mark.parametrize("url", ["postgres://x", "off", "sqlite:///nowhere/events.db", "valkey://127.0.0.1:1"])
def test_a_store_that_cannot_be_opened_is_an_error(run_tritone: Any, url: str) -> None:
    ended = run_tritone("events", "count", "--events", url)
    assert ended.status == 1
    assert "event store" in ended.stderr
