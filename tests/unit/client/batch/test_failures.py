"""Failures of a batch job: which become rows, which are repeated, and which stop the job."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.batch_jobs import rows
from tests.unit.client.batch.job_server import Server, paths_in, running_threads, write_tone

from tritone import BatchError, FileAccessError, InvalidInputError, ModelNotFoundError, MusicClient, ServerBusyError
from tritone.batch import BatchOptions, BatchProgress, run_batch
from tritone.batch.parts import PartNames
from tritone.constants import COMPOSE_MODEL
from tritone.exceptions import ConnectionFailedError, RequestRejectedError, RequestTimeoutError, ServerError
from tritone.messages import ModelStatistics, Request, StatisticsRequest, StatisticsResponse
from tritone.testing import FakeComposer, FakeServer, MockTransport


def test_busy_answers_are_tried_again_and_never_become_rows(server: Server, tones: Path, tmp_path: Path) -> None:
    def fail(request: Request) -> None:
        if len(server.n_rows) % 3:
            raise ServerBusyError("the queue is full")

    server.fail = fail
    summary = server.run(tones, tmp_path / "out", outage_timeout_s=30.0)
    assert summary.errors == {}
    assert len(rows(tmp_path / "out")) == 10


@pytest.mark.parametrize("error", [ServerBusyError("full"), ConnectionFailedError("refused")])
def test_a_server_that_stays_down_stops_the_job_and_finished_rows_are_kept(
    server: Server, tones: Path, tmp_path: Path, error: Exception
) -> None:
    def fail(request: Request) -> None:
        if len(server.n_rows) > 4:
            raise error

    server.fail, server.row_s = fail, 0.02
    with pytest.raises(BatchError) as caught:
        server.run(tones, tmp_path / "out", concurrency=1)
    assert caught.value.reason == "server"
    found = rows(tmp_path / "out")
    assert len(found) == 4
    assert found["error"].isna().all()
    server.fail = lambda request: None
    assert server.run(tones, tmp_path / "out", resume=True).complete
    assert rows(tmp_path / "out")["path"].tolist() == paths_in(tones)


def test_a_request_that_the_server_rejects_is_a_row(server: Server, tones: Path, tmp_path: Path) -> None:
    write_tone(tones / "quiet.wav", gain=0.1)

    def fail(request: Request) -> None:
        if np.abs(request.inputs["audio"]).max(axis=1).min() < 0.2:
            raise RequestRejectedError("audio: out of range")

    server.fail = fail
    assert server.run(tones, tmp_path / "out").errors == {"rejected": 1}
    assert rows(tmp_path / "out").set_index("path")["error_type"].dropna().to_dict() == {
        f"{tones}/quiet.wav": "rejected"
    }


@pytest.mark.parametrize("error", [RequestTimeoutError("no response"), ServerError("inference failed")])
def test_a_file_that_takes_longer_than_the_outage_limit_is_a_row(
    server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With the default options, three calls of one file take longer than `outage_timeout_s`."""
    write_tone(tones / "quiet.wav", gain=0.1)
    now_s = [0.0]
    monkeypatch.setattr("tritone.batch.failures.time", SimpleNamespace(monotonic=lambda: now_s[0]))

    def fail(request: Request) -> None:
        if np.abs(request.inputs["audio"]).max() < 0.2:
            now_s[0] += 600.0
            raise error

    server.fail, server.row_s = fail, 0.02
    summary = server.run(tones, tmp_path / "out", outage_timeout_s=600.0, timeout_s=600.0, concurrency=1)
    assert summary.complete
    assert summary.errors == {"timeout" if isinstance(error, RequestTimeoutError) else "server_error": 1}
    assert now_s[0] == pytest.approx(1_800.0)


def test_a_server_that_hangs_stops_the_job_without_rows_of_errors(server: Server, tones: Path, tmp_path: Path) -> None:
    def fail(request: Request) -> None:
        server.hangs = True
        raise RequestTimeoutError("no response", timeout_s=1.0)

    server.fail = fail
    with pytest.raises(BatchError) as caught:
        server.run(tones, tmp_path / "out", outage_timeout_s=0.5)
    assert caught.value.reason == "server"
    assert isinstance(caught.value.__cause__, RequestTimeoutError)
    assert not list((tmp_path / "out").glob("*.parquet"))


@pytest.mark.parametrize("operation", ["classify", "embed"])
def test_a_model_that_does_something_else_stops_the_job(tones: Path, tmp_path: Path, operation: str) -> None:
    with MusicClient(transport=MockTransport(FakeServer(FakeComposer())), retries=0) as music:
        job = BatchOptions(
            source=str(tones), out=f"{tmp_path}/part-%05d.parquet", operation=operation, model=COMPOSE_MODEL
        )
        with pytest.raises(BatchError) as caught:
            run_batch(music, job)
    assert caught.value.reason == "arguments"
    assert not list(tmp_path.glob("*.parquet"))


def test_an_invalid_argument_of_all_files_stops_the_job(scores: Path, tmp_path: Path) -> None:
    with MusicClient(transport=MockTransport(FakeServer(FakeComposer())), retries=0) as music:
        job = BatchOptions(
            source=str(scores), out=f"{tmp_path}/part-%05d.parquet", operation="compose", arguments={"bars": 10_000}
        )
        with pytest.raises(BatchError) as caught:
            run_batch(music, job)
    assert caught.value.reason == "arguments"
    assert not list(tmp_path.glob("*.parquet"))


def test_a_file_that_makes_the_server_crash_is_a_row(server: Server, tones: Path, tmp_path: Path) -> None:
    def fail(request: Request) -> None:
        raise ConnectionFailedError("lost", reason="lost", n_lost=1)

    server.fail = fail
    assert server.run(tones, tmp_path / "out", outage_timeout_s=60.0).errors == {"connection_lost": 10}


def test_a_model_that_the_server_does_not_have_is_an_error_at_once(server: Server, tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        server.run(tones, tmp_path / "out", model="no_model")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_full_disk_stops_the_job_and_leaves_nothing_half_written(
    server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".partial" and path.parent == out and "00001" in path.name:
            written(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BatchError) as caught:
        server.run(tones, out, rows_per_part=3)
    assert caught.value.reason == "storage"
    assert not list(out.glob(".*.partial"))
    monkeypatch.undo()
    assert server.run(tones, out, resume=True).complete
    assert rows(out)["path"].tolist() == paths_in(tones)


def test_an_error_of_the_program_ends_the_job(
    server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Request) -> None:
        raise KeyError("a bug")

    server.fail = fail
    with pytest.raises(KeyError):
        server.run(tones, tmp_path / "out")
    assert not running_threads()


def test_rows_before_an_error_of_the_program_are_written(server: Server, tones: Path, tmp_path: Path) -> None:
    def fail(request: Request) -> None:
        if len(server.n_rows) > 4:
            raise KeyError("a bug")

    server.fail, server.row_s = fail, 0.02
    with pytest.raises(KeyError):
        server.run(tones, tmp_path / "out", concurrency=1)
    assert len(rows(tmp_path / "out")) == 4
    assert not running_threads()
    server.fail = lambda request: None
    assert server.run(tones, tmp_path / "out", resume=True).n_new == 6
    assert rows(tmp_path / "out")["path"].tolist() == paths_in(tones)


def test_an_interrupt_writes_the_rows_and_ends_the_threads(server: Server, tones: Path, tmp_path: Path) -> None:
    def interrupt(progress: BatchProgress) -> None:
        if progress.n_done:
            raise KeyboardInterrupt

    server.fail = lambda request: time.sleep(0.2)
    with pytest.raises(KeyboardInterrupt):
        server.run(tones, tmp_path / "out", on_progress=interrupt, concurrency=1)
    assert 0 < len(rows(tmp_path / "out")) < 10
    assert not running_threads()


def test_an_output_that_is_not_available_is_reported_and_a_stop_ends_the_wait(
    server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    waiting_for: list[str | None] = []

    def busy(url: str, content: bytes, **options: Any) -> None:
        raise FileAccessError(f"{url}: busy", url=url, reason="busy")

    def on_progress(progress: BatchProgress) -> None:
        waiting_for.append(progress.waiting_for)
        if progress.waiting_for:
            stop.set()

    monkeypatch.setattr("tritone.batch.parts.write_file", busy)
    monkeypatch.setattr("tritone.batch.runner._PROGRESS_S", 0.0)
    monkeypatch.setattr("tritone.batch.runner._DRAIN_S", 0.5)
    began_s = time.monotonic()
    with pytest.raises(BatchError) as caught:
        server.run(tones, tmp_path / "out", outage_timeout_s=600.0, stop=stop, on_progress=on_progress)
    assert time.monotonic() - began_s < 20
    assert caught.value.reason == "storage"
    assert any(error and error.endswith("busy") for error in waiting_for)


def test_a_server_that_cannot_be_reached_at_the_start_is_reported_at_once(
    server: Server, tones: Path, tmp_path: Path
) -> None:
    def refuse(request: Request) -> Any:
        raise ConnectionFailedError("no connection to localhost:1")

    waiting_for: list[str | None] = []
    server.transport = MockTransport(refuse)
    with pytest.raises(BatchError, match="no successful call"):
        server.run(tones, tmp_path / "out", on_progress=lambda progress: waiting_for.append(progress.waiting_for))
    assert waiting_for[0] == "no connection to localhost:1"


@pytest.mark.parametrize(
    ("options", "yields"),
    [
        ({}, True),
        ({"yield_to_others": False}, False),
        ({"priority": "interactive"}, False),
        ({"shard": (1, 2)}, False),
    ],
)
def test_a_job_yields_to_other_clients_unless_it_cannot_detect_them(
    server: Server,
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: dict[str, Any],
    yields: bool,
) -> None:
    limits: list[int] = []
    count = itertools.count(1_000, 1_000)
    answer = server.transport

    def handle(request: Request) -> Any:
        if isinstance(request, StatisticsRequest):
            return StatisticsResponse((ModelStatistics("genre_cnn", "1", next(count), 1, 0, None),))
        return answer.handle(request, timeout_s=1.0)

    monkeypatch.setattr("tritone.batch.workers._WATCH_S", 0.01)
    monkeypatch.setattr("tritone.batch.runner._PROGRESS_S", 0.0)
    server.transport = MockTransport(handle)
    server.row_s = 0.05
    server.run(
        tones, tmp_path / "out", concurrency=4, on_progress=lambda it: limits.append(it.concurrency_limit), **options
    )
    assert (min(limits) == 1) == yields


@pytest.mark.parametrize(
    "options",
    [
        {"operation": "sing"},
        {"shard": (0, 2)},
        {"shard": (3, 2)},
        {"concurrency": 0},
        {"rows_per_part": 0},
        {"part_s": 0.0},
        {"priority": "high"},
        {"arguments": {"bars": 4}},
        {"operation": "compose", "arguments": {"bar": 4}},
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        BatchOptions(source="a", out="part-%05d.parquet", **options)


@pytest.mark.parametrize("out", ["a.parquet", "a-%d.csv", "a-%d-%d.parquet", "%05d/a.parquet", "a-%s.parquet"])
def test_names_of_parts_need_one_number(out: str) -> None:
    with pytest.raises(InvalidInputError):
        PartNames(out)
