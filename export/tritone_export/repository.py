"""Writing into a model repository so that no reader ever meets half a version.

Everything is written and synced in a hidden folder inside the model's folder, then renamed into place: the
version first, then the files beside it (labels, configs) whose content changed. What can fail for want of
room or rights has failed by then; only a kill between two of these renames can leave labels of the version
before, which `tritone lint` reports and the next export puts right, because it writes whatever differs.

A lock file per model makes exports take turns. A hidden staging folder found under the lock is thus the
leftover of a dead process, and is removed.
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

from tritone.atomic import sync_folder
from tritone_export._exceptions import (
    DiskFullError,
    InvalidModelNameError,
    RepositoryBusyError,
    RepositoryError,
)
from tritone_export.card import CARD_FILENAME
from tritone_serving.recommender.private_files import close_to_others, make_private_folder

STAGING_PREFIX: Final = ".staging-"
LOCK_FILENAME: Final = ".export.lock"
LOCK_TIMEOUT_S: Final = 60.0
_LOCK_POLL_S: Final = 0.1
_COPIED_BYTES: Final = 4 << 20  # at once
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_model_name(name: str) -> None:
    """Accept what is safe as a folder, in a URL and in a metric's label.

    Raises:
        InvalidModelNameError: any other name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidModelNameError(
            f"{name!r} cannot be a model's name; expected up to 128 letters, digits, '_', '-' and '.', "
            f"beginning with a letter, a digit or '_'"
        )


def publish(
    model_folder: Path,
    *,
    version_files: Callable[[int], Mapping[str, bytes | Path]],
    model_files: Mapping[str, bytes],
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Path:
    """Add the next version to a model's folder.

    A version whose card declares personal data is closed to other users of the machine: the server must run as the
    publishing user or as root.

    Args:
        model_folder: made if it is missing.
        version_files: version number -> the version's files, by path inside its folder: their content, or a file
            to copy.
        model_files: files beside the versions, by path inside the model's folder; written if they differ.
        lock_timeout_s: how long to wait for another export of the same model.

    Returns:
        the new version's folder.

    Raises:
        DiskFullError: no room; nothing changed.
        RepositoryBusyError: another export holds the model.
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
    """Write files beside the versions if they differ from what is there, each by an atomic rename.

    Returns:
        the files that were written.

    Raises:
        DiskFullError, RepositoryBusyError, RepositoryError: as `publish`.
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
    """The version numbers in a model's folder, ascending; names that Triton would ignore are left out."""
    numbers = (path.name for path in model_folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in numbers if re.fullmatch(r"[1-9][0-9]*", name))


def _next_version(model_folder: Path) -> int:
    # Any run of digits counts, so that a stray `007` is never shadowed by a version 7.
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
    """Return whether a model card declares personal data; an unreadable card counts as not."""
    try:
        content = card.read_bytes() if isinstance(card, Path) else card or b"{}"
        described = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(described, dict) and bool(described.get("personal_data"))


def _write_files(folder: Path, files: Mapping[str, bytes | Path], *, is_private: bool = False) -> None:
    """Write and sync files, and the folders that hold their names."""
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
                    shutil.copyfileobj(source, file, _COPIED_BYTES)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if is_private:  # until now the folder's mode has kept others out
        close_to_others(folder)
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
    """A hidden folder on the same file system as its destination; call only under the lock."""
    for stale in model_folder.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(stale, ignore_errors=True)
    # Not mkdtemp: its 0700 would follow the version into place and shut out a server of another user.
    staging = model_folder / f"{STAGING_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(model_folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold the model's lock, which the kernel releases when the process ends in any way."""
    model_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(model_folder / LOCK_FILENAME, timeout=timeout_s, poll_interval=_LOCK_POLL_S)
    try:
        lock.acquire()
    except Timeout:
        raise RepositoryBusyError(
            f"{model_folder}: another export has been writing here for more than {timeout_s:g} s; "
            f"wait for it or stop it, then export again"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def translated(model_folder: Path) -> Iterator[None]:
    """Turn the system's errors while a folder is written into ours: the disk is full, or may not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"{model_folder}: no room for the new version ({error.strerror}); what was there is "
                "untouched: "
                f"free some space or remove old versions, then export again"
            ) from error
        raise RepositoryError(
            f"{model_folder}: cannot be written ({error.strerror or error}: {error.filename}); "
            f"check the path and its owner, or give another --repository"
        ) from error
