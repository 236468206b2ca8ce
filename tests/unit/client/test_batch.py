"""Batch jobs with a fake server: each file becomes one row, whatever happens."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.support.s3_server import s3_server, use_store
from tests.unit.client.batch_jobs import SHARES, Server, paths_in, rows, write_tone
from tests.unit.client.writers import FakeWriters

from tritone import (
    BatchError,
    FileAccessError,
    Grid,
    InvalidInputError,
    ModelNotFoundError,
    MusicClient,
    Piece,
    ServerBusyError,
)
from tritone.atomic import replacing
from tritone.batch import OPERATIONS, BatchOptions, BatchProgress, run_batch
from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter, LimitedTransport
from tritone.batch.parts import PartNames
from tritone.constants import COMPOSE_MODEL
from tritone.exceptions import ConnectionFailedError, RequestRejectedError, RequestTimeoutError, ServerError
from tritone.messages import InferRequest, InferResponse, Request
from tritone.music.scores import to_grid
from tritone.remote_files import STAGED_SUFFIX, filesystem, write_file
from tritone.testing import FakeComposer, FakeServer, MockTransport


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("tritone.batch.failures._FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("tritone.batch.failures._LONGEST_PAUSE_S", 0.05)
    return Server()


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    for number in range(10):
        write_tone(folder / ("sub" if number % 2 else ".") / f"{number}.wav")
    return folder


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    folder = tmp_path / "scores"
    folder.mkdir()
    for number in range(3):
        frames = np.zeros((32, 88), np.uint8)
        frames[4 * number, 40 + number] = 1
        Piece(Grid(frames)).save(folder / f"{number}.mid")
    (folder / "text.mid").write_text("no music")
    return folder


def leave_staged(path: Path) -> None:
    """Leave a temporary file, as a process that is killed while it writes `path`."""
    with replacing(path, staged_suffix=STAGED_SUFFIX, if_exists="keep") as staged:
        os.link(staged, path.with_name("kept"))
    path.with_name("kept").rename(staged)
    path.unlink()


def running_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tritone-batch-")]


class TestRows:
    def test_every_file_becomes_one_row(self, server: Server, tones: Path, tmp_path: Path) -> None:
        summary = server.run(tones, tmp_path / "out")
        found = rows(tmp_path / "out")
        assert found["path"].tolist() == paths_in(tones)
        assert found["error"].isna().all()
        assert set(found["label"]) == {"rock"}
        assert found["probabilities"][0] == pytest.approx(SHARES)
        assert found["duration_s"].tolist() == pytest.approx([1.0] * 10)
        assert (summary.n_files, summary.n_done, summary.n_new, summary.errors) == (10, 10, 10, {})
        assert summary.complete
        assert summary.hours_done == pytest.approx(10 / 3_600)

    def test_embeddings_are_lists_of_numbers(self, server: Server, tones: Path, tmp_path: Path) -> None:
        server.run(tones, tmp_path / "out", operation="embed")
        found = rows(tmp_path / "out")
        assert np.linalg.norm(found["embedding"][3]) == pytest.approx(1.0, abs=1e-5)
        assert set(OPERATIONS["embed"].all_columns) == set(found.columns)

    def test_what_is_wrong_with_a_file_is_in_its_row(self, server: Server, tones: Path, tmp_path: Path) -> None:
        (tones / "empty.wav").touch()
        (tones / "text.wav").write_text("no audio")
        (tones / "cut.wav").write_bytes((tones / "0.wav").read_bytes()[:5_000])
        write_tone(tones / "short.wav", 0.1)
        write_tone(tones / "long.wav", 20.0)
        soundfile.write(tones / "silent.wav", np.zeros(8_000), 8_000)
        (tones / "gone.wav").symlink_to(tones / "nothing")
        summary = server.run(tones, tmp_path / "out", max_duration_s=15.0)
        found = rows(tmp_path / "out").set_index("path")
        kinds = {Path(path).name: kind for path, kind in found["error_type"].dropna().items()}
        assert kinds == {
            "empty.wav": "empty",
            "text.wav": "unreadable",
            "cut.wav": "too_short",
            "short.wav": "too_short",
            "long.wav": "too_long",
            "silent.wav": "silent",
            "gone.wav": "missing",
        }
        assert found["error"].notna().sum() == found["label"].isna().sum() == 7
        assert summary.errors["too_short"] == 2
        assert summary.complete

    def test_a_file_that_vanishes_after_the_start_gets_a_row(self, server: Server, tones: Path, tmp_path: Path) -> None:
        server.fail = lambda request: (tones / "sub" / "9.wav").unlink(missing_ok=True)
        server.run(tones, tmp_path / "out", concurrency=1)
        found = rows(tmp_path / "out")
        assert len(found) == 10
        assert found["error_type"].dropna().tolist() == ["missing"]

    def test_names_that_are_not_utf8_are_escaped(self, server: Server, tones: Path, tmp_path: Path) -> None:
        (tones / "0.wav").rename(os.fsdecode(os.fsencode(tones) + b"/caf\xe9.wav"))
        Path(os.fsdecode(os.fsencode(tones) + b"/bad\xe9.wav")).touch()
        server.run(tones, tmp_path / "out")
        assert f"{tones}/caf\\xe9.wav" in rows(tmp_path / "out")["path"].tolist()
        server.run(tones, tmp_path / "out", resume=True)
        assert len(rows(tmp_path / "out")) == 11

    def test_parts_have_the_same_schema_and_are_bounded(self, server: Server, tones: Path, tmp_path: Path) -> None:
        for number in range(4):
            (tones / f"bad{number}.wav").touch()
        server.run(tones, tmp_path / "out", rows_per_part=2, concurrency=1)
        parts = sorted((tmp_path / "out").glob("*.parquet"))
        schemas = {
            str(duckdb.sql(f"SELECT name, type, repetition_type FROM parquet_schema('{part}')").fetchall())  # noqa: S608
            for part in parts
        }
        assert len(parts) >= 7
        assert len(schemas) == 1
        assert max(len(pd.read_parquet(part, engine="fastparquet")) for part in parts) <= 2

    def test_long_recordings_are_sent_in_small_requests(self, server: Server, tmp_path: Path) -> None:
        write_tone(tmp_path / "in" / "long.wav", 60.0)
        server.fail = lambda request: time.sleep(0.02 * len(request.inputs["audio"]))
        server.run(tmp_path / "in", tmp_path / "out")
        assert max(server.n_rows) <= 2
        assert rows(tmp_path / "out")["duration_s"][0] == pytest.approx(60.0)


class TestScores:
    @pytest.mark.parametrize(
        ("operation", "arguments", "schema"),
        [
            ("predict", {}, {"nll_per_frame": "DOUBLE", "n_frames": "BIGINT"}),
            ("compose", {"bars": 2}, {"midi": "BLOB", "seed": "BIGINT"}),
            ("reconstruct", {}, {"midi": "BLOB", "seed": "BIGINT"}),
        ],
    )
    def test_operations_on_scores(
        self, scores: Path, tmp_path: Path, operation: str, arguments: dict[str, Any], schema: dict[str, str]
    ) -> None:
        with MusicClient(transport=FakeWriters(), retries=0) as music:
            for out in ("a", "b"):
                summary = run_batch(
                    music,
                    BatchOptions(
                        source=str(scores),
                        out=f"{tmp_path / out}/part-%05d.parquet",
                        operation=operation,
                        arguments=arguments,
                    ),
                )
                assert summary.errors == {"not_midi": 1}
            found = rows(tmp_path / "a").dropna(subset="model")
            assert len(found) == 3
            assert found["model"].eq(OPERATIONS[operation].model).all()
            assert found["model_version"].eq("3").all()
            table = duckdb.sql(f"DESCRIBE FROM read_parquet('{tmp_path}/a/part-*.parquet')").fetchall()
            assert {name: kind for name, kind, *_ in table} == {
                **dict.fromkeys(("path", "error", "error_type", "model", "model_version"), "VARCHAR"),
                **schema,
            }
            for row in found.itertuples():
                if operation == "predict":
                    expected = music.predict(row.path)
                    assert (row.nll_per_frame, row.n_frames) == pytest.approx(
                        (expected.nll_per_frame, expected.n_frames)
                    )
                    continue
                call = {
                    "compose": partial(music.compose, prompt=row.path, bars=2),
                    "reconstruct": partial(music.reconstruct, row.path),
                }[operation]
                again = io.BytesIO()
                call(seed=row.seed).save(again, format="mid")
                assert bytes(row.midi) == again.getvalue()
                assert to_grid(bytes(row.midi)).frames.any()
            assert rows(tmp_path / "b").drop(columns="error").equals(rows(tmp_path / "a").drop(columns="error"))
            if operation != "predict":
                assert found["seed"].is_unique


class TestManifestsAndShards:
    def test_a_manifest_names_files_relative_to_itself(self, server: Server, tones: Path, tmp_path: Path) -> None:
        (tones / "list.csv").write_text("title,path\na,0.wav\nb,sub/1.wav\nc,0.wav\nd,nothing.wav\n")
        (tones / "list.txt").write_text(f"\ufeff0.wav\r\n\r\n{tones}/2.wav\n", encoding="utf-8")
        summary = server.run(tones / "list.csv", tmp_path / "csv")
        assert summary.n_files == 3  # a repeated file is one file
        found = rows(tmp_path / "csv")
        assert found["path"].tolist() == [f"{tones}/{name}" for name in ("0.wav", "nothing.wav", "sub/1.wav")]
        assert found["error_type"].dropna().tolist() == ["missing"]
        assert server.run(tones / "list.txt", tmp_path / "txt").n_files == 2

    @pytest.mark.parametrize("content", [b"file\na.wav\n", b"path\n\xff\xfe\n", b"path\n"])
    def test_a_manifest_that_cannot_be_read_is_an_error(self, server: Server, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises((InvalidInputError, FileAccessError)):
            server.run(tmp_path / "list.csv", tmp_path / "out")
        assert not list((tmp_path / "out").glob("*.parquet"))

    def test_shards_share_a_folder_and_have_all_files_once(self, server: Server, tones: Path, tmp_path: Path) -> None:
        counts = [
            server.run(tones, tmp_path / "out", shard=(k, 3), rows_per_part=2, resume=True).n_new for k in (1, 2, 3)
        ]
        assert sum(counts) == 10
        assert max(counts) < 10
        assert rows(tmp_path / "out")["path"].tolist() == paths_in(tones)
        for shard in ((1, 1), (1, 2)):
            with pytest.raises(BatchError) as caught:
                server.run(tones, tmp_path / "out", shard=shard, resume=True)
            assert caught.value.reason == "other_job"

    def test_the_output_may_be_in_the_folder_of_the_recordings(self, server: Server, tones: Path) -> None:
        server.run(tones, tones, shard=(1, 2))
        summary = server.run(tones, tones, shard=(2, 2))
        assert summary.errors == {}
        assert len(rows(tones)) == 10


class TestResume:
    def interrupted(self, server: Server, source: Path, out: Path, n: int, **options: Any) -> Any:
        """Stop a job after `n` inferences."""
        stop = threading.Event()

        def fail(request: Request) -> None:
            if len(server.n_rows) >= n:
                stop.set()

        server.fail, server.row_s = fail, 0.02
        summary = server.run(source, out, stop=stop, concurrency=1, **options)
        server.fail, server.row_s = (lambda request: None), 0.0
        return summary

    def test_a_stopped_job_writes_what_is_done_and_goes_on(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        first = self.interrupted(server, tones, out, 3)
        assert not first.complete
        assert 3 <= first.n_done < 10
        assert len(rows(out)) == first.n_done
        second = server.run(tones, out, resume=True)
        assert (second.n_new, second.n_done, second.complete) == (10 - first.n_done, 10, True)
        assert rows(out)["path"].tolist() == paths_in(tones)
        third = server.run(tones, out, resume=True)
        assert (third.n_new, third.n_parts, third.complete) == (0, 0, True)

    def test_rows_whose_part_was_lost_are_made_again(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        server.run(tones, out, rows_per_part=3)
        sorted(out.glob("*.parquet"))[1].unlink()
        assert server.run(tones, out, resume=True).n_new > 0
        assert rows(out)["path"].tolist() == paths_in(tones)

    def test_temporary_files_of_a_killed_process_are_removed(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.interrupted(server, tones, out, 3)
        (out / ".part-00001-0123456789ab.partial").write_bytes(b"PAR1 half")
        server.run(tones, out, resume=True)
        assert not list(out.glob(".*.partial"))

    @pytest.mark.parametrize("name", ["part.job.json", "part.files.jsonl.gz", "part-00000.parquet"])
    def test_temporary_files_of_a_process_killed_at_the_start_are_removed(
        self, server: Server, tones: Path, tmp_path: Path, name: str
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        leave_staged(out / name)
        server.run(tones, out, resume=True)
        assert not list(out.glob(f".*{STAGED_SUFFIX}"))

    def test_temporary_files_of_long_names_are_removed(self, server: Server, tones: Path, tmp_path: Path) -> None:
        job = BatchOptions(source=str(tones), out=f"{tmp_path}/{'n' * 60}-%05d.parquet", resume=True)
        leave_staged(Path(PartNames(job.out).url(0)))
        leave_staged(Path(PartNames(job.out).url(1)))
        with MusicClient(transport=server.transport, retries=0) as music:
            assert run_batch(music, job).complete
        assert len(list(tmp_path.glob(f".*{STAGED_SUFFIX}"))) == 1  # another job may be writing the other one

    def test_temporary_files_of_another_shard_are_kept(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        for number in (0, 1):
            (out / f".part-0000{number}-0123456789ab.partial").touch()
        server.run(tones, out, shard=(1, 2), resume=True)
        assert [path.name[:11] for path in out.glob(".*.partial")] == [".part-00001"]

    def test_files_added_later_belong_to_another_job(self, server: Server, tones: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.interrupted(server, tones, out, 3)
        write_tone(tones / "new.wav")
        assert server.run(tones, out, resume=True).n_files == 10

    def test_parts_of_an_earlier_job_are_not_added_to_by_mistake(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        server.run(tones, out)
        for options, reason in (
            ({}, "not_resumed"),
            ({"resume": True, "operation": "embed"}, "other_job"),
            ({"resume": True, "model": "other"}, "other_job"),
            ({"resume": True, "max_duration_s": 5.0}, "other_job"),
        ):
            with pytest.raises(BatchError) as caught:
                server.run(tones, out, **options)
            assert caught.value.reason == reason
        with pytest.raises(BatchError) as caught:
            server.run(tones / "sub", out, resume=True)
        assert caught.value.reason == "other_job"
        (out / "part.job.json").unlink()
        with pytest.raises(BatchError) as caught:
            server.run(tones, out, resume=True)
        assert caught.value.reason == "other_job"

    @pytest.mark.parametrize("damage", ["part-00000.parquet", "part.job.json", "part.files.jsonl.gz"])
    @pytest.mark.parametrize("content", [b"", b"half", None])
    def test_a_damaged_file_of_a_job_stops_it(
        self, server: Server, tones: Path, tmp_path: Path, damage: str, content: bytes | None
    ) -> None:
        out = tmp_path / "out"
        server.run(tones, out)
        whole = (out / damage).read_bytes()
        (out / damage).write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(BatchError) as caught:
            server.run(tones, out, resume=True)
        assert caught.value.reason == "damaged"

    def test_a_row_that_is_repeated_in_another_part_is_reported(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        server.run(tones, out)
        shutil.copy(out / "part-00000.parquet", out / "part-00007.parquet")
        with pytest.raises(BatchError) as caught:
            server.run(tones, out, resume=True)
        assert caught.value.reason == "damaged"

    def test_two_processes_do_not_write_the_same_parts(self, server: Server, tones: Path, tmp_path: Path) -> None:
        import fcntl

        out = tmp_path / "out"
        out.mkdir()
        with (out / ".part.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(BatchError) as caught:
                server.run(tones, out)
        assert caught.value.reason == "running"

    def test_a_file_system_without_locks_is_not_another_process(
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_locks(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr("fcntl.flock", no_locks)
        with pytest.raises(FileAccessError) as caught:
            server.run(tones, tmp_path / "out")
        assert "No locks available" in str(caught.value)


class TestFailures:
    def test_busy_answers_are_tried_again_and_never_become_rows(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        def fail(request: Request) -> None:
            if len(server.n_rows) % 3:
                raise ServerBusyError("the queue is full")

        server.fail = fail
        summary = server.run(tones, tmp_path / "out", retry_s=30.0)
        assert summary.errors == {}
        assert len(rows(tmp_path / "out")) == 10

    @pytest.mark.parametrize("error", [ServerBusyError("full"), ConnectionFailedError("refused")])
    def test_a_server_that_stays_down_stops_the_job_and_finished_rows_are_kept(
        self, server: Server, tones: Path, tmp_path: Path, error: Exception
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

    def test_a_request_that_the_server_rejects_is_a_row(self, server: Server, tones: Path, tmp_path: Path) -> None:
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
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        """With the default options, three calls of one file take longer than `retry_s`."""
        write_tone(tones / "quiet.wav", gain=0.1)
        now_s = [0.0]
        monkeypatch.setattr("tritone.batch.failures.time", SimpleNamespace(monotonic=lambda: now_s[0]))

        def fail(request: Request) -> None:
            if np.abs(request.inputs["audio"]).max() < 0.2:
                now_s[0] += 600.0
                raise error

        server.fail, server.row_s = fail, 0.02
        summary = server.run(tones, tmp_path / "out", retry_s=600.0, timeout_s=600.0, concurrency=1)
        assert summary.complete
        assert summary.errors == {"timeout" if isinstance(error, RequestTimeoutError) else "server_error": 1}
        assert now_s[0] == pytest.approx(1_800.0)

    def test_a_server_that_hangs_stops_the_job_without_rows_of_errors(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        def fail(request: Request) -> None:
            server.hangs = True
            raise RequestTimeoutError("no response", timeout_s=1.0)

        server.fail = fail
        with pytest.raises(BatchError) as caught:
            server.run(tones, tmp_path / "out", retry_s=0.5)
        assert caught.value.reason == "server"
        assert isinstance(caught.value.__cause__, RequestTimeoutError)
        assert not list((tmp_path / "out").glob("*.parquet"))

    @pytest.mark.parametrize("operation", ["classify", "embed"])
    def test_a_model_that_does_something_else_stops_the_job(self, tones: Path, tmp_path: Path, operation: str) -> None:
        with MusicClient(transport=MockTransport(FakeServer(FakeComposer())), retries=0) as music:
            job = BatchOptions(
                source=str(tones), out=f"{tmp_path}/part-%05d.parquet", operation=operation, model=COMPOSE_MODEL
            )
            with pytest.raises(BatchError) as caught:
                run_batch(music, job)
        assert caught.value.reason == "arguments"
        assert not list(tmp_path.glob("*.parquet"))

    def test_an_invalid_argument_of_all_files_stops_the_job(self, scores: Path, tmp_path: Path) -> None:
        with MusicClient(transport=MockTransport(FakeServer(FakeComposer())), retries=0) as music:
            job = BatchOptions(
                source=str(scores), out=f"{tmp_path}/part-%05d.parquet", operation="compose", arguments={"bars": 10_000}
            )
            with pytest.raises(BatchError) as caught:
                run_batch(music, job)
        assert caught.value.reason == "arguments"
        assert not list(tmp_path.glob("*.parquet"))

    def test_a_file_that_makes_the_server_crash_is_a_row(self, server: Server, tones: Path, tmp_path: Path) -> None:
        def fail(request: Request) -> None:
            raise ConnectionFailedError("lost", reason="lost", n_lost=1)

        server.fail = fail
        assert server.run(tones, tmp_path / "out", retry_s=60.0).errors == {"connection_lost": 10}

    def test_a_model_that_the_server_does_not_have_is_an_error_at_once(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelNotFoundError):
            server.run(tones, tmp_path / "out", model="no_model")
        assert not list((tmp_path / "out").glob("*.parquet"))

    def test_a_full_disk_stops_the_job_and_leaves_nothing_half_written(
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(request: Request) -> None:
            raise KeyError("a bug")

        server.fail = fail
        with pytest.raises(KeyError):
            server.run(tones, tmp_path / "out")
        assert not running_threads()

    def test_rows_before_an_error_of_the_program_are_written(self, server: Server, tones: Path, tmp_path: Path) -> None:
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

    def test_an_interrupt_writes_the_rows_and_ends_the_threads(
        self, server: Server, tones: Path, tmp_path: Path
    ) -> None:
        def interrupt(progress: BatchProgress) -> None:
            if progress.n_done:
                raise KeyboardInterrupt

        server.fail = lambda request: time.sleep(0.2)
        with pytest.raises(KeyboardInterrupt):
            server.run(tones, tmp_path / "out", on_progress=interrupt, concurrency=1)
        assert 0 < len(rows(tmp_path / "out")) < 10
        assert not running_threads()

    def test_an_output_that_is_not_available_is_reported_and_a_stop_ends_the_wait(
        self, server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            server.run(tones, tmp_path / "out", retry_s=600.0, stop=stop, on_progress=on_progress)
        assert time.monotonic() - began_s < 20
        assert caught.value.reason == "storage"
        assert any(error and error.endswith("busy") for error in waiting_for)

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
    def test_invalid_options_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError):
            BatchOptions(source="a", out="part-%05d.parquet", **options)

    @pytest.mark.parametrize("out", ["a.parquet", "a-%d.csv", "a-%d-%d.parquet", "%05d/a.parquet", "a-%s.parquet"])
    def test_names_of_parts_need_one_number(self, out: str) -> None:
        with pytest.raises(InvalidInputError):
            PartNames(out)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


class TestBuckets:
    def test_recordings_and_parts_in_a_bucket(
        self, server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        use_store(monkeypatch, store)
        filesystem("s3://any").call_s3("create_bucket", Bucket="music")
        for path in paths_in(tones):
            write_file(f"s3://music/in/{Path(path).relative_to(tones)}", Path(path).read_bytes())
        write_file("s3://music/in/bad.wav", b"no audio")
        stop = threading.Event()
        server.fail, server.row_s = (lambda request: stop.set() if len(server.n_rows) > 3 else None), 0.02
        first = server.run("s3://music/in/", "s3://music/out", stop=stop, concurrency=1)
        assert 0 < first.n_done < 11
        server.fail = lambda request: None
        second = server.run("s3://music/in/", "s3://music/out", resume=True)
        assert second.complete
        assert second.errors == {"unreadable": 1}
        for name in filesystem("s3://any").ls("music/out"):
            filesystem("s3://any").get(name, str(tmp_path / "copy" / Path(name).name))
        found = rows(tmp_path / "copy")
        names = [f"s3://music/in/{Path(path).relative_to(tones)}" for path in paths_in(tones)]
        assert found["path"].tolist() == sorted([*names, "s3://music/in/bad.wav"])
        error = found.set_index("path")["error"]["s3://music/in/bad.wav"]
        assert error.startswith("s3://music/in/bad.wav: ")

    def test_a_second_process_in_a_bucket_does_not_replace_parts(
        self, server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_store(monkeypatch, store)
        filesystem("s3://any").call_s3("create_bucket", Bucket="two")

        def fail(request: Request) -> None:  # the other process writes the first part meanwhile
            if not filesystem("s3://any").exists("two/part-00000.parquet"):
                write_file("s3://two/part-00000.parquet", b"of the other process")

        server.fail = fail
        with pytest.raises(BatchError) as caught:
            server.run(tones, "s3://two")
        assert caught.value.reason == "running"

    def test_a_part_whose_response_was_lost_is_written_once(
        self, server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_store(monkeypatch, store)
        filesystem("s3://any").call_s3("create_bucket", Bucket="lost")
        lost: list[str] = []

        def write_and_lose(url: str, content: bytes, **options: Any) -> None:
            write_file(url, content, **options)
            if url not in lost and url.endswith(".parquet"):
                lost.append(url)
                raise FileAccessError(f"{url}: no response", url=url, reason="unreachable")

        monkeypatch.setattr("tritone.batch.parts.write_file", write_and_lose)
        summary = server.run(tones, "s3://lost", retry_s=30.0)
        assert summary.complete
        assert lost
        assert server.run(tones, "s3://lost", resume=True).n_new == 0

    def test_credentials_that_expire_stop_the_job_without_rows_of_errors(
        self, server: Server, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        use_store(monkeypatch, store)
        filesystem("s3://any").call_s3("create_bucket", Bucket="expiring")
        for number in range(3):
            write_file(f"s3://expiring/{number}.wav", write_tone(tmp_path / "a.wav").read_bytes())

        def expired(url: str) -> Any:
            raise FileAccessError(f"{url}: expired", url=url, reason="expired_credentials")

        monkeypatch.setattr("tritone.batch.file_calls.open_file", expired)
        with pytest.raises(BatchError) as caught:
            server.run("s3://expiring/", tmp_path / "out")
        assert caught.value.reason == "storage"
        assert not list((tmp_path / "out").glob("*.parquet"))
        monkeypatch.undo()
        use_store(monkeypatch, store)
        assert server.run("s3://expiring/", tmp_path / "out", resume=True).errors == {}


class TestConcurrencyLimit:
    @staticmethod
    def limits_of(n_parallel: int, *, most: int = 64, n_calls: int = 20_000) -> list[int]:
        """Return the limits over time with a simulated server that processes `n_parallel` requests at once."""
        now_s = [0.0]
        limiter = AdaptiveConcurrencyLimiter(most, clock=lambda: now_s[0])
        request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
        running: deque[tuple[float, ExitStack]] = deque()  # by the time of their end
        limits = []
        limiter._n_waiting = 1  # decoding is faster than the server
        for _ in range(n_calls):
            while len(running) < limiter.limit:
                call = ExitStack()
                call.enter_context(limiter.limited(request, 1, 10.0))
                begun_s = running[-n_parallel][0] if len(running) >= n_parallel else now_s[0]
                running.append((begun_s + 0.004, call))
            now_s[0], ended = running.popleft()
            ended.close()
            limits.append(limiter.limit)
        return limits

    @pytest.mark.parametrize(("n_parallel", "expected"), [(1, 1), (3, 3), (8, 8), (24, 24)])
    def test_the_limit_is_what_the_server_processes_at_once(self, n_parallel: int, expected: int) -> None:
        limits = self.limits_of(n_parallel)[10_000:]
        assert Counter(limits).most_common(1)[0][0] in (expected, expected + 1)
        assert max(limits) <= 2 * expected + 1

    def test_the_limit_is_at_most_that_of_the_options(self) -> None:
        assert max(self.limits_of(24, most=5)) == 5

    def test_a_busy_answer_halves_the_limit(self) -> None:
        limiter = AdaptiveConcurrencyLimiter(64, start=24)
        request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
        with pytest.raises(ServerBusyError), limiter.limited(request, 1, 1.0):
            raise ServerBusyError("full")
        assert limiter.limit == 12

    def test_one_request_runs_at_a_time_while_others_use_the_model(self) -> None:
        limiter = AdaptiveConcurrencyLimiter(64, start=24)
        request = InferRequest("m", "x", {"audio": np.zeros((4, 4), np.float32)}, ("y",))
        n_rows = 1_000  # of everybody, before the job
        limiter.count(n_rows)
        with limiter.limited(request, 4, 1.0):
            limiter.count(n_rows + 4)  # the server may have counted rows in flight
        limiter.count(n_rows + 4)
        assert not limiter.yields
        limiter.count(n_rows + 5)
        assert limiter.yields
        assert limiter.limit == 1

    def test_requests_are_shorter_while_others_use_the_model(self) -> None:
        now_s = [0.0]
        limiter = AdaptiveConcurrencyLimiter(64, clock=lambda: now_s[0])
        request = InferRequest("m", "x", {"audio": np.zeros((1, 4), np.float32)}, ("y",))
        assert limiter.n_rows() == 1  # before the first response
        with limiter.limited(request, 1, 1.0):
            now_s[0] += 0.001
        assert limiter.n_rows() == 15
        for n_rows in (1_000, 1_002):
            limiter.count(n_rows)
        assert limiter.n_rows() == 3

    def test_pieces_of_a_request_are_joined_in_order(self) -> None:
        def handle(request: Request) -> InferResponse:
            assert isinstance(request, InferRequest)
            return InferResponse("m", "1", request.request_id, {"y": request.inputs["audio"][:, :2]})

        audio = np.arange(20, dtype=np.float32).reshape(5, 4)
        transport = LimitedTransport(MockTransport(handle), AdaptiveConcurrencyLimiter(2))
        response = transport.handle(InferRequest("m", "x", {"audio": audio}, ("y",)), timeout_s=5.0)
        assert response.outputs["y"].tolist() == audio[:, :2].tolist()

    def test_pieces_of_a_request_are_of_about_the_same_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []

        def handle(request: Request) -> InferResponse:
            assert isinstance(request, InferRequest)
            sizes.append(len(request.inputs["audio"]))
            return InferResponse("m", "1", request.request_id, {"y": request.inputs["audio"]})

        limiter = AdaptiveConcurrencyLimiter(2)
        monkeypatch.setattr(limiter, "n_rows", lambda: 6)
        transport = LimitedTransport(MockTransport(handle), limiter)
        for n_rows in (6, 7, 16):
            audio = np.zeros((n_rows, 4), np.float32)
            transport.handle(InferRequest("m", "x", {"audio": audio}, ("y",)), timeout_s=5.0)
        assert sizes == [6, 4, 3, 6, 5, 5]


def test_progress_counts_files_and_hours(server: Server, tones: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    server.run(tones, tmp_path / "out", on_progress=seen.append)
    assert (seen[-1].n_done, seen[-1].n_files) == (10, 10)
    assert seen[-1].hours_done == pytest.approx(10 / 3_600)
    json.dumps(seen[-1].__dict__)
