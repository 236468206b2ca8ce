"""One refit of a checkpoint at a time, and the errors of its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from tritone_training.exceptions import TrainingError

_LOCK: Final = ".refit.lock"


@contextmanager
def exclusive_refit(folder: Path) -> Iterator[None]:
    """Allow one refit of a checkpoint at a time; the kernel releases the lock when the process ends."""
    if not folder.is_dir():
        raise TrainingError(
            f"{folder}: no checkpoint: expected the folder of a trained recommender; name it with --checkpoint"
        )
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise TrainingError(f"{folder}: another refit of it is running; wait until it ends") from None
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}); check its permissions") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Raise a TrainingError for an OSError, whose message says how to go on."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder}: the refit cannot be written ({error.strerror or error}); the previous checkpoint is unchanged; "
            f"free some space or check the permissions, then repeat the command, which continues"
        ) from error
