"""`tritone publish` from a checkpoint: exported, tried beside the live version, and live with its companion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support import music_models

from tritone_serving import ServerOptions, TritonServer

pytestmark = pytest.mark.triton


@pytest.mark.slow  # trains and exports a kind, if no other test has
def test_a_checkpoint_goes_live_with_its_companion(tmp_path: Path, run_tritone: Callable[..., Any]) -> None:
    served = music_models.served("polyphony_rnn")
    repository = tmp_path / "repository"
    for result in served.results:
        shutil.copytree(served.repository / result.model, repository / result.model)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=2)
    with TritonServer.start(options) as server:
        ended = run_tritone(
            "publish", "polyphony_rnn", "--json", "--checkpoint", served.checkpoint, "--repository", repository,
            "--max-slowdown", 5, "--server", f"{server.http_url},{server.grpc_url}",
        )  # fmt: skip
        assert ended.status == 0, ended.stderr
        said = {each["model"]: each for each in json.loads(ended.stdout)["published"]}
        assert {name: each["version"] for name, each in said.items()} == {
            "polyphony_rnn": 2,
            "polyphony_rnn_sampler": 2,
        }
        assert server.models == {"polyphony_rnn": ["2"], "polyphony_rnn_sampler": ["2"]}
        # Its card's tolerance was kept on the server too.
        assert max(said["polyphony_rnn"]["max_abs_difference"].values()) < 1e-3
    assert sorted(path.name for path in repository.iterdir() if not path.name.startswith(".")) == sorted(said)
