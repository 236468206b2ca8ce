"""Locate the files of a table: a file, a folder, a glob, or the objects of a bucket, which are copied to disk first.

A URL may be given as a `Path`, which drops one of the slashes of `s3://`.
"""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone.exceptions import FileAccessError
from tritone.remote_files import list_files, open_file
from tritone_training.exceptions import DataError

_URL: Final = re.compile(r"(s3|gs|file):/+")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_WILDCARDS: Final = re.compile(r"[*?\[]")
_CHUNK: Final = 1 << 20
_TEMPORARY: Final = "tritone-table-"


@dataclass(frozen=True)
class Source:
    """The files of a table.

    Attributes:
        base: the folder whose subfolders may be columns (Hive), or the only file.
        files: in a fixed order; None for a single file or a folder, whose files are found when it is opened.
    """

    base: Path
    files: tuple[Path, ...] | None = None


def url_of(path: Path) -> str | None:
    """Return the URL of a bucket or `file://` URL that was given as a path; None for other paths."""
    found = _URL.match(text := str(path))
    if found is None or path.exists():
        return None
    scheme, rest = found[1], text[found.end() :]
    return f"file:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def location_of(path: Path) -> str:
    """Return the absolute path of a file or folder, the absolute pattern of a glob, or the URL."""
    if not path.exists() and _WILDCARDS.search(str(path)):
        return url_of(path) or str(path.absolute())
    return url_of(path) or str(path.resolve())


@contextmanager
def located(path: Path, folder: Path | None = None) -> Iterator[Source]:
    """Yield the files of a table; copies of objects of a bucket are removed at the end.

    Args:
        path: a file, a folder, a glob, or a URL with or without wildcards.
        folder: for the copies; None for the folder for temporary files.

    Raises:
        DataError: nothing is found, or an object cannot be read.
    """
    url = url_of(path)
    if url is not None and url.startswith("file://"):
        path, url = Path(url.removeprefix("file://")), None
    if url is not None:
        with _copied(url, folder) as copies:
            yield copies
    elif path.exists() or not _WILDCARDS.search(str(path)):
        if (unknown := _SCHEME.match(str(path))) and not path.exists():
            raise DataError(f"{path}: unsupported URL scheme: expected s3://, gs:// or file://, got {unknown[1]}://")
        yield Source(path)
    else:
        base, pattern = _parts_of(str(path))
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
        files = tuple(Path(name) for name in names if Path(name).is_file())
        if not files:
            raise DataError(
                f"{path}: no files match {pattern!r} in {base}: expected parts of a table; check the pattern"
            )
        yield Source(Path(base), files)


def _parts_of(text: str) -> tuple[str, str]:
    """Return the folder before the first name with wildcards, or of a file, and the rest."""
    begin = _WILDCARDS.search(text)
    base = text[: begin.start() if begin else len(text)].rpartition("/")[0]
    return base or ("/" if text.startswith("/") else "."), text[len(base) :].lstrip("/")


@contextmanager
def _copied(url: str, folder: Path | None) -> Iterator[Source]:
    """Yield copies of the objects of a URL; errors of the block name the objects instead of the copies.

    Raises:
        DataError: nothing is found, an object cannot be read, or the disk is full.
    """
    try:
        found = [each.url for each in list_files(url)]
    except FileAccessError as error:
        raise DataError(str(error)) from error
    is_object = found == [url]
    base = _parts_of(url)[0] if is_object or _WILDCARDS.search(url) else url.rstrip("/")
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as copies:
        try:
            files = _copy_all(url, base, sorted(found), Path(copies) / "table")
            yield Source(files[0]) if is_object else Source(Path(copies) / "table", files)
        except DataError as error:
            if copies not in str(error):
                raise
            raise DataError(str(error).replace(f"{copies}/table", base)) from error


def _copy_all(url: str, base: str, urls: list[str], root: Path) -> tuple[Path, ...]:
    files = []
    for each in urls:
        copy = root / each.removeprefix(base).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy(each, copy, url)
        files.append(copy)
    return tuple(files)


def _copy(url: str, copy: Path, source: str) -> None:
    try:
        with open_file(url) as content, copy.open("wb") as target:
            shutil.copyfileobj(content, target, _CHUNK)
    except FileAccessError as error:
        if error.reason == "missing":
            raise DataError(
                f"{url}: was deleted since the parts of {source} were listed; make sure that no other process "
                f"writes to it, and read it again"
            ) from error
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{url}: cannot be copied to {copy.parent} ({error.strerror or error}); free space") from error
