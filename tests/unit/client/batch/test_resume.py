"""Batch jobs that are continued after a stop or a kill, and jobs of other processes."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.support.batch_jobs import rows
from tests.unit.client.batch.job_server import Server, leave_staged, paths_in, write_tone

from tritone import BatchError, FileAccessError, ModelNotFoundError, MusicClient
from tritone.batch import BatchOptions, run_batch
from tritone.batch.parts import PartNames
from tritone.messages import Request
from tritone.remote_files import STAGED_SUFFIX


def interrupted(server: Server, source: Path, out: Path, n: int, **options: Any) -> Any:
    """Stop a job after `n` inferences."""
    stop = threading.Event()

    def fail(request: Request) -> None:
        if len(server.n_rows) >= n:
            stop.set()

    server.fail, server.row_s = fail, 0.02
    summary = server.run(source, out, stop=stop, concurrency=1, **options)
    server.fail, server.row_s = (lambda request: None), 0.0
    return summary


def test_a_stopped_job_writes_what_is_done_and_goes_on(server: Server, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = interrupted(server, tones, out, 3)
    assert not first.complete
    assert 3 <= first.n_done < 10
    assert len(rows(out)) == first.n_done
    second = server.run(tones, out, resume=True)
    assert (second.n_new, second.n_done, second.complete) == (10 - first.n_done, 10, True)
    assert rows(out)["path"].tolist() == paths_in(tones)
    third = server.run(tones, out, resume=True)
    assert (third.n_new, third.n_parts, third.complete) == (0, 0, True)


def test_rows_whose_part_was_lost_are_made_again(server: Server, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    server.run(tones, out, rows_per_part=3)
    sorted(out.glob("*.parquet"))[1].unlink()
    assert server.run(tones, out, resume=True).n_new > 0
    assert rows(out)["path"].tolist() == paths_in(tones)


@pytest.mark.parametrize("number", [0, 1])  # killed after the part had its name, or before
def test_temporary_files_of_a_killed_process_are_removed(
    server: Server, tones: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    interrupted(server, tones, out, 3)
    assert [path.name for path in out.glob("*.parquet")] == ["part-00000.parquet"]
    (out / f".part-0000{number}-0123456789ab.partial").write_bytes(b"PAR1 half")
    server.run(tones, out, resume=True)
    assert not list(out.glob(".*.partial"))


@pytest.mark.parametrize("name", ["part.job.json", "part.files.jsonl.gz", "part-00000.parquet"])
def test_temporary_files_of_a_process_killed_at_the_start_are_removed(
    server: Server, tones: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    leave_staged(out / name)
    server.run(tones, out, resume=True)
    assert not list(out.glob(f".*{STAGED_SUFFIX}"))


def test_temporary_files_of_long_names_are_removed(server: Server, tones: Path, tmp_path: Path) -> None:
    job = BatchOptions(source=str(tones), out=f"{tmp_path}/{'n' * 60}-%05d.parquet", resume=True)
    leave_staged(Path(PartNames(job.out).url(0)))
    leave_staged(Path(PartNames(job.out).url(1)))
    with MusicClient(transport=server.transport, retries=0) as music:
        assert run_batch(music, job).complete
    assert len(list(tmp_path.glob(f".*{STAGED_SUFFIX}"))) == 1  # another job may be writing the other one


def test_temporary_files_of_another_shard_are_kept(server: Server, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for number in (0, 1):
        (out / f".part-0000{number}-0123456789ab.partial").touch()
    server.run(tones, out, shard=(1, 2), resume=True)
    assert [path.name[:11] for path in out.glob(".*.partial")] == [".part-00001"]


def test_files_added_later_belong_to_another_job(server: Server, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(server, tones, out, 3)
    write_tone(tones / "new.wav")
    assert server.run(tones, out, resume=True).n_files == 10


def test_parts_of_an_earlier_job_are_not_added_to_by_mistake(server: Server, tones: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("resume", [True, False])
def test_a_job_that_wrote_no_part_is_started_anew(server: Server, tones: Path, tmp_path: Path, *, resume: bool) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelNotFoundError):
        server.run(tones, out, model="nope")
    write_tone(tones / "new.wav")
    assert server.run(tones, out, resume=resume).n_done == 11
    assert list(rows(out).path) == paths_in(tones)


def test_a_source_without_files_is_an_error_and_no_job(server: Server, tmp_path: Path) -> None:
    source, out = tmp_path / "recordings", tmp_path / "out"
    source.mkdir()
    with pytest.raises(FileAccessError, match="holds no files") as caught:
        server.run(source, out, resume=True)
    assert caught.value.reason == "missing"
    write_tone(source / "first.wav")
    assert server.run(source, out, resume=True).n_done == 1


@pytest.mark.parametrize("damage", ["part-00000.parquet", "part.job.json", "part.files.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_damaged_file_of_a_job_stops_it(
    server: Server, tones: Path, tmp_path: Path, damage: str, content: bytes | None
) -> None:
    out = tmp_path / "out"
    server.run(tones, out)
    whole = (out / damage).read_bytes()
    (out / damage).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BatchError) as caught:
        server.run(tones, out, resume=True)
    assert caught.value.reason == "damaged"


def test_a_row_that_is_repeated_in_another_part_is_reported(server: Server, tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    server.run(tones, out)
    shutil.copy(out / "part-00000.parquet", out / "part-00007.parquet")
    with pytest.raises(BatchError) as caught:
        server.run(tones, out, resume=True)
    assert caught.value.reason == "damaged"


def test_two_processes_do_not_write_the_same_parts(server: Server, tones: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    out.mkdir()
    with (out / ".part.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BatchError) as caught:
            server.run(tones, out)
    assert caught.value.reason == "running"


def test_a_file_system_without_locks_is_not_another_process(
    server: Server, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(FileAccessError) as caught:
        server.run(tones, tmp_path / "out")
    assert "No locks available" in str(caught.value)
