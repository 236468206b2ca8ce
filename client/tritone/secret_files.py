"""Keys and tokens in files, which may be rotated while a process runs."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, Final

from tritone.exceptions import InvalidInputError
from tritone.watched_files import WatchedFiles

LONGEST_SECRET: Final = 4_096  # characters
SECRET: Final = re.compile(r"[\x21-\x7e]+")
_LOGGER: Final = logging.getLogger(__name__)


def checked_secret(name: str, value: Any) -> str:
    """Return a secret after checking that a header can hold it; error messages do not contain it.

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
        self._path = Path(path)
        self._file = WatchedFiles([self._path], self._read)
        self._last: str | None = None
        self._problem = ""

    def secret(self) -> str | None:
        """Return the current secret; None if the file has not had a usable one yet."""
        return self._file.content()

    def _read(self) -> str | None:
        path = self._path
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
        return f"{type(self).__name__}({str(self._path)!r})"
