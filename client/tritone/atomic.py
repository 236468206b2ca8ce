"""Atomic file writes: a reader sees the old content or the new content, never a part of it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
_N_STEM: Final = 40  # letters of the name that a temporary file keeps, since names have a maximum length


@contextmanager
def replacing(
    path: Path,
    *,
    mode: int | None = None,
    sync: bool = False,
    keep_existing: bool = False,
    staged_suffix: str | None = None,
) -> Iterator[Path]:
    """Yield an empty temporary file in the same folder, which becomes `path` when the block ends without an error.

    The temporary file is removed if the block raises, and remains if the process is killed.

    Args:
        mode: permissions of the file, whatever the umask; nobody else can open it before the block ends. None
            leaves them to the umask.
        sync: write the file and its folder entry to disk, so that they survive a power failure.
        keep_existing: leave a file that already exists as it is.
        staged_suffix: suffix of the temporary file, so that readers of a folder do not take it for a complete one; that
            of `path` if None, for libraries that derive the format from it.

    Raises:
        OSError: the file cannot be created, written or renamed.
        ValueError: no file can have that name.
    """
    staged = path.with_name(f".{path.stem[:_N_STEM]}-{secrets.token_hex(6)}{staged_suffix or path.suffix}")
    os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else PRIVATE_FILE))
    try:
        yield staged
        if mode is not None:
            staged.chmod(mode)
        if sync:
            with staged.open("rb") as file:
                os.fsync(file.fileno())
        if keep_existing:
            with contextlib.suppress(FileExistsError):
                os.link(staged, path)  # unlike a rename, a link does not replace an existing file
        else:
            staged.replace(path)
        if sync:
            sync_folder(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def write_atomically(
    path: Path,
    content: bytes | str,
    *,
    mode: int | None = None,
    sync: bool = False,
    keep_existing: bool = False,
    staged_suffix: str | None = None,
) -> None:
    """Write bytes, or text as UTF-8, to a file in one step; see `replacing`."""
    with replacing(path, mode=mode, sync=sync, keep_existing=keep_existing, staged_suffix=staged_suffix) as staged:
        staged.write_bytes(content.encode() if isinstance(content, str) else content)


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, and give the folder itself mode 700 even if it exists."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
