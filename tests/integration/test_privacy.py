"""Tests of access to a served recommender by attackers, the operator, users and health checks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.recommender_calls import Client, metric, question, service_key, tensors
from tests.support import recommender_artifacts as models

from benchmarks import attack_privacy_probes as probes
from tritone import MusicClient
from tritone.credentials import default_key_file
from tritone_serving import ModelLoadError, ServerOptions, TritonServer
from tritone_serving.security.callers import mint_token

pytestmark = pytest.mark.triton

VICTIM, OTHER = models.user_id(7), models.user_id(8)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("privacy")
    artifact = models.make_artifact(folder / "artifact", folder / "recommender.key", n_listed=50, arms=("a", "b"))
    models.publish(artifact, folder / "recommender.key", folder / "repository", ensembles=False)
    return folder / "repository"


def started(repository: Path, **options: Any) -> TritonServer:
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    return TritonServer.start(ServerOptions(repository=repository, log_verbose=4, stop_timeout_s=1, **ports, **options))


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[TritonServer]:
    with started(repository) as server:
        yield server


@pytest.fixture(scope="module")
def target(served: TritonServer, repository: Path) -> probes.ProbeTarget:
    return probes.ProbeTarget(
        served.grpc_url,
        served.http_url,
        VICTIM,
        OTHER,
        service_key(),
        repository=repository,
        log=served.log_path,
    )


def user_known(server: TritonServer, headers: dict[str, str], user: str = VICTIM) -> bool:
    client = Client(server, headers=headers)
    try:
        return not client.ask(user_id=user)["unknown"]["user"]
    finally:
        client.close()


# --- the attack -------------------------------------------------------------------------------------------------


def test_no_probe_discloses_anything(target: probes.ProbeTarget) -> None:
    found = probes.run_all(target, n_timed=20)
    assert len(found) > 50
    assert [finding for finding in found if finding.leak] == []


def test_the_probes_find_data_if_callers_are_trusted(repository: Path) -> None:
    """With --trust-callers the same probes find data, which shows that they work."""
    with started(repository, trust_callers=True) as server:
        open_target = probes.ProbeTarget(server.grpc_url, server.http_url, VICTIM, OTHER, service_key())
        leaking = (
            *(probes.membership, probes.history, probes.reasons, probes.friend_reasons),
            *(probes.friend_with_history, probes.rows),
        )
        assert [probe.__name__ for probe in leaking if not probe(open_target).leak] == []
        assert all(finding.leak for finding in probes.credentials(open_target))


# --- who is answered --------------------------------------------------------------------------------------------


def test_a_token_opens_one_users_data_in_every_row(served: TritonServer) -> None:
    token = {"tritone-user-token": mint_token(service_key().encode(), VICTIM)}
    assert user_known(served, token)
    assert not user_known(served, token, OTHER)
    client = Client(served, headers=token)
    answer = client.send({"user_id": [[VICTIM], [OTHER], [VICTIM]], "k": [[3], [3], [3]]})
    client.close()
    assert [row["unknown"]["user"] for row in answer.rows] == [False, True, False]


@pytest.mark.parametrize("name", ["tritone-service-key", "Tritone-Service-Key", "TRITONE-SERVICE-KEY"])
def test_over_http_the_key_opens_in_whatever_case_its_header_is_written(served: TritonServer, name: str) -> None:
    body = {"inputs": [{"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": [VICTIM]}]}
    url = f"{served.http_url}/v2/models/recommender/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), {name: service_key()})  # noqa: S310 - our own
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        outputs = {output["name"]: output["data"] for output in json.loads(answer.read())["outputs"]}
    assert outputs["source"] == ["user"]


def test_the_key_as_a_parameter_is_the_same_credential(served: TritonServer) -> None:
    client = Client(served, headers={})
    answer = client.send({"user_id": [[VICTIM]]}, parameters={"tritone-service-key": service_key()})
    client.close()
    assert answer["source"] == "user"


def test_sdk_and_command_line_find_the_operators_key(served: TritonServer) -> None:
    for url in (served.grpc_url, served.http_url):
        with MusicClient(url) as music:
            assert music.recommend(VICTIM).source == "user"
            assert music.recommend(friends=[VICTIM, OTHER]).source == "friends"
            token = mint_token(service_key().encode(), OTHER)
            assert music.recommend(VICTIM, user_token=token).unknown.user
        with MusicClient(url, service_key="") as music:
            assert music.recommend(VICTIM).unknown.user
    command = [
        sys.executable,
        "-m",
        "tritone_cli",
        "recommend",
        "--user",
        VICTIM,
        "--server",
        served.grpc_url,
        "--json",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["source"] == "user"
    default_key_file().chmod(0o644)
    try:
        with MusicClient(served.grpc_url) as music:
            assert music.recommend(VICTIM).unknown.user
        # The server does not use a key that others could have read either.
        assert not user_known(served, {"tritone-service-key": service_key()})
    finally:
        default_key_file().chmod(0o600)
    assert user_known(served, {"tritone-service-key": service_key()})


def test_a_key_is_replaced_without_a_restart_and_a_missing_one_opens_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "mounted.key"
    monkeypatch.setenv("TRITONE_SERVICE_KEY_FILE", str(key_file))
    first, second = "1" * 40, "2" * 40
    with started(repository) as server:
        assert not user_known(server, {"tritone-service-key": first})
        assert not user_known(server, {"tritone-service-key": ""})
        for key in (first, second):
            partial = tmp_path / "new"
            partial.write_text(key)
            partial.chmod(0o600)
            partial.replace(key_file)
            assert user_known(server, {"tritone-service-key": key})
        assert not user_known(server, {"tritone-service-key": first})
        log = server.log_path.read_text()
        assert "every user is treated as unknown" in log
        assert not any(key in log for key in (first, second))


def test_a_server_with_a_response_cache_on_histories_does_not_load(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    with (copy / "recommender" / "config.pbtxt").open("a") as file:
        file.write("\nresponse_cache { enable: true }\n")
    with pytest.raises(ModelLoadError, match="response_cache is enabled"):
        started(copy)


# --- health checks ----------------------------------------------------------------------------------------------


def test_health_checks_are_answered_and_not_counted(served: TritonServer) -> None:
    names = ("answers_total", "refused_total", "calls_total", "seconds_total", "base_model_calls_total")
    client = Client(served)
    client.ask(user_id=VICTIM)
    before = {name: metric(served, name, model="recommender") for name in names}
    canary = {"tritone_canary": True}
    for rows in ({"k": [[1]]}, {"user_id": [[VICTIM]]}, {"similar_to": [["track-1"]]}):
        assert client.send(rows, parameters=canary)["item_ids"]
    with pytest.raises(Exception, match=r"invalid k: .*, got 0"):
        client.send({"k": [[0]]}, parameters=canary)
    assert {name: metric(served, name, model="recommender") for name in names} == before
    client.send({"k": [[1]]}, parameters={"tritone_canary": "true"})
    client.close()
    assert metric(served, "answers_total", model="recommender") == before["answers_total"] + 1


def test_health_checks_beside_traffic_leave_its_counts_right(served: TritonServer) -> None:
    client = Client(served)
    before = metric(served, "answers_total", model="recommender")
    results: list[Any] = []
    for number in range(60):
        parameters = {"tritone_canary": True} if number % 3 == 0 else None
        client._client.async_infer(
            "recommender",
            tensors(question(history=["track-1"], k=3)),
            lambda result, error: results.append(error or result),
            parameters=parameters,
        )
    deadline = time.monotonic() + 30
    while len(results) < 60 and time.monotonic() < deadline:
        time.sleep(0.02)
    client.close()
    assert len(results) == 60
    assert metric(served, "answers_total", model="recommender") == before + 40


def test_no_secret_is_in_the_log_or_on_a_command_line(served: TritonServer) -> None:
    key, token = service_key(), mint_token(service_key().encode(), VICTIM)
    user_known(served, {"tritone-service-key": key})
    user_known(served, {"tritone-user-token": token})
    log = served.log_path.read_text(errors="replace")
    assert key not in log
    assert token not in log
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == served.pid:
                assert key.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except (ProcessLookupError, FileNotFoundError, PermissionError):
            continue
