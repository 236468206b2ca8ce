"""`tritone probe`: a canary through every kind of model, on a real server; and through one that only looks ready."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration import composer_stand_in, conftest, python_models
from tests.support import music_models, recommender_artifacts

from tritone.endpoints import make_endpoint
from tritone_serving import CanaryError, ServerOptions, TritonServer
from tritone_serving.calls import Calls
from tritone_serving.canary import check_outputs, make_inputs, probe, run_canary
from tritone_serving.supervision.processes import stubs_of

pytestmark = pytest.mark.triton
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Every way to serve: onnxruntime, decoupled composer, recommender with a companion, ensemble, plain Python."""
    folder = tmp_path_factory.mktemp("everything")
    repository = folder / "repository"
    conftest.make_repository(repository)
    composer_stand_in.make_repository(repository)
    python_models.make_repository(repository, plain=1)
    key = folder / "key"
    artifact = recommender_artifacts.make_artifact(folder / "artifact", key, n_taste=recommender_artifacts.N_TASTE)
    recommender_artifacts.make_taste(repository)
    recommender_artifacts.publish(artifact, key, repository)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1)
    with TritonServer.start(options) as server:
        yield server


@pytest.fixture
def run() -> Run:
    def ran(*arguments: str) -> tuple[int, dict[str, Any], str]:
        command = [sys.executable, "-m", "tritone_cli", "probe", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr

    return ran


def test_every_kind_of_model_answers(everything: TritonServer) -> None:
    with Calls(make_endpoint(everything.grpc_url)) as calls:
        results = probe(calls, timeout_s=20)
    assert [each.why for each in results if not each.ok] == []
    assert {"genre_cnn", "composer", "plain", "recommender", "taste_vae", "recording_recommender"} <= {
        each.model for each in results
    }


def test_every_kind_of_written_music_answers(server: TritonServer, serve_models: Callable[[Path], Path]) -> None:
    served = [music_models.served(kind) for kind in ("polyphony_rnn", "music_transformer", "music_vae", "music_gan")]
    models = [result.model for each in served for result in each.results]
    serve_models(served[0].repository)
    with Calls(make_endpoint(server.grpc_url)) as calls:
        results = probe(calls, models, timeout_s=20)
    assert {each.model for each in results} == set(models)
    assert [each.why for each in results if not each.ok] == []


def test_the_command_says_what_every_model_did(everything: TritonServer, run: Run) -> None:
    code, said, _ = run("--server", everything.grpc_url, "--json", "--timeout", "20")
    assert (code, said["ok"]) == (0, True)
    assert said["models"]["composer"]["version"] == "1"
    code, said, error = run("--server", everything.grpc_url, "--json", "--model", "genre_cnn", "--model", "nothing")
    assert (code, said["ok"]) == (1, False)
    assert said["models"]["genre_cnn"]["ok"]
    assert "unknown model" in said["models"]["nothing"]["why"]
    assert error.count("\n") == 1


def test_no_server_and_wrong_use_have_other_exit_codes(run: Run) -> None:
    code, _, error = run("--server", "127.0.0.1:9", "--timeout", "1")
    assert code == 1
    assert error.startswith("error: the server at 127.0.0.1:9: cannot be reached")
    assert run("--server", "two words")[0] == 2
    code, _, error = run("--server", "http://127.0.0.1:8", "--timeout", "1")  # its gRPC port is the next
    assert code == 1
    assert error.startswith("error: the server at 127.0.0.1:9: cannot be reached")
    assert run("--server", "https://127.0.0.1:8")[0] == 2
    assert run("--unknown")[0] == 2


def test_a_model_that_only_looks_ready_is_found_out(everything: TritonServer) -> None:
    stub = next(each for each in stubs_of(everything.pid) if each.model == "plain")
    with Calls(make_endpoint(everything.grpc_url)) as calls:
        os.kill(stub.pid, signal.SIGKILL)
        (result,) = probe(calls, ["plain"], timeout_s=5)
        assert not result.ok
        assert "not healthy" in result.why
        everything.reload_model("plain")  # what the watchdog would do
        assert probe(calls, ["plain"], timeout_s=5)[0].ok


def test_no_canary_is_answered_from_the_cache(everything: TritonServer) -> None:
    with Calls(make_endpoint(everything.grpc_url)) as calls:
        config = calls.config("genre_cnn", timeout_s=5)
        n_runs = calls.models(timeout_s=5)["genre_cnn"]
        for _ in range(3):
            run_canary(calls, "genre_cnn", config, timeout_s=5)
        assert calls.models(timeout_s=5)["genre_cnn"] == n_runs + 3


def test_answers_are_held_against_the_configuration(everything: TritonServer) -> None:
    with Calls(make_endpoint(everything.grpc_url)) as calls:
        config = calls.config("plain", timeout_s=5)
    assert {name: array.shape for name, array in make_inputs(config).items()} == {"x": (1, 1)}
    for bad, reason in (
        ({}, "lacks output y"),
        ({"y": np.zeros((1, 1), np.int64)}, "is int64; expected float32"),
        ({"y": np.zeros((1, 2), np.float32)}, r"shape \[1, 2\]; expected \[1, 1\]"),
        ({"y": np.full((1, 1), np.nan, np.float32)}, "1 of 1 numbers that are NaN"),
    ):
        with pytest.raises(CanaryError, match=reason):
            check_outputs("plain", config, bad)
    check_outputs("plain", config, {"y": np.zeros((1, 1), np.float32)})


def test_probing_needs_nothing_but_the_server_extra(tmp_path: Path) -> None:
    """What trains and exports is not in the server's image."""
    program = (
        "import sys\n"
        "from tritone_cli.main import build_app\n"
        "try:\n    build_app()(['probe', '--server', '127.0.0.1:9', '--timeout', '0.5'])\n"
        "except SystemExit as ended:\n    assert ended.code == 1\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'lightning', 'tritone_export', 'tritone_training'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stdout.strip() == "[]", ended.stderr
