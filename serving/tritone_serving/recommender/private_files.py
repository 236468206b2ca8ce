"""Atomic writes of files with listening histories: mode 600 in folders of mode 700, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, and give the folder itself mode 700 even if it exists."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)


@contextmanager
def replacing_private(path: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing that replaces `path` when the block ends without an error."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)  # left by a killed process, and possibly with another mode
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)
            yield file
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def close_to_others(folder: Path) -> None:
    """Remove other users' access to a folder and everything in it; targets of links are not changed."""
    folder.chmod(PRIVATE_FOLDER)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)
