"""Keys and tokens in files, which are rotated while a process runs: a changed file is read again."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from tritone.exceptions import InvalidInputError

T = TypeVar("T")
CHECK_INTERVAL_S: Final = 0.5  # how long a change may go unnoticed; a check takes some microseconds
LONGEST_SECRET: Final = 4_096  # characters
SECRET: Final = re.compile(r"[\x21-\x7e]+")
_LOGGER: Final = logging.getLogger(__name__)


def checked_secret(name: str, value: Any) -> str:
    """Return a secret that can be sent as a header; error messages do not contain it.

    Raises:
        InvalidInputError: it cannot be sent.
    """
    if not isinstance(value, str) or len(value) > LONGEST_SECRET or not SECRET.fullmatch(value):
        raise InvalidInputError(
            f"{name} cannot be sent: expected 1 to {LONGEST_SECRET} printable ASCII characters without spaces, got "
            f"{f'text of {len(value)} characters' if isinstance(value, str) else type(value).__name__}",
            argument=name,
        )
    return value


class WatchedFile(Generic[T]):
    """The parsed content of a file, read again after a change."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """Prepare to read; nothing is read before the first use.

        Args:
            path: the file, which may be a link, as in a mounted secret of Kubernetes.
            read: returns the content, also if there is no file.
        """
        self.path = path
        self._read = read
        self._found: tuple[tuple[int, ...] | None, T] | None = None
        self._checked_s = float("-inf")

    def content(self) -> T:
        """Return the content, at most `CHECK_INTERVAL_S` old.

        Raises:
            Exception: whatever `read` raises; the file is then read again by the next call.
        """
        now_s = time.monotonic()
        found = self._found
        if found is None or now_s - self._checked_s >= CHECK_INTERVAL_S:
            identity = self._identity()  # before the content, so that a change in between is noticed by the next check
            if found is None or identity is None or identity != found[0]:
                found = self._found = (identity, self._read(self.path))
            self._checked_s = now_s
        return found[1]

    def expire(self) -> None:
        """Check the file at the next use."""
        self._checked_s = float("-inf")

    def _identity(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except (OSError, ValueError):  # ValueError: the path has a null byte
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class SecretFile:
    """A key or token in a file, which may be replaced at any time; the file need not exist yet.

    While the file cannot be used, the last secret is kept, and the reason is logged once.
    """

    def __init__(self, name: str, path: str | os.PathLike[str]) -> None:
        """Prepare to read the secret.

        Args:
            name: what the secret is, as in `service_key`.
            path: the file; white space around the secret is ignored.

        Raises:
            InvalidInputError: `path` is not a path.
        """
        if not isinstance(path, str | os.PathLike):
            raise InvalidInputError(
                f"invalid {name}_file: expected the path of a file, got {type(path).__name__}", argument=f"{name}_file"
            )
        self._name = name
        self._file = WatchedFile(Path(path), self._read)
        self._last: str | None = None
        self._problem = ""

    def secret(self) -> str | None:
        """Return the present secret; None if there has been none yet."""
        return self._file.content()

    def _read(self, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                content = file.read(LONGEST_SECRET + 2)
            self._last = checked_secret(self._name, content.decode("ascii", "replace").strip())
            problem = ""
        except (OSError, ValueError) as error:  # InvalidInputError is a ValueError
            problem = str(error.strerror) if isinstance(error, OSError) else str(error)
        if problem and problem != self._problem:
            what = "no secret is sent" if self._last is None else "the previous secret is sent"
            _LOGGER.warning("%s: the %s cannot be read (%s); until then %s", path, self._name, problem, what)
        self._problem = problem
        return self._last

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._file.path)!r})"
