"""Locate the files of a table: a file, a folder, a glob, or the objects of a bucket, which are copied to disk first.

A URL may be given as a `Path`, which drops one of the slashes of `s3://`.
"""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from tritone.exceptions import FileAccessError
from tritone.remote_files import FoundFile, list_files, open_file, read_range
from tritone_training.data.tables.parquet import exact_pattern
from tritone_training.exceptions import DataError

_URL: Final = re.compile(r"(s3|gs|file):/+")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_WILDCARDS: Final = re.compile(r"[*?\[]")
_CHUNK: Final = 1 << 20
_PARQUET_MARK: Final = b"PAR1"  # at the beginning and the end of a file
_FOOTER_BYTES: Final = 1 << 16  # of an object are read at once; most footers are shorter
_TEMPORARY: Final = "tritone-table-"


@dataclass(frozen=True)
class Source:
    """The files of a table.

    Attributes:
        base: the folder whose subfolders may be columns (Hive), or the only file.
        files: in a fixed order; None for a single file or a folder, whose files are found when it is opened.
        urls: copy -> URL of the object.
    """

    base: Path
    files: tuple[Path, ...] | None = None
    urls: Mapping[Path, str] = field(default_factory=dict)


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
def located(path: Path, folder: Path | None = None, *, footers_only: bool = False) -> Iterator[Source]:
    """Yield the files of a table; copies of objects of a bucket are removed at the end.

    Args:
        path: a file, a folder, a glob, or a URL with or without wildcards.
        folder: for the copies; None for the folder for temporary files.
        footers_only: copy only the footers of Parquet files of a bucket, to files that have the size of the objects.

    Raises:
        DataError: nothing is found, or an object cannot be read.
    """
    url = url_of(path)
    if url is not None and url.startswith("file://"):
        path, url = Path(url.removeprefix("file://")), None
    if url is not None:
        with _copied(url, folder, footers_only=footers_only) as copies:
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
def _copied(url: str, folder: Path | None, *, footers_only: bool) -> Iterator[Source]:
    """Yield copies of the objects of a URL; errors of the block name the objects instead of the copies.

    Raises:
        DataError: nothing is found, an object cannot be read, or the disk is full.
    """
    try:
        found = sorted(list_files(url), key=lambda each: each.url)
    except FileAccessError as error:
        raise DataError(str(error)) from error
    is_object = [each.url for each in found] == [url]
    base = _parts_of(url)[0] if is_object or _WILDCARDS.search(url) else url.rstrip("/")
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as copies:
        try:
            files = _copy_all(url, base, found, Path(copies) / "table", footers_only=footers_only)
            urls = {file: each.url for file, each in zip(files, found, strict=True)}
            yield Source(files[0], urls=urls) if is_object else Source(Path(copies) / "table", files, urls)
        except DataError as error:
            if copies not in str(error):
                raise
            raise DataError(str(error).replace(f"{copies}/table", base)) from error


def _copy_all(url: str, base: str, found: Sequence[FoundFile], root: Path, *, footers_only: bool) -> tuple[Path, ...]:
    files = []
    for each in found:
        copy = root / each.url.removeprefix(base).lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not (footers_only and _copy_footer(each, copy, url)):
            copy_object(each.url, copy, url)
        files.append(copy)
    return tuple(files)


def copy_object(url: str, copy: Path, source: str) -> None:
    """Copy an object of a bucket to a file.

    Args:
        source: the URL that was listed, for messages.

    Raises:
        DataError: the object cannot be read, or the disk is full.
    """
    try:
        with open_file(url) as content, copy.open("wb") as target:
            shutil.copyfileobj(content, target, _CHUNK)
    except FileAccessError as error:
        raise _unreadable(url, source, error) from error
    except OSError as error:
        raise DataError(f"{url}: cannot be copied to {copy.parent} ({error.strerror or error}); free space") from error


def _copy_footer(found: FoundFile, copy: Path, source: str) -> bool:
    """Write the footer of a Parquet file to a sparse file of its size; return whether it shows columns and types.

    Whether a column of bytes holds text is seen in its first rows, for which the footer is not enough.

    Raises:
        DataError: the object cannot be read, or the disk is full.
    """
    size = found.n_bytes or 0
    if not found.url.lower().endswith((".parquet", ".pq")) or size <= _FOOTER_BYTES:
        return False
    try:
        end = read_range(found.url, size - _FOOTER_BYTES, size)
        n_bytes = int.from_bytes(end[-8:-4], "little") + 8
        if end[-4:] != _PARQUET_MARK or n_bytes > size:
            return False
        if n_bytes > len(end):
            end = read_range(found.url, size - n_bytes, size)
        with copy.open("wb") as target:
            target.write(_PARQUET_MARK)
            target.seek(size - len(end))
            target.write(end)
    except FileAccessError as error:
        raise _unreadable(found.url, source, error) from error
    except OSError as error:
        raise DataError(
            f"{found.url}: its footer cannot be written to {copy.parent} ({error.strerror or error}); free space"
        ) from error
    try:
        with duckdb.connect() as database:
            types = database.read_parquet([exact_pattern(copy)]).types
    except duckdb.Error:
        return False  # damaged, which is named when the whole file is opened
    return "BLOB" not in map(str, types)


def _unreadable(url: str, source: str, error: FileAccessError) -> DataError:
    if error.reason != "missing":
        return DataError(str(error))
    return DataError(
        f"{url}: was deleted since the parts of {source} were listed; make sure that no other process writes to it, "
        f"and read it again"
    )
