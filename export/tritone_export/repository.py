"""Write versions into a model repository atomically, so that readers never see an incomplete version.

All files are written and synced in a hidden staging folder inside the model's folder and then renamed into place: the
version first, then those files of the model's folder (labels, configs) whose content changed. Errors such as a full
disk or missing permissions occur before the first rename. Only a process killed between two renames can leave labels of
the previous version; `tritone lint` reports them, and the next export corrects them, because it writes all files that
differ.

A lock file per model allows one export at a time. A staging folder that is found while holding the lock was left by a
process that died, and is removed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from tritone.atomic import make_private_folder, restrict_to_owner, sync_folder
from tritone_export._exceptions import (
    DiskFullError,
    RepositoryBusyError,
    RepositoryError,
)
from tritone_export.card import CARD_FILENAME

STAGING_PREFIX: Final = ".staging-"
LOCK_FILENAME: Final = ".export.lock"
LOCK_TIMEOUT_S: Final = 60.0
_LOCK_POLL_S: Final = 0.1
_COPY_CHUNK_BYTES: Final = 4 << 20
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def publish(
    model_folder: Path,
    *,
    version_files: Callable[[int], Mapping[str, bytes | Path]],
    model_files: Mapping[str, bytes],
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Add the next version to a model's folder.

    If the model card declares personal data, other users of the machine cannot read the version; the server must run
    as the publishing user or as root.

    Args:
        model_folder: created if it is missing.
        version_files: returns the files of the version for a version number, by path inside the version's folder: the
            content of each file, or a file to copy.
        model_files: files of the model's folder, by path inside it; written if their content differs.
        lock_timeout_s: longest time to wait for another export of the same model.

    Returns:
        the folder of the new version.

    Raises:
        DiskFullError: the disk is full; nothing was changed.
        RepositoryBusyError: another export of the model did not finish in time.
        RepositoryError: the folder cannot be written.
    """
    with translated(model_folder), _locked(model_folder, lock_timeout_s), _staging(model_folder) as staging:
        version = _next_version(model_folder)
        staged = staging / str(version)
        files = version_files(version)
        _write_files(staged, files, is_private=holds_personal_data(files.get(CARD_FILENAME)))
        changed = _changed(model_folder, model_files)
        _write_files(staging / "model", changed)
        target = model_folder / str(version)
        staged.rename(target)
        _move_into_place(staging / "model", model_folder, changed)
    return target


def update(
    model_folder: Path, model_files: Mapping[str, bytes], *, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> list[Path]:
    """Write those files of a model's folder whose content differs, each by an atomic rename.

    Returns:
        the files that were written.

    Raises:
        DiskFullError, RepositoryBusyError, RepositoryError: as in `publish`.
    """
    with translated(model_folder):
        if not _changed(model_folder, model_files):
            return []
        with _locked(model_folder, lock_timeout_s), _staging(model_folder) as staging:
            changed = _changed(model_folder, model_files)
            _write_files(staging / "model", changed)
            _move_into_place(staging / "model", model_folder, changed)
    return [model_folder / path for path in changed]


def versions(model_folder: Path) -> list[int]:
    """Return the version numbers in a model's folder, ascending, without folders that Triton ignores."""
    numbers = (path.name for path in model_folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in numbers if re.fullmatch(r"[1-9][0-9]*", name))


def require_newest(folder: Path, expected: int) -> None:
    """Check that no other version was published since a new one was made from it, as by `tritone forget`.

    Raises:
        RepositoryBusyError: there is a newer one.
    """
    found = versions(folder)
    if found and found[-1] != expected:
        raise RepositoryBusyError(
            f"{folder}: version {found[-1]} was published while a version was made from {expected}; nothing was "
            f"changed, repeat the command"
        )


def _next_version(model_folder: Path) -> int:
    # All digits count, so that a stray folder `007` and a new version 7 do not coexist.
    taken = [int(path.name) for path in model_folder.iterdir() if re.fullmatch(r"[0-9]+", path.name)]
    return max(taken, default=0) + 1


def _changed(model_folder: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if _read(model_folder / path) != content}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def holds_personal_data(card: bytes | Path | None) -> bool:
    """Return whether a model card declares personal data; False if the card cannot be read."""
    try:
        content = card.read_bytes() if isinstance(card, Path) else card or b"{}"
        described = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(described, dict) and bool(described.get("personal_data"))


def _write_files(folder: Path, files: Mapping[str, bytes | Path], *, is_private: bool = False) -> None:
    """Write files and sync them and their folders."""
    if is_private:
        make_private_folder(folder)
    else:
        folder.mkdir()
    folders = {folder}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.add(path.parent)
        with path.open("wb") as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, _COPY_CHUNK_BYTES)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if is_private:  # until here the mode of the folder kept other users out
        restrict_to_owner(folder)
    for written in folders:
        sync_folder(written)


def _move_into_place(source: Path, model_folder: Path, paths: Mapping[str, bytes]) -> None:
    for path in paths:
        target = model_folder / path
        target.parent.mkdir(exist_ok=True)
        (source / path).replace(target)
        sync_folder(target.parent)
    sync_folder(model_folder)


@contextmanager
def _staging(model_folder: Path) -> Iterator[Path]:
    """Create a hidden folder on the same file system as its destination; call only while holding the lock."""
    for stale in model_folder.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)
    # Not mkdtemp: the version would keep its mode 0700, and a server of another user could not read it.
    staging = model_folder / f"{STAGING_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(model_folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a model; the kernel releases it when the process ends, for whatever reason."""
    model_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(model_folder / LOCK_FILENAME, timeout=timeout_s, poll_interval=_LOCK_POLL_S)
    try:
        lock.acquire()
    except Timeout:
        raise RepositoryBusyError(
            f"{model_folder}: locked by another export for more than {timeout_s:g} s; "
            f"wait until it ends or stop it, then export again"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def translated(model_folder: Path) -> Iterator[None]:
    """Translate an OSError while a folder is written into `DiskFullError` or `RepositoryError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"{model_folder}: no space for the new version ({error.strerror}); existing files are unchanged; "
                f"free some space or remove old versions, then export again"
            ) from error
        raise RepositoryError(
            f"{model_folder}: cannot be written ({error.strerror or error}: {error.filename}); "
            f"check the path and its permissions, or name another --repository"
        ) from error
