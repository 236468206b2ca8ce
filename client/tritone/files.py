"""Results written to a path or to a binary file object."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

from tritone import atomic
from tritone.exceptions import InvalidInputError

PathLike: TypeAlias = str | os.PathLike[str]
File = TypeVar("File", bound=BinaryIO)
Target: TypeAlias = PathLike | BinaryIO


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` when the block ends; see `atomic.replacing`.

    The block must not leave the writing to a library that hides the system's reason for a failure, as libsndfile does
    on a full disk; such a library writes to memory, and the block writes the bytes.

    Args:
        what: the thing written, for messages ("the score").

    Yields:
        The path of the temporary file.

    Raises:
        InvalidInputError: the folder is missing, the file name is invalid, or the block or the replacement raised an
            OSError.
    """
    try:
        if not path.parent.is_dir():
            raise InvalidInputError(
                f"{path}: {what} cannot be written: the folder {path.parent} does not exist; create it first",
                argument="target",
                reason="no_folder",
            )
        if path.is_dir():
            raise InvalidInputError(
                f"{path}: expected a file name for {what}, got a folder; add a file name",
                argument="target",
                reason="is_folder",
            )
        with contextlib.ExitStack() as stack:
            try:
                written = stack.enter_context(atomic.replacing(path, mode=0o644))
            except ValueError as error:  # a null byte, or letters that the file system cannot write
                raise InvalidInputError(
                    f"{path}: invalid file name ({error})", argument="target", reason="bad_name"
                ) from error
            yield written
    except OSError as error:
        raise _not_writable(path, what, error) from error


def format_of(target: Target, given: str | None, known: Sequence[str], expected: str) -> str:
    """Return the format to write: the given one, else that of the path's suffix.

    Args:
        given: as in "png" or ".PNG"; None to use the suffix of the path.
        known: formats in lower case, without a dot.
        expected: description of valid file names, for the error message.

    Raises:
        InvalidInputError: the format is unknown, or is missing for a file object.
    """
    is_path = isinstance(target, str | os.PathLike)
    if not is_path and not callable(getattr(target, "write", None)):
        raise InvalidInputError(
            f"invalid target: expected a path or a binary file object, got {type(target).__name__}", argument="target"
        )
    if given is None and not is_path:
        raise InvalidInputError(
            f"format is None: expected one of {', '.join(known)} for a file object; pass format={known[0]!r}",
            argument="format",
        )
    if given is not None and not isinstance(given, str):
        raise InvalidInputError(f"format is {given!r}: expected one of {', '.join(known)}, or None", argument="format")
    if given is not None:
        kind = given.lower().removeprefix(".")
        if kind not in known:
            raise InvalidInputError(f"format is {given!r}: expected one of {', '.join(known)}", argument="format")
        return kind
    path = Path(os.fspath(target))  # type: ignore[arg-type]
    kind = path.suffix.lower().removeprefix(".")
    if kind not in known:
        raise InvalidInputError(f"{path}: {expected}", argument="target", reason="bad_name")
    return kind


def write_result(target: Any, content: Callable[[], bytes], what: str) -> Any:
    """Write bytes atomically to a path, or to a binary file object at its current position.

    Devices and pipes, such as `/dev/stdout`, are written to and never replaced. For a symbolic link, the file that it
    points to is replaced.

    Args:
        target: a path or a binary file object, which is left open.
        content: returns the bytes; called after the folder of the path has been checked.
        what: the thing written, for messages ("the score").

    Returns:
        The path, or the file object.

    Raises:
        InvalidInputError: the target cannot be written; the message contains the reason of the operating system.
    """
    if isinstance(target, str | os.PathLike):
        path = Path(target)
        if _is_device_or_pipe(path):
            try:
                path.write_bytes(content())
            except OSError as error:
                raise _not_writable(path, what, error) from error
            return path
        with replacing(_without_link(path), what) as written:
            written.write_bytes(content())
        return path
    if isinstance(target, io.TextIOBase):
        raise _text_file(target, what)
    data = content()
    try:
        _write_all(target, data)
        flush = getattr(target, "flush", None)
        if callable(flush):  # a full disk may be reported only here
            flush()
    except TypeError as error:
        raise _text_file(target, what) from error
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise _not_writable(_name(target), what, error) from error
    return target


def _is_device_or_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # the file does not exist, or the name is invalid
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _without_link(path: Path) -> Path:
    # `Path.is_symlink` raises for invalid file names.
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114


def _write_all(file: Any, data: bytes) -> None:
    n_written = file.write(data)
    while isinstance(n_written, int) and 0 < n_written < len(data):  # an unbuffered file may write only a part
        data = data[n_written:]
        n_written = file.write(data)


def _not_writable(name: str | Path, what: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{name}: {what} cannot be written ({error})", argument="target", reason="not_writable")


def _text_file(target: Any, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{_name(target)}: {what} cannot be written: expected a binary file object, got a text file; open it with 'wb'",
        argument="target",
        reason="text_file",
    )


def _name(target: Any) -> str:
    name = getattr(target, "name", None)
    return name if isinstance(name, str) else "<file object>"
