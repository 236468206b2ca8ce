"""Recorded events change the next answer of every server that shares the event store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.recommender_calls import Client, metric
from tests.support import recommender_artifacts as models

from tritone_serving import ServerOptions, TritonServer
from tritone_serving.events import EVENTS_VARIABLE, EventKind, EventStore, checked_event, event_id, open_store
from tritone_serving.ids import normalize_id
from tritone_serving.recommender.pseudonyms import pseudonym, read_key

pytestmark = pytest.mark.triton

WITHIN_S = 1.0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("events")
    artifact = models.make_artifact(folder / "artifact", key_file, n_listed=30)
    models.publish(artifact, key_file, folder / "repository", ensembles=False)
    return folder / "repository"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite://{tmp_path_factory.mktemp('store')}/events.db"


def started(repository: Path, address: str) -> TritonServer:
    options = ServerOptions(
        repository=repository,
        models=("recommender",),
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        stop_timeout_s=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EVENTS_VARIABLE, address)
        return TritonServer.start(options)


@pytest.fixture(scope="module")
def replicas(repository: Path, address: str) -> Iterator[list[Client]]:
    """Clients of two servers that share one event store."""
    with ExitStack() as stack:
        servers = [stack.enter_context(started(repository, address)) for _ in range(2)]
        clients = [Client(server) for server in servers]
        yield clients
        for client in clients:
            client.close()


@pytest.fixture
def store(address: str) -> Iterator[EventStore]:
    opened = open_store(address)
    yield opened
    opened.close()


def record(store: EventStore, key_file: Path, user: str, kind: EventKind, track: str) -> None:
    key = read_key(key_file)
    who = pseudonym(key, normalize_id(user)).hex()
    sent = event_id(key, who, f"{kind}-{track}-{time.time_ns()}")
    assert store.append([checked_event(id=sent, user=who, track=track, kind=kind, now=time.time())]) == [True]


@pytest.mark.parametrize(("kind", "number"), [("play", 11), ("like", 12), ("skip", 13), ("dislike", 14)])
def test_the_next_answer_of_every_replica_reflects_an_event(
    replicas: list[Client], store: EventStore, key_file: Path, kind: EventKind, number: int
) -> None:
    user = models.user_id(number)
    before = [client.ask(user_id=user, k=10) for client in replicas]
    assert before[0]["item_ids"] == before[1]["item_ids"]
    track = before[0]["item_ids"][0]
    record(store, key_file, user, kind, track)
    deadline = time.monotonic() + WITHIN_S
    for client in replicas:
        after = client.ask(user_id=user, k=10)
        assert track not in after["item_ids"]
        assert after["item_ids"] != [*before[0]["item_ids"][1:], after["item_ids"][-1]]
        assert after["scores"] != before[0]["scores"]
        assert (after["source"], after["unknown"]["events"]) == ("user", False)
    assert time.monotonic() < deadline


def test_a_listener_who_is_not_in_the_log_is_known_by_events(
    replicas: list[Client], store: EventStore, key_file: Path
) -> None:
    assert replicas[0].ask(user_id="new-listener")["unknown"]["user"]
    record(store, key_file, "new-listener", "play", models.item_id(9))
    for client in replicas:
        answer = client.ask(user_id="new-listener")
        assert (answer["source"], answer["unknown"]["user"]) == ("user", False)


def test_other_users_answers_stay(replicas: list[Client], store: EventStore, key_file: Path) -> None:
    before = replicas[0].ask(user_id=models.user_id(21))
    record(store, key_file, models.user_id(22), "play", before["item_ids"][0])
    assert replicas[0].ask(user_id=models.user_id(21))["item_ids"] == before["item_ids"]


def test_with_the_store_down_answers_go_on_and_say_so(repository: Path) -> None:
    with started(repository, "valkey://127.0.0.1:9/0?timeout_s=0.1") as server:
        client = Client(server)
        for _ in range(3):
            answer = client.ask(user_id=models.user_id(3), k=10)
            assert (answer["source"], answer["unknown"]["events"]) == ("user", True)
        assert client.ask(history=["track-1"])["unknown"]["events"] is False
        assert metric(server, "event_fallbacks_total", model="recommender") >= 3
        assert "recommending without recorded events for 1 s" in server.log_path.read_text()
        client.close()
