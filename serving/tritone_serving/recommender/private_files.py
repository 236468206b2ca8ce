"""Files that hold what people listen to: mode 600 in folders of mode 700 whatever the umask, and never half a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def make_private_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; the folder itself is closed to others, a new one or not."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)


@contextmanager
def replacing_private(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of another when the block ends without an error."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)  # of a killed process, and perhaps open to others
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)
            yield file
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def close_to_others(folder: Path) -> None:
    """Give a folder and all that is in it to its owner alone; what links point to stays as it is."""
    folder.chmod(PRIVATE_FOLDER)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)
