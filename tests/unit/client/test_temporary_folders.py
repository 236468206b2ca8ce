"""Temporary folders that survive a kill only until the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tritone.temporary_folders import temporary_folder

WAITS = """
import pathlib, sys, time
from tritone.temporary_folders import temporary_folder
with temporary_folder("ours-", pathlib.Path(sys.argv[1])) as folder:
    (folder / "rows").write_text("a result")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_a_folder_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    def use() -> None:
        with temporary_folder("ours-", tmp_path) as folder:
            assert folder.parent == tmp_path
            assert folder.stat().st_mode & 0o777 == 0o700
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_running_one_is_kept(tmp_path: Path) -> None:
    (tmp_path / "ours-of-somebody-else").mkdir()  # without a lock: it may be anything
    with subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with temporary_folder("ours-", tmp_path):
            assert (folder / "rows").exists()
        os.kill(process.pid, signal.SIGKILL)
    assert (folder / "rows").exists()
    with temporary_folder("others-", tmp_path):
        assert (folder / "rows").exists()
    with temporary_folder("ours-", tmp_path):
        assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["ours-of-somebody-else"]


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), temporary_folder("ours-", tmp_path / "missing"):
        pass
