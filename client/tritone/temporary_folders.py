"""Temporary folders that are removed even if their process was killed: by the next one that makes such a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOCK: Final = "in-use"


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a folder that only this user can read, which is removed at the end.

    Folders with the same prefix whose process was killed are removed first: nobody holds their locks.

    Args:
        prefix: start of the name, which belongs to one purpose.
        parent: existing folder; that of `tempfile.gettempdir` if None.

    Raises:
        OSError: the folder cannot be created.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _remove_left(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with (folder / f".{_LOCK}").open("wb") as lock:
        with contextlib.suppress(OSError):  # a file system without locks, where nothing is removed for others
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system even if the process is killed
        # Renamed after locking, so that other processes never see it unlocked.
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        process = os.getpid()
        try:
            yield folder
        finally:
            if os.getpid() == process:  # no forked one
                shutil.rmtree(folder, ignore_errors=True)


def _remove_left(prefix: str, parent: Path) -> None:
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
