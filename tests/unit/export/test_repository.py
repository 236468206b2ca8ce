"""Crashes, full disks and concurrent exports while a version is written, in subprocesses with real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tritone_export import DiskFullError, RepositoryBusyError, RepositoryError
from tritone_export.repository import publish, update, versions

OLD = {"model.onnx": b"old" * 1000, "labels.txt": b"a\nb\n", "model_card.json": b"{}"}
NEW = {"model.onnx": b"new" * 40_000, "labels.txt": b"c\nd\n", "model_card.json": b'{"v": 2}'}
OLD_BESIDE = {"labels.txt": b"a\nb\n", "config.pbtxt": b"one", "configs/gpu.pbtxt": b"one"}
NEW_BESIDE = {"labels.txt": b"c\nd\n", "config.pbtxt": b"two", "configs/gpu.pbtxt": b"two"}

# Publishes the new version in a process that ends, or fails, where the test says.
PUBLISH = """
import os, resource, signal, sys
from pathlib import Path
from tritone_export import repository

import ast
folder, kill_at, max_n_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
new, beside = ast.literal_eval(sys.stdin.read())
if max_n_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_n_bytes, max_n_bytes))
count = 0

def killing(call):
    def wrapper(*args, **options):
        global count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return wrapper

for name in ("mkdir", "open", "fsync", "rename", "replace", "rmdir", "unlink"):
    setattr(os, name, killing(getattr(os, name)))
try:
    repository.publish(folder, version_files=lambda version: new, model_files=beside)
except repository.DiskFullError as error:
    print(error)
    sys.exit(3)
print(count)
"""


def run_publish(folder: Path, *, kill_at: int = 0, max_n_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PUBLISH, str(folder), str(kill_at), str(max_n_bytes)],
        input=repr((NEW, NEW_BESIDE)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model_repository" / "genre_cnn"
    path = publish(folder, version_files=lambda version: OLD, model_files=OLD_BESIDE)
    assert path == folder / "1"
    return folder


def test_a_version_and_the_files_of_its_model_folder(folder: Path) -> None:
    path = publish(folder, version_files=lambda version: NEW, model_files=NEW_BESIDE)
    assert path == folder / "2"
    assert read(path) == NEW
    assert read(folder / "1") == OLD
    assert {name: (folder / name).read_bytes() for name in NEW_BESIDE} == NEW_BESIDE
    assert versions(folder) == [1, 2]
    assert (path.stat().st_mode & 0o777) == (folder.stat().st_mode & 0o777), "the server may be another user"


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_complete_versions(folder: Path, tmp_path: Path) -> None:
    n_points = int(run_publish(folder.parent / "rehearsal").stdout)
    assert n_points > 15
    outcomes = []
    for kill_at in range(1, n_points + 1, 3):
        done = run_publish(folder, kill_at=kill_at)
        newest = max(versions(folder))
        assert read(folder / "1") == OLD
        for version in range(2, newest + 1):
            assert read(folder / str(version)) == NEW, f"killed at {kill_at}"
        for name, content in NEW_BESIDE.items():
            assert (folder / name).read_bytes() in (OLD_BESIDE[name], content)
        if newest == 1:
            assert (folder / "labels.txt").read_bytes() == OLD["labels.txt"], "old version, old labels"
        if done.returncode == -signal.SIGKILL:
            outcomes.append(newest)
    assert outcomes[0] == 1
    assert outcomes[-1] > 1, "some kills came after the version was in place"
    path = publish(folder, version_files=lambda version: NEW, model_files=NEW_BESIDE)
    assert path.name == str(max(versions(folder)))
    assert {name: (folder / name).read_bytes() for name in NEW_BESIDE} == NEW_BESIDE
    assert not list(folder.glob(".staging-*")), "what the dead left is removed"


@pytest.mark.parametrize("max_n_bytes", [10_000, 110_000, 1])
def test_a_full_disk_changes_nothing(folder: Path, max_n_bytes: int) -> None:
    before = read(folder)
    done = run_publish(folder, max_n_bytes=max_n_bytes)
    assert done.returncode == 3, done.stderr
    assert "no space for the new version" in done.stdout
    assert read(folder) == before
    assert not list(folder.glob(".staging-*"))


def test_a_full_file_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = read(folder)
    monkeypatch.setattr(os, "fsync", full)  # delayed allocation tells only here
    with pytest.raises(DiskFullError):
        publish(folder, version_files=lambda version: NEW, model_files=NEW_BESIDE)
    with pytest.raises(DiskFullError):
        update(folder, NEW_BESIDE)
    assert read(folder) == before


def test_concurrent_exports_are_serialised(folder: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(folder), "0", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(repr((NEW, NEW_BESIDE)).encode())
        process.stdin.close()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert versions(folder) == [1, 2, 3, 4, 5]
    assert all(read(folder / str(version)) == NEW for version in range(2, 6))


def test_another_export_is_waited_for_up_to_a_time_limit(folder: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(version: int) -> dict[str, bytes]:
        entered.set()
        leave.wait(30)
        return OLD

    rival = threading.Thread(target=publish, args=(folder,), kwargs={"version_files": slow, "model_files": {}})
    rival.start()
    try:
        assert entered.wait(10)
        start_s = time.monotonic()
        with pytest.raises(RepositoryBusyError):
            publish(folder, version_files=lambda version: NEW, model_files={}, lock_timeout_s=0.3)
        assert 0.3 <= time.monotonic() - start_s < 3
    finally:
        leave.set()
        rival.join(10)
    assert versions(folder) == [1, 2]


def test_the_lock_of_a_killed_export_is_released(folder: Path) -> None:
    assert run_publish(folder, kill_at=8).returncode == -signal.SIGKILL
    path = publish(folder, version_files=lambda version: NEW, model_files={}, lock_timeout_s=0.3)
    assert read(path) == NEW


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError):
        publish(tmp_path / "file" / "model", version_files=lambda version: NEW, model_files={})


def test_version_folders_with_leading_zeros_are_not_reused(folder: Path) -> None:
    (folder / "007").mkdir()
    assert publish(folder, version_files=lambda version: NEW, model_files={}).name == "8"
    assert versions(folder) == [1, 8]
