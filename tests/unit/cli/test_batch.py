"""The command `tritone batch`, without a server."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tritone import ConnectionFailedError, InferRequest, MusicClient, RequestRejectedError
from tritone.batch import OPERATIONS, BatchOptions
from tritone.constants import COMPOSE_MODEL
from tritone.messages import Request
from tritone.testing import FakeComposer, FakeGenreModel, FakeServer, MockTransport
from tritone_cli.commands import batch

Run = Callable[..., Any]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the connection of the commands by a fake server, and return what it was given."""
    given: dict[str, Any] = {}
    answer = FakeServer(FakeGenreModel(), FakeComposer())

    def handle(request: Request) -> Any:
        if given.get("down") and isinstance(request, InferRequest):
            raise ConnectionFailedError("refused")
        if given.get("rejects") and isinstance(request, InferRequest):
            raise RequestRejectedError("the model expects something else")
        return answer(request)

    def connect(server: str, *arguments: Any, **options: Any) -> MusicClient:
        given["server"] = server
        return MusicClient(transport=MockTransport(handle), retries=0)

    monkeypatch.setattr(batch.connections, "connect", connect)
    monkeypatch.setattr(batch.os, "setpriority", lambda *arguments: given.update(niceness=arguments[-1]))
    return given


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", np.full(8_000, 0.2), 8_000)
    (folder / "empty.wav").touch()
    return folder


@pytest.mark.parametrize("verb", ["classify", "embed", "predict", "compose", "reconstruct"])
def test_every_operation_has_help(run_tritone: Run, verb: str) -> None:
    ended = run_tritone("batch", verb, "--help")
    assert ended.status == 0
    assert "--resume" in ended.stdout


def test_each_operation_is_a_command_with_its_own_options() -> None:
    assert [command.operation for command in batch.COMMANDS] == list(OPERATIONS)
    for command in batch.COMMANDS:
        operation = OPERATIONS[command.operation]
        limits = ("max_duration",) if operation.reads == "recordings" else ()
        assert command.own_options == (*operation.arguments, *limits)


def test_a_command_has_no_options_of_others(run_tritone: Run, fake: dict[str, Any], recordings: Path) -> None:
    for verb, option in (("classify", "--bars"), ("predict", "--max-duration"), ("compose", "--max-duration")):
        ended = run_tritone("batch", verb, recordings, "--out", recordings / "p-%d.parquet", option, "8")
        assert ended.status == 2
        assert f"No such option: {option}" in ended.stderr


@pytest.mark.parametrize("command", batch.COMMANDS, ids=lambda command: command.operation)
def test_defaults_are_those_of_the_python_interface(command: batch.JobCommand) -> None:
    parameters = inspect.signature(batch.function_of(command)).parameters
    given = {name: parameter.default for name, parameter in parameters.items()}
    expected = {field.name: field.default for field in dataclasses.fields(BatchOptions)}
    names = {
        "part_seconds": "part_s",
        "timeout": "timeout_s",
        "outage_timeout": "outage_timeout_s",
        "max_duration": "max_duration_s",
    }
    same = {name: names.get(name, name) for name in given if names.get(name, name) in expected}
    compared = {name for name in same if name not in ("source", "out", "shard")}
    assert {"rows_per_part", "part_seconds", "concurrency", "priority", "timeout", "outage_timeout"} <= compared
    assert {name: given[name] for name in compared} == {name: expected[same[name]] for name in compared}


def test_a_job_prints_a_summary_and_goes_on(
    run_tritone: Run, fake: dict[str, Any], recordings: Path, tmp_path: Path
) -> None:
    command = ("batch", "classify", recordings, "--out", tmp_path / "out" / "part-%05d.parquet", "--resume")
    level = logging.getLogger("tritone.audio").level
    ended = run_tritone(*command, "--server", "a:1", "--server", "b:1")
    assert logging.getLogger("tritone.audio").level == level  # which the job raises while it runs
    assert ended.status == 0
    assert ended.stdout == ""
    assert "4 of 4 files done, 1 with errors" in ended.stderr
    assert "1 empty" in ended.stderr
    assert fake["server"] == "a:1,b:1"
    assert fake.pop("niceness") >= 10  # the job lets the server and interactive callers of this machine go first
    again = run_tritone(*command, "--json")
    values = json.loads(again.stdout)
    assert (values["n_files"], values["n_done"], values["n_new"], values["complete"]) == (4, 4, 0, True)
    assert values["errors"] == {"empty": 1}
    del fake["niceness"]
    run_tritone(*command, "--priority", "interactive")
    assert "niceness" not in fake
    refused = run_tritone(*command[:-1])
    assert refused.status == 1
    assert "--resume" in refused.stderr


def test_a_length_of_0_is_no_limit(run_tritone: Run, fake: dict[str, Any], recordings: Path, tmp_path: Path) -> None:
    ended = run_tritone("batch", "embed", recordings, "--out", tmp_path / "part-%d.parquet", "--max-duration", 0)
    assert ended.status == 0
    assert json.loads((tmp_path / "part.job.json").read_text())["max_duration_s"] is None


def test_a_server_that_stays_down_ends_the_command_with_status_1(
    run_tritone: Run, fake: dict[str, Any], recordings: Path, tmp_path: Path
) -> None:
    fake["down"] = True
    ended = run_tritone(
        "batch", "embed", recordings, "--out", tmp_path / "part-%05d.parquet", "--outage-timeout", 0.1, "--json"
    )
    assert ended.status == 1
    assert ended.stdout == ""
    assert "run again with --resume" in ended.stderr


def test_a_job_in_which_every_file_fails_ends_with_status_3(
    run_tritone: Run, fake: dict[str, Any], recordings: Path, tmp_path: Path
) -> None:
    fake["rejects"] = True
    command = ("batch", "classify", recordings, "--out", tmp_path / "part-%05d.parquet", "--resume")
    for _ in range(2):
        ended = run_tritone(*command)
        assert ended.status == 3
        assert "every file has an error" in ended.stderr
    assert json.loads(run_tritone(*command, "--json").stdout)["errors"] == {"empty": 1, "rejected": 3}


def test_a_model_that_does_something_else_ends_the_command_with_status_1(
    run_tritone: Run, fake: dict[str, Any], recordings: Path, tmp_path: Path
) -> None:
    ended = run_tritone(
        "batch", "classify", recordings, "--out", tmp_path / "part-%05d.parquet", "--model", COMPOSE_MODEL
    )
    assert ended.status == 1
    assert COMPOSE_MODEL in ended.stderr
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--shard", "0/3"], 1),
        (["--shard", "three"], 2),
        (["--rows-per-part", "0"], 2),
        (["--priority", "high"], 2),
        (["--out", "part.parquet"], 1),
    ],
)
def test_invalid_options_are_errors(
    run_tritone: Run, fake: dict[str, Any], recordings: Path, *, arguments: list[str], status: int
) -> None:
    ended = run_tritone("batch", "classify", recordings, "--out", recordings.parent / "p-%d.parquet", *arguments)
    assert ended.status == status
    assert "Traceback" not in ended.stderr
    assert not list(recordings.parent.glob("*.parquet"))


def test_a_source_that_does_not_exist_is_an_error(run_tritone: Run, fake: dict[str, Any], tmp_path: Path) -> None:
    ended = run_tritone("batch", "classify", tmp_path / "gone", "--out", tmp_path / "p-%d.parquet")
    assert ended.status == 1
    assert "gone: does not exist" in ended.stderr
