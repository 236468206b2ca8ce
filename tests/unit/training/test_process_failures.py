"""Several processes that cannot train together: one message, an exit status, and nothing that waits for ever."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from tests.support.torchrun import environment, run_on_two_hosts, torchrun
from tests.unit.training.small_data import write_log

from tritone_training import TrainingError, checkpoint, fitting, get_kind, processes
from tritone_training.kind import TrainRequest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


def command(log: Path, out: Path, *more: str) -> Sequence[str]:
    settings = ("--preset", "tiny", "--set", "batch_size=4", "--set", "patience=500", "--max-epochs", "60")
    return ("-m", "tritone_training", "train", "taste_vae", "--data", str(log), "--out", str(out), *settings, *more)


def workers_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the training by rank."""
    found = [each for each in psutil.Process(launcher.pid).children() if "RANK" in each.environ()]
    return sorted(found, key=lambda each: int(each.environ()["RANK"]))


def wait_for_epochs(launcher: subprocess.Popen[str], out: Path, n_epochs: int) -> None:
    """Wait until so many epochs are saved."""
    table = out / "logs" / "metrics.csv"
    until = time.monotonic() + 90
    while not table.is_file() or len(table.read_text().splitlines()) <= n_epochs:
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    with torchrun(2, *command(tmp_path / "no.csv", tmp_path / "out")) as launcher:
        output, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 1
    assert (output + errors).count("no.csv") == 1
    assert "Traceback" not in errors.split("torch.distributed.elastic")[0].partition("error:")[0]
    assert not (tmp_path / "out").exists()


def test_a_killed_process_ends_all_and_the_training_is_resumed_by_as_many(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with torchrun(2, *command(log, out)) as launcher:
        wait_for_epochs(launcher, out, 3)
        workers_of(launcher)[1].kill()
        launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    request = TrainRequest(out, data=log, preset="tiny", max_epochs=60, progress=False, resume=True)
    with pytest.raises(TrainingError, match="n_processes was 2, is now 1"):
        get_kind("taste_vae").train(
            TrainRequest(**{**vars(request), "overrides": {"batch_size": 4, "patience": 500}, "data": log})
        )
    with torchrun(2, *command(log, out, "--resume", "--json")) as launcher:
        output, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert output.count('"n_epochs": 60') == 1
    with (out / "logs" / "metrics.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(60))
    with torchrun(2, *command(log, tmp_path / "whole")) as whole:
        _, errors = whole.communicate(timeout=100)
    assert whole.returncode == 0, errors
    ours, theirs = (checkpoint.load(each, kind="taste_vae").weights for each in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_torchrun_restarts_a_killed_process(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with torchrun(2, *command(log, out, "--resume"), options=("--standalone", "--max-restarts=1")) as launcher:
        wait_for_epochs(launcher, out, 3)
        workers_of(launcher)[1].kill()
        _, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, errors
    assert checkpoint.read_info(out)["n_epochs"] == 60


def test_a_process_that_stops_responding_is_named(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # On a busy machine, one process starts seconds after the other.
    with torchrun(2, *command(log, out), TRITONE_PROCESSES_TIMEOUT_S="15") as launcher:
        wait_for_epochs(launcher, out, 2)
        stopped = workers_of(launcher)[1]
        stopped.suspend()
        resume = threading.Timer(30, stopped.resume)  # so that it ends at torchrun's request
        resume.start()
        _, errors = launcher.communicate(timeout=100)
        resume.join()
    assert launcher.returncode == 1
    # Either an operation of torch or an exchange over the store notices it first.
    expected = "error: process 1 of 0 to 1 (ended or )?did not respond within 15 s"
    assert re.search(expected, " ".join(errors.split())), errors
    assert (out / "unfinished" / "fit.ckpt").is_file()


def test_a_process_that_does_not_start_is_named(log: Path, tmp_path: Path) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    more = {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
        "TRITONE_PROCESSES_TIMEOUT_S": "2",
    }
    done = subprocess.run(
        [sys.executable, *command(log, tmp_path / "out")],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "processes 1, 2 of 0 to 2 did not start within 2 s" in " ".join(done.stderr.split())


def test_processes_with_other_data_are_refused(log: Path, tmp_path: Path) -> None:
    other = tmp_path / "plays.csv"
    other.write_text("".join(log.read_text().splitlines(keepends=True)[:-9]))
    out = tmp_path / "out"
    ended = run_on_two_hosts(command(log, out), command(other, out))
    assert [status for status, _ in ended] == [1, 1]
    messages = " ".join("".join(output for _, output in ended).split())
    assert messages.count("fit: data and settings: expected the same in all 2 processes, got another in process 1") == 1
    assert not out.exists()


def test_hosts_with_different_numbers_of_processes_are_refused(log: Path, tmp_path: Path) -> None:
    began_s = time.monotonic()
    ended = run_on_two_hosts(command(log, tmp_path / "a"), command(log, tmp_path / "b"), n_processes=(1, 2))
    assert time.monotonic() - began_s < 60  # no process waits for TRITONE_PROCESSES_TIMEOUT_S
    assert [status for status, _ in ended] == [1, 1]
    messages = " ".join("".join(output for _, output in ended).split())
    assert messages.count("--nproc-per-node: expected the same in all 3 processes, got another in process") == 1
    assert not (tmp_path / "a").exists()


def test_kinds_and_commands_for_one_process_are_refused(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--data", str(log), "--preset", "tiny", "--out", str(tmp_path / "out"))
    with torchrun(1, "-m", "tritone_training", "train", "recommender", *arguments) as launcher:
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert "recommender: cannot be trained by several processes" in " ".join(errors.split())
    with torchrun(1, "-m", "tritone_training", "tune", "taste_vae") as launcher:
        _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert "expected `python -m tritone_training train KIND ...`, got tune" in errors
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(TrainingError, match="torchrun: expected `train KIND`"):
        fitting.processes_of(TrainRequest(tmp_path))


@pytest.mark.parametrize("text", ["0", "soon", "1e9", "nan"])
def test_a_timeout_out_of_range_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TRITONE_PROCESSES_TIMEOUT_S", text)
    with (
        pytest.raises(TrainingError, match="TRITONE_PROCESSES_TIMEOUT_S: expected 1 to 86400 seconds"),
        processes.join_training_group(),
    ):
        pass
