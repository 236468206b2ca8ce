"""`tritone tracks add` on two replicas under load: no request is lost, and the new tracks are recommended at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.recommender_calls import Listeners
from tests.support import recommender_models

from tritone import MusicClient
from tritone_serving import ServerOptions, TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.slow]
N_NEW = 5


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    served = recommender_models.served("recommender")
    folder = tmp_path_factory.mktemp("tracks") / "repository"
    for model in ("recommender", "taste_vae"):
        shutil.copytree(served.repository / model, folder / model)
    return folder


@pytest.fixture(scope="module")
def replicas(repository: Path) -> Iterator[list[TritonServer]]:
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_RECOMMENDER_KEY", str(recommender_models.checkpoint() / "recommender.key"))
        with TritonServer.start(options) as one, TritonServer.start(options) as two:
            yield [one, two]


def test_new_tracks_are_recommended_at_once_and_no_request_is_lost(
    repository: Path, replicas: list[TritonServer], tmp_path: Path, run_tritone: Callable[..., Any]
) -> None:
    items = recommender_models.world().metadata
    history = [item for item, row in items.items() if row["title"].startswith("jig")][:4]
    file = tmp_path / "new.csv"
    rows = [f"new/{number},jig no. {number},major" for number in range(N_NEW)]
    file.write_text("id,title,artist\n" + "\n".join(rows) + "\n")
    servers = [part for each in replicas for part in ("--server", f"{each.http_url},{each.grpc_url}")]
    # Tests that run at the same time delay requests.
    command = ("tracks", "add", file, "--repository", repository, *servers, "--max-slowdown", 5, "--json")
    with Listeners(replicas, history) as listeners:
        ended = run_tritone(*command)
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["version"], found["is_live"], len(found["added"])) == (2, True, N_NEW)
    assert listeners.errors == []
    assert set(listeners.n_answers) == {each.grpc_url for each in replicas}
    for each in replicas:
        assert each.models["recommender"] == ["2"]
        with MusicClient(each.grpc_url) as music:
            assert music.find_tracks("new/1", by="id")[0].track_id == "new/1"
            everything = music.recommend(history=history, n=len(items) + N_NEW)
            assert {track.track_id for track in everything} >= {f"new/{number}" for number in range(N_NEW)}
            assert music.recommend(history=["new/1"], n=3).source == "history"
    again = run_tritone(*command)
    assert json.loads(again.stdout)["version"] is None
    assert [each.models["recommender"] for each in replicas] == [["2"], ["2"]]


def test_a_replica_with_a_repository_of_its_own_is_reported(
    repository: Path, replicas: list[TritonServer], tmp_path: Path, run_tritone: Callable[..., Any]
) -> None:
    other = Path(shutil.copytree(repository, tmp_path / "other"))
    file = tmp_path / "new.csv"
    file.write_text("id,title,artist\nnew/9,mass no. 9,minor\n")
    options = ServerOptions(repository=other, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=2)
    with TritonServer.start(options) as apart:
        servers = [part for each in (replicas[0], apart) for part in ("--server", f"{each.http_url},{each.grpc_url}")]
        ended = run_tritone("tracks", "add", file, "--repository", repository, *servers, "--max-slowdown", 5)
    assert ended.status == 1
    assert "does not share" in ended.stderr
