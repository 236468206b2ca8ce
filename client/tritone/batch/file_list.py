"""The files of a job and which of them are done, in a temporary SQLite database that is on disk where it is large."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from tritone.batch.sources import printable
from tritone.exceptions import BatchError

T = TypeVar("T")
_N_INSERTED: Final = 10_000
_N_SELECTED: Final = 1_000


class FileList:
    """The files of a job in a fixed order, each with whether it has a row in a part.

    Attributes:
        n_files: number of files.
    """

    def __init__(self) -> None:
        """Create an empty list."""
        # Without a name, SQLite uses memory up to its cache, and beyond it a file that vanishes with the process.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT UNIQUE, raw BLOB, done INTEGER DEFAULT 0)"
        )
        self.n_files = 0

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def add(self, paths: Iterable[str], shard: tuple[int, int]) -> None:
        """Add the files of a shard, which is chosen by a hash of the path.

        Raises:
            BatchError: two files have the same path as text (`ambiguous_paths`).
        """
        wanted = ((printable(path), os.fsencode(path)) for path in paths)
        mine = ((text, raw) for text, raw in wanted if shard[1] == 1 or _shard_of(raw, shard[1]) == shard[0])
        for rows in _batched(mine):
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO files (path, raw) VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
            if any(text.encode() != raw for text, raw in rows):
                self._check_unambiguous(rows)
        self.n_files = self._database.execute("SELECT count(*) FROM files").fetchone()[0]

    def _check_unambiguous(self, rows: Iterable[tuple[str, bytes]]) -> None:
        for text, raw in rows:
            stored = self._database.execute("SELECT raw FROM files WHERE path = ?", [text]).fetchone()[0]
            if stored != raw:
                raise BatchError(
                    f"{text}: two different files are written as this path (bytes that are not UTF-8 are escaped as "
                    f"\\xNN); rename one of them",
                    reason="ambiguous_paths",
                )

    def mark_done(self, paths: Iterable[str]) -> tuple[int, str | None]:
        """Mark files as done.

        Returns:
            (number of the paths that are not in the list or were marked before, one of them).
        """
        n_other, example = 0, None
        for some in _batched(paths):
            self._database.execute("BEGIN")
            for path in some:
                query = "UPDATE files SET done = 1 WHERE path = ? AND done = 0"
                if self._database.execute(query, [path]).rowcount != 1:
                    n_other, example = n_other + 1, path
            self._database.execute("COMMIT")
        return n_other, example

    def n_done(self) -> int:
        """Return the number of files that are done."""
        return int(self._database.execute("SELECT count(*) FROM files WHERE done").fetchone()[0])

    def pending(self) -> Iterator[tuple[str, str]]:
        """Yield the path as text, and the path or URL to open, of each file that is not done."""
        after = 0
        query = "SELECT id, path, raw FROM files WHERE id > ? AND NOT done ORDER BY id LIMIT ?"
        while rows := self._database.execute(query, [after, _N_SELECTED]).fetchall():
            after = rows[-1][0]
            yield from ((path, os.fsdecode(raw)) for _, path, raw in rows)

    def all_paths(self) -> Iterator[str]:
        """Yield the path or URL to open of every file, in order."""
        for (raw,) in self._database.execute("SELECT raw FROM files ORDER BY id"):
            yield os.fsdecode(raw)


def _shard_of(raw: bytes, n_shards: int) -> int:
    return int.from_bytes(hashlib.sha256(raw).digest()[:8]) % n_shards + 1


def _batched(values: Iterable[T]) -> Iterator[list[T]]:
    source = iter(values)
    while chunk := list(islice(source, _N_INSERTED)):
        yield chunk
