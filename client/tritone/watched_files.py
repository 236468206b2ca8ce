"""Content of files that are replaced while a process runs: read again after a change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")
CHECK_INTERVAL_S: Final = 0.5  # how long a change may go unnoticed; a check takes some microseconds
_Identity: TypeAlias = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[T]):
    """The parsed content of one or several files, read again after any of them has changed."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Remember the files; nothing is read before the first use.

        Args:
            paths: the files, which may be links, as in a mounted secret of Kubernetes.
            read: returns the content; also called if a file does not exist.
        """
        self.paths = tuple(paths)
        self._read = read
        self._cached: tuple[_Identity, T] | None = None
        self._checked_s = float("-inf")

    def content(self) -> T:
        """Return the content, at most `CHECK_INTERVAL_S` old.

        Raises:
            Exception: any exception of `read`; the next call reads the files again.
        """
        now_s = time.monotonic()
        cached = self._cached
        if cached is None or now_s - self._checked_s >= CHECK_INTERVAL_S:
            identity = self._identity()  # before the content, so that a change in between is noticed by the next check
            if cached is None or None in identity or identity != cached[0]:
                cached = self._cached = (identity, self._read())
            self._checked_s = now_s
        return cached[1]

    def expire(self) -> None:
        """Check the files at the next use."""
        self._checked_s = float("-inf")

    def _identity(self) -> _Identity:
        return tuple(_identity_of(path) for path in self.paths)


def _identity_of(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change when a file is replaced or written; None if it cannot be found."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: the path has a null byte
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
