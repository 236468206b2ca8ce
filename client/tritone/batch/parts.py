"""The Parquet parts of a job: their names, writing them in one step, and reading which files they contain.

Parts are written with DuckDB, which works with NumPy 1.26 and 2 and gives all parts the same schema whatever their
values.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tritone.atomic import staged_pattern
from tritone.exceptions import BatchError, FileAccessError, InvalidInputError
from tritone.extras import require
from tritone.remote_errors import translated_errors
from tritone.remote_files import (
    STAGED_SUFFIX,
    filesystem,
    is_remote,
    list_folder,
    local_path,
    read_file,
    write_file,
)

MAX_PART_BYTES: Final = 64 << 20  # of the rows as JSON, which are kept in memory until the part is written
_NUMBER: Final = re.compile(r"%0?(\d*)d")
_N_PATHS: Final = 10_000


class PartNames:
    """The names of the parts of a job, and of the other files in the same folder.

    Parts of shard K of N have the numbers K-1, K-1+N, K-1+2N and so on, so that shards may share a folder.

    Attributes:
        folder: of the parts, as path or URL.
        base: start of the names of the other files of the job.
    """

    def __init__(self, out: str, shard: tuple[int, int] = (1, 1)) -> None:
        """Parse a pattern.

        Args:
            out: such as `results/part-%05d.parquet`.
            shard: (K, N).

        Raises:
            InvalidInputError: the pattern has no number, or does not end in `.parquet`.
        """
        self.folder, _, name = out.rpartition("/")
        if not self.folder:
            self.folder = "/" if out.startswith("/") else "."
        found = _NUMBER.findall(name)
        if len(found) != 1 or name.count("%") != 1 or not name.endswith(".parquet") or "%" in self.folder:
            raise InvalidInputError(
                f"invalid name of the parts: expected a file name with one number, such as DIR/part-%05d.parquet, got "
                f"{out!r}",
                argument="out",
            )
        self._name = name
        self._shard = shard
        before, after = (re.escape(part) for part in _NUMBER.split(name)[::2])
        self._pattern = re.compile(f"{before}([0-9]+){after}")
        self.base = _NUMBER.sub("", name).removesuffix(".parquet").strip("-_.") or "parts"

    def url(self, number: int) -> str:
        """Return the path or URL of the part with a number."""
        return f"{self.folder.rstrip('/')}/{self._name % number}"

    def sibling_url(self, name: str) -> str:
        """Return the path or URL of another file in the same folder."""
        return f"{self.folder.rstrip('/')}/{name}"

    def list_names(self) -> list[str]:
        """Return the names of all files in the folder; none if it does not exist.

        Raises:
            FileAccessError: the folder cannot be read.
        """
        return list_folder(self.folder)

    def numbers(self, files: list[str]) -> list[int]:
        """Return the numbers of the existing parts of this shard, in order."""
        found = (self._pattern.fullmatch(name) for name in files)
        numbers = {int(match[1]) for match in found if match}
        return sorted(number for number in numbers if number % self._shard[1] == self._shard[0] - 1)

    def next_number(self, after: int | None = None) -> int:
        """Return the number of the part after another one; of the first part if None."""
        return self._shard[0] - 1 if after is None else after + self._shard[1]

    def remove_staged(self, urls: Iterable[str], files: list[str]) -> None:
        """Remove temporary files that a killed process left; local folders only.

        Args:
            urls: the files that the process may have been writing.
            files: names of all files in the folder.
        """
        if is_remote(self.folder):
            return
        patterns = [staged_pattern(local_path(url), STAGED_SUFFIX) for url in urls]
        for name in files:
            if any(pattern.fullmatch(name) for pattern in patterns):
                (local_path(self.folder) / name).unlink(missing_ok=True)


class PartWriter:
    """Collects rows and writes them as parts.

    Attributes:
        n_rows: rows that are not written yet.
        n_bytes: their size.
        n_parts: parts written so far.
    """

    def __init__(self, names: PartNames, columns: Mapping[str, str], folder: Path, first: int) -> None:
        """Begin.

        Args:
            columns: types of DuckDB by name.
            folder: for temporary files.
            first: number of the first part.

        Raises:
            MissingExtraError: DuckDB is not installed.
        """
        self._duckdb = require("duckdb", extra="batch", purpose="batch jobs")
        self._names = names
        self._columns = dict(columns)
        self._folder = folder
        self._number = first
        self._lines: list[str] = []
        self._packed: bytes | None = None  # the collected rows as Parquet, kept for further attempts to write them
        self.n_rows = 0
        self.n_bytes = 0
        self.n_parts = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it lacks are null."""
        line = json.dumps({name: row.get(name) for name in self._columns}, default=_base64)
        self._packed = None
        self._lines.append(line)
        self.n_rows += 1
        self.n_bytes += len(line)

    def write(self) -> str | None:
        """Write the collected rows as the next part and return its path or URL; None without rows.

        Raises:
            FileAccessError: the part cannot be written, or exists; the rows are kept.
        """
        if not self._lines:
            return None
        url = self._names.url(self._number)
        if self._packed is None:
            self._packed = self._content(url)
        try:
            write_file(url, self._packed, if_exists="error")
        except FileAccessError as error:
            # If the response to a request is lost, it is sent again, and the store has the part already.
            if not (error.reason == "exists" and is_remote(url) and read_file(url) == self._packed):
                raise
        self._lines.clear()
        self._packed = None
        self.n_rows = self.n_bytes = 0
        self.n_parts += 1
        self._number = self._names.next_number(self._number)
        return url

    def _content(self, url: str) -> bytes:
        """Return the collected rows as Parquet."""
        rows, part = self._folder / "rows.jsonl", self._folder / "part.parquet"
        # From JSON with declared types, every column is optional and of the same type, whatever the rows hold.
        types = {name: "VARCHAR" if kind == "BLOB" else kind for name, kind in self._columns.items()}
        fields = ", ".join(f"{name}: '{kind}'" for name, kind in types.items())
        values = ", ".join(
            f"from_base64({name}) AS {name}" if kind == "BLOB" else name for name, kind in self._columns.items()
        )
        query = (
            f"COPY (SELECT {values} FROM read_json('{_quoted(rows)}', format = 'newline_delimited', "  # noqa: S608
            f"columns = {{{fields}}}, maximum_object_size = {MAX_PART_BYTES * 4})) "
            f"TO '{_quoted(part)}' (FORMAT parquet, COMPRESSION zstd)"
        )
        try:
            with translated_errors(str(rows)):
                with rows.open("w", encoding="ascii") as file:
                    file.writelines(f"{line}\n" for line in self._lines)
                with self._duckdb.connect(config=_CONFIG) as database:
                    database.execute(query)
                return part.read_bytes()
        except self._duckdb.Error as error:
            reason = "no_space" if "No space left" in str(error) else "unreadable"
            raise FileAccessError(f"{url}: the part cannot be written: {error}", url=url, reason=reason) from error
        finally:
            rows.unlink(missing_ok=True)
            part.unlink(missing_ok=True)


_CONFIG: Final = {"threads": "1", "autoinstall_known_extensions": "false"}


def iter_done(names: PartNames, numbers: list[int], folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the path and the error type of every row of the finished parts.

    Args:
        folder: for a temporary copy of each part that is in a bucket.

    Raises:
        BatchError: a part cannot be read (`damaged`).
        FileAccessError: the store failed.
    """
    duckdb = require("duckdb", extra="batch", purpose="batch jobs")
    copy = folder / "finished.parquet"
    with duckdb.connect(config=_CONFIG) as database:
        for number in numbers:
            url = names.url(number)
            if is_remote(url):
                filesystem(url)  # a missing package is an error of its own
                copy.write_bytes(read_file(url))
            path = copy if is_remote(url) else local_path(url)
            try:
                found = database.execute(f"SELECT path, error_type FROM read_parquet('{_quoted(path)}')")  # noqa: S608
                while rows := found.fetchmany(_N_PATHS):
                    yield from rows
            except duckdb.Error as error:
                reason = (str(error).splitlines() or [""])[0]
                raise BatchError(
                    f"{url}: the part cannot be read ({reason}); delete it, and its files are processed again",
                    reason="damaged",
                ) from error
    copy.unlink(missing_ok=True)


def _base64(value: object) -> str:
    if not isinstance(value, bytes):
        raise TypeError(f"unexpected value in a row: {type(value).__name__}")
    return b64encode(value).decode()


def _quoted(path: Path) -> str:
    """Return a path within the quotes of SQL, without the meaning of wildcards."""
    return re.sub(r"([*?\[])", r"[\1]", str(path)).replace("'", "''")
