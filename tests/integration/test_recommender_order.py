"""The order of a history on a real server: `recommender` with `taste_vae` and `taste_sequence` beside it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.recommender_calls import Client, metric
from tests.support import recommender_models
from tests.support.recommender_artifacts import spoil_manifest
from tritonclient.utils import InferenceServerException

from tritone import MusicClient, RequestRejectedError
from tritone_export import check_repository, export_kind
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.recommender import RecommendRequest
from tritone_training.kinds.recommender.ensemble.offline import open_recommender, remote_scores
from tritone_training.registry import get_kind

pytestmark = [pytest.mark.triton, pytest.mark.slow]
HISTORY = ["i3", "i40", "i17", "i8", "i25"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained recommender in which `taste_sequence` has a weight in sessions; the tiny log may give it none."""
    folder = Path(shutil.copytree(recommender_models.ordered_checkpoint(), tmp_path_factory.mktemp("run") / "ordered"))
    manifest = json.loads((folder / "artifact" / "recommender.json").read_text())
    for ensemble in manifest["ensembles"].values():
        ensemble["weights"].setdefault("session", dict(ensemble["weights"]["warm"]))["taste_sequence"] = 1.0
    spoil_manifest(folder / "artifact", ensembles=manifest["ensembles"])
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("ordered")
    kind = get_kind("recommender")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        results = export_kind(kind.export(checkpoint), kind, repository=folder / "models")
        assert {"recommender", "taste_vae", "taste_sequence"} <= {result.model for result in results}
        for name in ("recording_recommender", "inspire"):  # need models that are not there
            _remove(folder / "models" / name)
        assert not check_repository(folder / "models").findings
        options = ServerOptions(
            repository=folder / "models", http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1
        )
        with TritonServer.start(options) as running:
            yield running


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def client(served: TritonServer) -> Iterator[Client]:
    made = Client(served)
    yield made
    made.close()


def in_this_process(checkpoint: Path, **given: Any) -> tuple[tuple[str, ...], Any]:
    recommender, networks = open_recommender(checkpoint)
    resolved = recommender.resolve([RecommendRequest(**given)])
    remote = remote_scores(resolved.remote_inputs, networks)
    (answer,) = recommender.respond(resolved, remote_scores=remote)
    assert not isinstance(answer, Exception)
    return answer.items, answer.scores


def test_the_answer_follows_the_order_and_is_that_of_the_library(client: Client, checkpoint: Path) -> None:
    answers = []
    for history in (HISTORY, HISTORY[::-1]):
        answer = client.ask(history=history, k=20)
        items, scores = in_this_process(checkpoint, history=history, k=20)
        np.testing.assert_allclose(answer["scores"], scores, rtol=1e-3, atol=1e-4)
        assert sorted(answer["item_ids"]) == sorted(items)
        answers.append(answer["item_ids"])
    assert answers[0] != answers[1]


def test_times_decide_the_order(client: Client) -> None:
    now = int(time.time())
    backwards = [now - 100 * place for place in range(1, len(HISTORY) + 1)]
    by_times = client.ask(history=HISTORY, times=backwards, k=20)
    reordered = client.ask(history=HISTORY[::-1], times=backwards[::-1], k=20)
    assert by_times["item_ids"] == reordered["item_ids"]
    assert by_times["item_ids"] != client.ask(history=HISTORY, times=backwards[::-1], k=20)["item_ids"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1] * 4, "invalid times: expected seconds since 1970, .*, got 4 for 5 ids"),
        ([-1] * 5, r"invalid times\[0\]: .*, got -1"),
        ([1_700_000_000_000] * 5, r"invalid times\[0\]: .*divide milliseconds by 1,000"),
    ],
)
def test_bad_times_are_refused(client: Client, times: list[int], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        client.ask(history=HISTORY, times=times)


def test_the_sdk_sends_times(served: TritonServer, client: Client) -> None:
    now = int(time.time())
    times = [now - 50, None, now - 40, now - 10, None]
    with MusicClient(served.grpc_url) as music:
        found = music.recommend(history=HISTORY, times=times, n=20)
        sent = client.ask(history=HISTORY, times=[each or 0 for each in times], k=20)
        assert [track.track_id for track in found] == sent["item_ids"]
        with pytest.raises(RequestRejectedError, match="in the past"):
            music.recommend(history=HISTORY, times=[now + 200_000] * 5)


def test_without_taste_sequence_the_others_answer(served: TritonServer, client: Client) -> None:
    def n_fallbacks() -> float:
        return metric(served, "sequence_fallbacks_total", model="recommender")

    before = n_fallbacks()
    served.unload_model("taste_sequence")
    try:
        assert len(client.ask(history=HISTORY, k=20)["item_ids"]) == 20
        assert n_fallbacks() > before
        assert metric(served, "taste_fallbacks_total", model="recommender") == 0
    finally:
        served.load_model("taste_sequence")
    for _ in range(60):  # both instances leave it alone for two seconds
        before = n_fallbacks()
        client.ask(history=HISTORY, k=20)
        if n_fallbacks() == before:
            break
        time.sleep(0.1)
    else:
        pytest.fail("taste_sequence is back and is not asked")
