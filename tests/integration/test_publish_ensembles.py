"""Publication of a model that an ensemble and a recommender depend on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.python_models import Watched
from tests.integration.test_publish import MODEL, WIDTH, make_source

from tritone.endpoints import make_endpoint
from tritone_export.publishing import Live, publish_live, rollback
from tritone_serving import RefusedVersionError
from tritone_serving.admin import AdminApi
from tritone_serving.calls import Calls
from tritone_serving.trial import Bounds

pytestmark = pytest.mark.triton

ENSEMBLE = """
name: "{name}"
platform: "ensemble"
max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] }} ]
ensemble_scheduling {{
  step [ {{
    model_name: "{step}" model_version: -1
    input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "y" }}
  }} ]
}}
"""


def add_ensemble(repository: Path, name: str, step: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    config = ENSEMBLE.format(name=name, step=step, width=WIDTH)
    (repository / name / "config.pbtxt").write_text(config)


class World:
    """A server of `scale` (k = 2), an ensemble of it, and an ensemble of that ensemble."""

    def __init__(self, folder: Path) -> None:
        self.repository = make_source(folder / "repository", k=2)
        add_ensemble(self.repository, "outer", "inner")
        add_ensemble(self.repository, "inner", MODEL)
        self.watched = Watched(self.repository)
        server = self.watched.server
        host, port = server.http_url.removeprefix("http://").split(":")
        self.live = Live(
            self.repository,
            AdminApi(host, int(port), token=server.admin_token),
            Calls(make_endpoint(server.grpc_url)),
            Bounds(max_slowdown=5),
        )

    def ask(self, model: str) -> tuple[float, str]:
        """What it answers to ones, and as which version."""
        answer = self.live.calls.infer(model, {"x": np.ones((1, WIDTH), np.float32)}, timeout_s=5)
        return float(answer.outputs["y"][0, 0]), answer.version


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
        assert made.watched.said == []
    finally:
        made.live.calls.close()
        made.watched.stop()


def test_ensembles_use_a_new_version_of_a_step_at_once(world: World, tmp_path: Path) -> None:
    names = ("inner", "outer")
    assert [world.ask(name) for name in names] == [(2.0, "1")] * 2
    published = publish_live(make_source(tmp_path / "next", k=3), [MODEL], world.live)
    assert [(each.model, each.version) for each in published] == [(MODEL, 2)]
    assert [world.ask(name) for name in names] == [(3.0, "1")] * 2
    assert rollback(MODEL, world.live).version == 3
    assert [world.ask(name)[0] for name in names] == [2.0] * 2


def test_an_ensemble_that_a_version_with_other_tensors_breaks_is_reported(world: World, tmp_path: Path) -> None:
    live = replace(world.live, bounds=Bounds(max_slowdown=5, other_tensors=True))
    with pytest.raises(
        RefusedVersionError, match=r"scale: the new version is live, but .* tritone rollback scale"
    ) as caught:
        publish_live(make_source(tmp_path / "narrow", k=3, width=8), [MODEL], live)
    assert caught.value.model == "inner"
    assert world.live.calls.config(MODEL, timeout_s=5).output[0].dims == [8]

    assert rollback(MODEL, live).version == 3
    assert [world.ask(name)[0] for name in ("inner", "outer")] == [2.0] * 2


def test_on_the_command_line(world: World, tmp_path: Path) -> None:
    (make_source(tmp_path / "next", k=3) / MODEL).rename(tmp_path / "next" / "genre_cnn")
    config, card = (tmp_path / "next" / "genre_cnn" / name for name in ("config.pbtxt", "1/model_card.json"))
    config.write_text(config.read_text().replace(MODEL, "genre_cnn"))
    card.write_text(json.dumps({**json.loads(card.read_text()), "weights_sha256": "cd" * 32}))
    make_source(tmp_path / "next", k=4)
    recommender = world.repository / "recommender" / "1"  # nothing that could be loaded
    recommender.mkdir(parents=True)
    embedding_model = {"kind": "genre_cnn", "weights_sha256": "ab" * 32}
    (recommender / "recommender.json").write_text(
        json.dumps({"arrays": {"items.embeddings": {}}, "embedding_model": embedding_model})
    )

    def run_tritone(verb: str, *arguments: str, status: int = 0) -> tuple[dict[str, Any], str]:
        command = [sys.executable, "-m", "tritone_cli", verb, *arguments, "--repository", str(world.repository)]
        command += ["--server", f"{world.watched.server.http_url},{world.watched.server.grpc_url}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
        return json.loads(ended.stdout or "{}"), ended.stderr

    words = ("publish", MODEL, "genre_cnn", "--from", str(tmp_path / "next"), "--max-slowdown", "5", "--json")
    said, told = run_tritone(*words, status=1)
    assert said == {}
    assert "refused, nothing was changed: recommender does not belong to" in told
    assert "or add --force" in told
    assert not (world.repository / "genre_cnn").exists()
    said, told = run_tritone(*words, "--force")
    assert [each["model"] for each in said["published"]] == [MODEL, "genre_cnn"]
    (warning,) = said["warnings"]
    assert "recommender does not belong to" in warning
    assert f"warning: {warning}" in told
    said, told = run_tritone("rollback", MODEL)
    assert said == {}
    assert f"{MODEL}: version 3 is live and replaces version 2" in told
    assert "warning" not in told
    assert world.ask("inner") == (2.0, "1")
