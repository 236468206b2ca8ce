"""The files of a batch job: of a folder, a glob, a bucket, or a manifest."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tritone.exceptions import FileAccessError, InvalidInputError
from tritone.remote_files import is_remote, list_files, local_path, open_file

MANIFEST_SUFFIXES: Final = (".txt", ".csv")
PATH_COLUMN: Final = "path"


def iter_paths(source: str) -> Iterator[str]:
    """Yield the paths or URLs of a source, which are not checked to exist if they come from a manifest.

    Raises:
        FileAccessError: the source cannot be listed or read.
        InvalidInputError: a manifest has no column `path`, or is not text in UTF-8.
    """
    if not source.lower().endswith(MANIFEST_SUFFIXES) or (not is_remote(source) and local_path(source).is_dir()):
        yield from (found.url for found in list_files(source))
        return
    folder = source.rpartition("/")[0] if is_remote(source) else str(local_path(source).parent)
    n_paths = 0
    with open_file(source) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
        try:
            for path in _manifest_paths(lines, source):
                n_paths += 1
                yield _resolved(path, folder)
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{source}: expected text in UTF-8, got other bytes ({error}); save the manifest as UTF-8",
                argument="source",
            ) from error
        except csv.Error as error:
            raise InvalidInputError(f"{source}: is not a valid CSV file ({error})", argument="source") from error
    if not n_paths:
        raise FileAccessError(
            f"{source}: the manifest is empty: expected at least one path", url=source, reason="missing"
        )


def _manifest_paths(lines: io.TextIOWrapper, source: str) -> Iterator[str]:
    if source.lower().endswith(".txt"):
        yield from (line.strip("\r\n") for line in lines if line.strip())
        return
    rows = csv.DictReader(lines)
    if PATH_COLUMN not in (rows.fieldnames or ()):
        found = ", ".join(rows.fieldnames or ()) or "none"
        raise InvalidInputError(
            f"{source}: expected a column {PATH_COLUMN!r}, got {found}; name the column of the files {PATH_COLUMN!r}",
            argument="source",
        )
    yield from (row[PATH_COLUMN] for row in rows if row[PATH_COLUMN])


def _resolved(path: str, folder: str) -> str:
    """Return a path of a manifest; relative ones start at the folder of the manifest."""
    if "://" in path or Path(path).is_absolute() or not folder:
        return path
    return f"{folder}/{path}" if "://" in folder else os.path.join(folder, path)  # noqa: PTH118 - keeps ".."


def printable(path: str) -> str:
    r"""Return a path as text for Parquet; bytes that are not UTF-8 become `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
