"""Files that appear when they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritone_client._exceptions import InvalidInputError


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Write a file beside its place and move it there when the block ends; an older one stays until then.

    Args:
        what: the thing written, for messages ("the score").

    Yields:
        Where to write.

    Raises:
        InvalidInputError: the folder is missing, or an OSError came from the block or the move.
    """
    if not path.parent.is_dir():
        raise InvalidInputError(f"{path}: there is no folder {path.parent} to write {what} to")
    if path.is_dir():
        raise InvalidInputError(f"{path}: is a folder; give {what} a name of its own")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix.lower())
        os.close(handle)
        written = Path(name)
        try:
            yield written
            written.chmod(0o644)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{path}: {what} cannot be written ({error})") from error
