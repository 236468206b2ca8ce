"""The model `recommender_events` inside a real server: who may write what, stores that fail, and what is kept."""

from __future__ import annotations

import contextlib
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.integration.recommender_calls import metrics_text, service_key
from tests.support import recommender_artifacts as models
from tests.support.event_stores import free_port, valkey_process
from tritonclient.utils import InferenceServerException

from tritone import AccessDeniedError, ListeningEvent, MusicClient, RequestRejectedError, ServerBusyError
from tritone_export import check_repository
from tritone_serving import OptionsError, ServerOptions, TritonServer
from tritone_serving.events import EventStore, open_store
from tritone_serving.recommender import pseudonym, read_key
from tritone_serving.security.callers import mint_token

pytestmark = pytest.mark.triton

USER = "user 42 with a name"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("events")
    artifact = models.make_artifact(folder / "artifact", key_file)
    models.publish(artifact, key_file, folder / "repository", ensembles=False, events=True)
    return folder / "repository"


@contextlib.contextmanager
def serving(repository: Path, url: str | None) -> Iterator[TritonServer]:
    options = ServerOptions(
        repository=repository,
        models=("recommender_events",),
        events=url,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        stop_timeout_s=1,
    )
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite://{tmp_path_factory.mktemp('store') / 'events.db'}"


@pytest.fixture(scope="module")
def served(repository: Path, url: str) -> Iterator[TritonServer]:
    with serving(repository, url) as running:
        yield running


@pytest.fixture
def store(url: str) -> Iterator[EventStore]:
    with contextlib.closing(open_store(url)) as opened:
        yield opened


def event(number: int, user: str = USER, **fields: Any) -> dict[str, Any]:
    return {"id": f"event-{number}", "user": user, "track": f"track-{number}", **fields}


def send(
    server: TritonServer, *events: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Send events in one request; outcome and reason of each."""
    texts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in events]
    tensor = triton.InferInput("event", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text] for text in texts], np.object_))
    given = {"tritone-service-key": service_key()} if headers is None else dict(headers)
    with contextlib.closing(triton.InferenceServerClient(server.grpc_url)) as client:
        result = client.infer("recommender_events", [tensor], headers=given, client_timeout=20)
    columns = [result.as_numpy(name).ravel().tolist() for name in ("outcome", "reason")]
    return [(outcome.decode(), reason.decode()) for outcome, reason in zip(*columns, strict=True)]


def hashed(key_file: Path, user: str) -> str:
    return pseudonym(read_key(key_file), user).hex()


def test_lint_finds_nothing(repository: Path) -> None:
    assert [str(finding) for finding in check_repository(repository).findings] == []


def test_events_are_stored_once_under_pseudonyms(
    served: TritonServer, store: EventStore, key_file: Path, url: str
) -> None:
    now = time.time()
    sent = [
        event(1, at=now - 60, played_s=12.5, context={"device": "car"}),
        event(2, kind="like", at=now - 30),
        event(3, user=f" {USER}\u200b", kind="skip"),
    ]
    assert send(served, *sent) == [("new", "")] * 3
    assert send(served, sent[1], event(4, at=now - 90)) == [("duplicate", ""), ("new", "")]
    found = store.latest([hashed(key_file, USER)], 10)[0]
    assert [(each.track, each.kind, each.played_s) for each in found] == [
        ("track-4", "play", None),
        ("track-1", "play", 12.5),
        ("track-2", "like", None),
        ("track-3", "skip", None),
    ]
    assert found[1].context == {"device": "car"}
    assert now - 5 < found[3].at == found[3].received < time.time()
    folder = Path(url.removeprefix("sqlite://")).parent
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert b"track-1" in stored
    for secret in (USER.encode(), b"event-1"):
        assert secret not in stored
        assert secret not in served.log_path.read_bytes()


def test_each_invalid_event_is_refused_and_the_others_are_stored(served: TritonServer, store: EventStore) -> None:
    before = store.count()
    outcomes = send(
        served,
        event(10, "a"),
        b"no json",
        b"\xff",
        b"[]",
        b"[" * 5_000,
        {"id": "x", "user": "a"},
        {"user": "a", "track": "t"},
        {"id": "x", "track": "t"},
        {"id": "x", "user": " ", "track": "t"},
        {"id": "with space", "user": "a", "track": "t"},
        {"id": "x" * 129, "user": "a", "track": "t"},
        event(11, "a", kind="listen"),
        event(12, "a", at=time.time() + 400),
        event(13, "a", at=time.time() * 1_000),
        event(13, "a", at=time.time() - 181 * 86_400),
        event(14, "a", volume=11),
        event(15, "a" * 5_000),
        event(16, "a", context={"x": "y" * 9_000}),
        event(17, "\ud800"),
        event(18, "a"),
    )
    assert [outcome for outcome, _ in outcomes] == ["new", *["refused"] * 18, "new"]
    assert all(reason for _, reason in outcomes[1:-1])
    assert store.count() == before + 2


def test_a_caller_writes_events_of_the_users_it_may_read_only(
    served: TritonServer, store: EventStore, key_file: Path
) -> None:
    token = {"tritone-user-token": mint_token(service_key().encode(), "ann")}
    [own, other] = send(served, event(1, "ann"), event(1, "bob"), headers=token)
    assert own == ("new", "")
    assert other[0] == "denied"
    assert "token" in other[1]
    for headers in ({}, {"tritone-service-key": "wrong"}, {"tritone-user-token": "x.y.z"}):
        [outcome] = send(served, event(2, "ann"), headers=headers)
        assert outcome[0] == "denied"
    assert [len(each) for each in store.latest([hashed(key_file, name) for name in ("ann", "bob")], 9)] == [1, 0]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_sdk_records_events(served: TritonServer, store: EventStore, key_file: Path, protocol: str) -> None:
    url = served.grpc_url if protocol == "grpc" else served.http_url
    user = f"sdk {protocol}"
    events = [ListeningEvent(user, f"t{number}", at=time.time() - 3_600 + number) for number in range(300)]
    with MusicClient(url, service_key=service_key()) as music:
        recorded = music.record(user, "t", kind="like")
        assert recorded.outcome == "new"
        assert music.record(user, "t", kind="like", event_id=recorded.event_id).outcome == "duplicate"
        assert (music.record_many(events).n_new, music.record_many(events).n_duplicates) == (300, 300)
        with pytest.raises(RequestRejectedError, match="ahead"):
            music.record(user, "t", at=time.time() + 400)
        assert [each.kind for each in store.latest([hashed(key_file, user)], 1_000)[0]] == ["play"] * 300 + ["like"]
    with MusicClient(url, service_key="") as stranger, pytest.raises(AccessDeniedError):
        stranger.record(user, "t")


def test_metrics_count_events_by_outcome(served: TritonServer) -> None:
    send(served, event(20, "m"), event(20, "m"), b"x")
    time.sleep(0.6)
    text = metrics_text(served)
    for outcome in ("new", "duplicate", "refused"):
        found = re.findall(rf'^tritone_events_events_total{{[^}}]*outcome="{outcome}"[^}}]*}} (\S+)$', text, re.M)
        assert sum(map(float, found)) >= 1
    assert "tritone_events_calls_total" in text


def test_a_store_that_is_down_refuses_events_and_is_used_again_when_it_is_back(
    repository: Path, tmp_path: Path
) -> None:
    port = free_port()
    with serving(repository, f"valkey://127.0.0.1:{port}") as server:
        began_s = time.monotonic()
        with pytest.raises(InferenceServerException, match="event store") as caught:
            send(server, event(1), b"no json")
        assert time.monotonic() - began_s < 5
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert send(server, b"no json")[0][0] == "refused"  # needs no store
        body = json.dumps({"inputs": [{"name": "event", "datatype": "BYTES", "shape": [1, 1], "data": ["x"]}]})
        assert http_status(server, body) == 200
        body = body.replace('"x"', json.dumps(json.dumps(event(1))))
        assert http_status(server, body, {"tritone-service-key": service_key()}) == 503
        for address in (server.grpc_url, server.http_url):
            with (
                MusicClient(address, service_key=service_key(), retries=0) as music,
                pytest.raises(ServerBusyError, match="event store"),
            ):
                music.record(USER, "t")
        with valkey_process(port, tmp_path, appendonly="yes"):
            time.sleep(0.6)
            assert send(server, event(1), event(2)) == [("new", "")] * 2
        time.sleep(0.1)
        with pytest.raises(InferenceServerException):
            send(server, event(3))
        with valkey_process(port, tmp_path, appendonly="yes"):
            time.sleep(0.6)
            assert send(server, event(1), event(2), event(3)) == [("duplicate", ""), ("duplicate", ""), ("new", "")]
        log = server.log_path.read_text()
        assert log.count("event store 127.0.0.1") <= 4  # not once for each request
        assert USER not in log


def http_status(server: TritonServer, body: str, headers: Mapping[str, str] | None = None) -> int:
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{server.http_url}/v2/models/recommender_events/infer", body.encode(), dict(headers or {})
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_server_may_store_no_events(repository: Path) -> None:
    with serving(repository, "off") as server, pytest.raises(InferenceServerException, match="stores no events"):
        send(server, event(1))


def test_an_invalid_address_is_refused_before_the_start(repository: Path) -> None:
    with pytest.raises(OptionsError, match="sqlite:///"):
        ServerOptions(repository=repository, events="postgres://host/db")
