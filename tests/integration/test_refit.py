"""`tritone refit` on a real server under load: no request is lost, and the refitted answers appear."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.integration.recommender_calls import Listeners
from tests.support import recommender_models

from tritone import MusicClient
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.events import checked_event, event_id, open_store
from tritone_serving.recommender import read_key
from tritone_serving.recommender.pseudonyms import pseudonym

pytestmark = [pytest.mark.triton, pytest.mark.slow]
NEWCOMER = "newcomer"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(recommender_models.checkpoint(), tmp_path / "run"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    served = recommender_models.served("recommender")
    for model in ("recommender", "taste_vae"):
        shutil.copytree(served.repository / model, tmp_path / "repository" / model)
    return tmp_path / "repository"


@pytest.fixture
def server(repository: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TritonServer]:
    monkeypatch.setenv("TRITONE_RECOMMENDER_KEY", str(run / "recommender.key"))
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=2)
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture
def store(run: Path, tmp_path: Path) -> str:
    """A store with the listening of a new user, and a few plays of the others."""
    url = f"sqlite://{tmp_path}/events.db"
    key, log, now = read_key(run / "recommender.key"), recommender_models.world().log, time.time()
    rows = [(NEWCOMER, item) for item in log.items[:8]]
    rows += [(user, item) for user, item in zip(log.users[:40], log.items[::-1][:40], strict=True)]
    events = []
    for number, (user, track) in enumerate(rows):
        name = pseudonym(key, user).hex()
        at = now - len(rows) + number
        events.append(checked_event(id=event_id(key, name, str(uuid4())), user=name, track=track, at=at, now=now))
    with closing(open_store(url)) as opened:
        opened.append(events)
    return url


def test_a_refit_is_published_without_a_lost_request(
    run: Path, repository: Path, server: TritonServer, store: str, run_tritone: Callable[..., Any]
) -> None:
    address = f"{server.http_url},{server.grpc_url}"
    tracks = repository.parent / "new.csv"
    tracks.write_text("id,title,artist\nnew/1,jig no. 1,major\n")
    # Tests that run at the same time delay requests.
    to_server = ("--repository", repository, "--server", address, "--max-slowdown", 5)
    assert run_tritone("tracks", "add", tracks, *to_server).status == 0
    with MusicClient(server.grpc_url) as music:
        assert music.recommend(NEWCOMER).source == "popularity"
    history = list(recommender_models.world().metadata)[:4]
    with Listeners([server], history) as listeners:
        ended = run_tritone("refit", "--checkpoint", run, "--events", store, *to_server, "--force", "--json")
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["status"] == "published"
    assert found["versions"]["recommender"] == 3
    assert listeners.errors == []
    assert listeners.n_answers[server.grpc_url] > 0
    assert server.models["recommender"] == ["3"]
    with MusicClient(server.grpc_url) as music:
        assert music.recommend(NEWCOMER).source == "user"
        assert music.find_tracks("new/1", by="id")[0].title == "jig no. 1"
    assert not list(repository.glob("*.candidate"))
    again = run_tritone("refit", "--checkpoint", run, "--events", store, *to_server)
    assert "nothing new" in again.stderr
    assert server.models["recommender"] == ["3"]
