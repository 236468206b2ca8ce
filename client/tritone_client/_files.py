"""Files that appear when they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tritone_client._exceptions import InvalidInputError

_N_STEM: Final = 40


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Write a file beside its place and move it there when the block ends; an older one stays until then.

    Args:
        what: the thing written, for messages ("the score").

    Yields:
        Where to write.

    Raises:
        InvalidInputError: the folder is missing, no file can have that name, or an OSError came from the block or
            the move.
    """
    try:
        written = _beside(path, what)
        try:
            yield written
            written.chmod(0o644)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{path}: {what} cannot be written ({error})") from error


def _beside(path: Path, what: str) -> Path:
    """An empty file to write before it takes the place of another."""
    if not path.parent.is_dir():
        raise InvalidInputError(f"{path}: there is no folder {path.parent} to write {what} to")
    if path.is_dir():
        raise InvalidInputError(f"{path}: is a folder; give {what} a name of its own")
    try:
        # Only a part of the stem: of the longest name that can be, a longer one would be none.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:_N_STEM]}-", suffix=path.suffix.lower())
    except ValueError as error:  # a null byte, or letters that the file system cannot write
        raise InvalidInputError(f"{path}: no file can have that name ({error})") from error
    os.close(handle)
    return Path(name)
