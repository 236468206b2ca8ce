"""Atomic file writes, where a reader sees the old content or the new content; files that only their owner can read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
IfExists: TypeAlias = Literal["replace", "keep", "error"]
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of file systems without hard links
_N_RANDOM: Final = 6  # bytes
_N_STEM: Final = 40  # letters of the name that a temporary file keeps, since names have a maximum length


@contextmanager
def replacing(
    path: Path,
    *,
    mode: int | None = None,
    sync: bool = False,
    if_exists: IfExists = "replace",
    staged_suffix: str | None = None,
) -> Iterator[Path]:
    """Yield an empty temporary file in the same folder, which becomes `path` when the block ends without an error.

    The temporary file is removed if the block raises, and remains if the process is killed.

    Args:
        mode: permissions of the file, whatever the umask; nobody else can open it before the block ends. None
            leaves them to the umask.
        sync: write the file and its folder entry to disk, so that they survive a power failure.
        if_exists: `replace` a file that already exists, `keep` it, or raise an `error`. The last two hold with several
            writers too, except on file systems without hard links, which are checked before the rename.
        staged_suffix: suffix of the temporary file, so that readers of a folder do not take it for a complete one; that
            of `path` if None, for libraries that derive the format from it.

    Raises:
        FileExistsError: the file exists, with `if_exists="error"`.
        OSError: the file cannot be created, written or renamed.
        ValueError: no file can have that name.
    """
    staged = path.with_name(f".{_staged_stem(path)}-{secrets.token_hex(_N_RANDOM)}{staged_suffix or path.suffix}")
    os.close(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else PRIVATE_FILE))
    try:
        yield staged
        if mode is not None:
            staged.chmod(mode)
        if sync:
            with staged.open("rb") as file:
                os.fsync(file.fileno())
        if if_exists == "replace":
            staged.replace(path)
        else:
            with contextlib.suppress(*((FileExistsError,) if if_exists == "keep" else ())):
                _rename_new(staged, path)
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
    if_exists: IfExists = "replace",
    staged_suffix: str | None = None,
) -> None:
    """Write bytes, or text as UTF-8, to a file in one step; see `replacing`."""
    with replacing(path, mode=mode, sync=sync, if_exists=if_exists, staged_suffix=staged_suffix) as staged:
        staged.write_bytes(content.encode() if isinstance(content, str) else content)


def staged_pattern(path: Path, suffix: str) -> re.Pattern[str]:
    """Return a pattern for the names of temporary files of `path`, which remain if the process is killed.

    Args:
        suffix: the `staged_suffix` that `replacing` was given.
    """
    return re.compile(rf"\.{re.escape(_staged_stem(path))}-[0-9a-f]{{{2 * _N_RANDOM}}}{re.escape(suffix)}")


def _staged_stem(path: Path) -> str:
    if len(path.stem) <= _N_STEM:
        return path.stem
    return f"{path.stem[: _N_STEM - 8]}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}"


def _rename_new(staged: Path, path: Path) -> None:
    """Rename a file unless its new name exists.

    Raises:
        FileExistsError: it exists.
        OSError: the file cannot be renamed.
    """
    try:
        os.link(staged, path)  # unlike a rename, a link does not replace an existing file
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        staged.replace(path)


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, and give the folder itself mode 700 even if it exists."""
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    path.chmod(PRIVATE_FOLDER)


def restrict_to_owner(folder: Path) -> None:
    """Remove other users' access to a folder and everything in it; targets of links are not changed."""
    folder.chmod(PRIVATE_FOLDER)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(PRIVATE_FOLDER if path.is_dir() else PRIVATE_FILE)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
