"""Candidates inside a real server: the same answers as from all items, with a network, and settings out of range."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.recommender_calls import Client
from tests.support import recommender_artifacts as models

from tritone_serving import ModelLoadError, ServerOptions, TritonServer

pytestmark = pytest.mark.triton

N_ITEMS, N_TASTE = 2_000, 1_500
SETTING = 'key: "candidates_min_items"\n  value {\n  }'


def configure(repository: Path, model: str, value: str) -> None:
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    assert SETTING in text
    path.write_text(text.replace(SETTING, SETTING.replace("\n  }", f'\n    string_value: "{value}"\n  }}')))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the same artifact: `recommender` scores all items, `few` candidates."""
    folder = tmp_path_factory.mktemp("candidates")
    key_file = folder / "recommender.key"
    artifact = models.make_artifact(folder / "artifact", key_file, n_items=N_ITEMS, n_taste=N_TASTE)
    path = folder / "repository"
    models.make_taste(path, N_TASTE)
    for name in ("recommender", "few"):
        models.publish(artifact, key_file, path, name=name, ensembles=False)
    configure(path, "few", "1000")
    return path


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1)
    with TritonServer.start(options) as running:
        yield running


@pytest.mark.parametrize(
    "given",
    [
        {"user_id": models.user_id(7), "explain": True},
        {"user_id": models.user_id(7), "diversity": 0.5, "novelty": 0.3},
        {"user_id": models.user_id(7), "skipped": ["track-5"], "exclude": ["track-0"], "filter_listened": False},
        {"history": ["track-9", "track-2"], "weights": [1.0, 3.0], "mood": "tension"},
        {"friends": [models.user_id(8), models.user_id(9), models.user_id(10)]},
        {},
    ],
)
def test_candidates_answer_as_all_items(served: TritonServer, given: dict[str, Any]) -> None:
    answers = []
    for model in ("recommender", "few"):
        client = Client(served, model)
        answers.append(client.ask(**given, k=10))
        client.close()
    one, two = answers
    assert two["item_ids"] == one["item_ids"]
    np.testing.assert_allclose(two["scores"], one["scores"], rtol=1e-4, atol=1e-5)
    for name in ("source", "titles", "artists", "arm", "unknown"):
        assert two[name] == one[name]
    for reasons, others in zip(two["reasons"], one["reasons"], strict=True):
        assert {each["base_model"] for each in reasons or []} == {each["base_model"] for each in others or []}


def test_a_setting_out_of_range_is_refused(served: TritonServer, repository: Path) -> None:
    path = repository / "few" / "config.pbtxt"
    before = path.read_text()
    path.write_text(before.replace('string_value: "1000"', 'string_value: "many"'))
    try:
        with pytest.raises(ModelLoadError, match=r"candidates_min_items is 'many': expected a whole number from 1"):
            served.load_model("few")
    finally:
        path.write_text(before)
        served.load_model("few")
