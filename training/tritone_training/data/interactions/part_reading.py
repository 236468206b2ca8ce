"""Read some rows of a Parquet file on a worker: different ids, and the rows with keys of ids, equal ones counted.

How each column is read was decided over all parts before, so nothing here depends on the rest of the log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from tritone.exceptions import FileAccessError, MissingExtraError
from tritone_training.data.interactions.scratch import Scratch, open_scratch, sql_text, temporary_folder
from tritone_training.data.tables.parquet import damaged_parquet, exact_pattern
from tritone_training.data.tables.sources import copy_object
from tritone_training.exceptions import DataError

# Codes, counts and times of neighbouring rows are similar, which this format uses; it is read as fast as others.
_WRITTEN: Final = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1"
IDS: Final = ("user", "item")


@dataclass(frozen=True)
class LogPart:
    """Some rows of a Parquet file of a log, and how they are read.

    Attributes:
        location: absolute path of the file, or URL of an object of a bucket.
        shown: the file as messages name it.
        source: the whole log as the user named it, for messages.
        cells: use -> SQL expression of the column.
        texts: uses whose cells may hold zero bytes.
        first_row: in the file.
        end_row: likewise.
        n_file_rows: all rows of the file, which were counted when the log was opened.
        counts_equal: whether equal rows become one; not where a time or a text has to be read row by row.
        has_order: whether the positions of rows are needed.
        n_at_once: parts that may be read at the same time.
    """

    location: str
    shown: str
    source: str
    cells: Mapping[str, str]
    texts: tuple[str, ...]
    first_row: int
    end_row: int
    n_file_rows: int
    counts_equal: bool
    has_order: bool
    n_at_once: int = 1


@dataclass(frozen=True, eq=False)
class PartRows:
    """What was read of a part.

    Attributes:
        ids: "user" and "item" -> a Parquet file of different texts: `key` (from 0), `text`, `n` (rows) and `first` (row
            in the file).
        rows: a Parquet file: `row` (in the file), `user` and `item` (keys), the other cells, and `n` (equal rows).
        n_ids: "user" and "item" -> different texts.
        n_rows: rows that were read.
        n_times: known times among them.
        zero_bytes: use -> first row in the file whose cell holds a zero byte.
    """

    ids: Mapping[str, bytes]
    rows: bytes
    n_ids: Mapping[str, int]
    n_rows: int
    n_times: int
    zero_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class UnreadablePart:
    """A part that a worker has no access to.

    Attributes:
        worker: name of its computer.
        why: what its system or the store answered.
        is_missing: whether there is no such file on that computer, or no such object.
    """

    worker: str
    why: str
    is_missing: bool


def read_part(part: LogPart) -> PartRows | UnreadablePart:
    """Read a part in a temporary database of this worker.

    Raises:
        DataError: the file is damaged or has changed, or memory or disk space are used up.
    """
    try:
        # All workers and the driver may be on one computer.
        with _file_of(part) as file, open_scratch(min(part.n_at_once, os.cpu_count() or 1)) as scratch:
            return _read(scratch, part, file)
    except DataError as error:
        if str(error).startswith(part.shown):
            raise
        raise DataError(f"worker {_name()}: {error}") from error
    except FileAccessError as error:
        return UnreadablePart(_name(), str(error), error.reason == "missing")
    except MissingExtraError as error:
        return UnreadablePart(_name(), str(error), is_missing=False)
    except OSError as error:
        return UnreadablePart(_name(), error.strerror or str(error), isinstance(error, FileNotFoundError))


@contextmanager
def _file_of(part: LogPart) -> Iterator[Path]:
    """Yield the file of a part; an object of a bucket is copied.

    Raises:
        FileAccessError: the object cannot be read.
        OSError: the file cannot be opened.
        DataError: the disk is full.
    """
    if "://" not in part.location:
        with Path(part.location).open("rb"):
            pass
        yield Path(part.location)
        return
    with temporary_folder() as folder:
        copy = folder / "part"
        try:
            copy_object(part.location, copy, part.source)
        except DataError as error:
            if isinstance(error.__cause__, FileAccessError):
                raise error.__cause__ from error
            raise DataError(f"worker {_name()}: {error}") from error
        yield copy


def _read(scratch: Scratch, part: LogPart, file: Path) -> PartRows:
    scratch.run("SET threads = 1")
    pattern = exact_pattern(file)
    cells = ", ".join(f"{cell} AS {use}" for use, cell in part.cells.items())
    try:
        n_found = scratch.run("SELECT coalesce(sum(num_rows), 0) FROM parquet_file_metadata(?)", [pattern])[0][0]
        if n_found != part.n_file_rows:
            raise DataError(
                f"{part.shown}: was written while {part.source} was being read: expected {part.n_file_rows:,} rows, "
                f"got {n_found:,}; make sure that no other process writes to it, and read it again"
            )
        scratch.run(
            f"CREATE TABLE part AS SELECT file_row_number AS row, {cells} "
            f"FROM read_parquet({sql_text(pattern)}, file_row_number = true) "
            f"WHERE file_row_number >= {part.first_row} AND file_row_number < {part.end_row}"
        )
    except duckdb.Error as error:
        damaged = damaged_parquet(part.shown, file, error)
        raise DataError(str(damaged).replace(str(file), part.shown)) from error
    smallest = ", ".join(f"min(row) FILTER (contains({use}, chr(0)))" for use in part.texts)
    zeros = dict(zip(part.texts, scratch.run(f"SELECT {smallest} FROM part")[0], strict=True)) if smallest else {}
    times = "count(time)" if "time" in part.cells else "0"
    n_rows, n_times = scratch.run(f"SELECT count(*), {times} FROM part")[0]
    folder, ids, n_ids = scratch.folder, {}, {}
    for what in IDS:
        scratch.run(
            f"CREATE TABLE {what}_ids AS SELECT (row_number() OVER (ORDER BY first) - 1)::INTEGER AS key, "
            f"text, n, first FROM (SELECT {what} AS text, count(*)::INTEGER AS n, min(row) AS first FROM part "
            f"WHERE {what} IS NOT NULL GROUP BY {what})"
        )
        n_ids[what] = int(scratch.run(f"SELECT count(*) FROM {what}_ids")[0][0])
        ids[what] = _written(scratch, f"SELECT * FROM {what}_ids ORDER BY key", folder / what)
    others = [use for use in part.cells if use not in IDS]
    joined = "part " + " ".join(f"LEFT JOIN {what}_ids ON part.{what} = {what}_ids.text" for what in IDS)
    chosen = ", ".join(["user_ids.key AS user", "item_ids.key AS item", *(f"part.{use}" for use in others)])
    if not part.counts_equal:
        query = f"SELECT part.row, {chosen}, 1 AS n FROM {joined} ORDER BY part.row"
    else:
        # Sums of whole numbers are exact in any order; rows with other counts stay apart.
        whole = ", CASE WHEN coalesce(counted = trunc(counted), true) THEN -1 ELSE part.row END AS apart"
        row = "min(row)" if part.has_order else "0"
        keys = ", ".join(["user", "item", *others, *(["apart"] if "counted" in others else [])])
        rows = f"SELECT part.row, {chosen}{whole if 'counted' in others else ''} FROM {joined}"
        query = f"SELECT {row} AS row, {', '.join(['user', 'item', *others])}, count(*)::INTEGER AS n FROM ({rows}) "
        query += f"GROUP BY {keys} ORDER BY user, item"
    rows_file = _written(scratch, query, folder / "rows")
    found = {use: int(row) for use, row in zeros.items() if row is not None}
    return PartRows(ids, rows_file, n_ids, int(n_rows), int(n_times), found)


def _written(scratch: Scratch, query: str, file: Path) -> bytes:
    """Return the result of a query as a Parquet file.

    Raises:
        DataError: memory or disk space are used up.
    """
    scratch.run(f"COPY ({query}) TO {sql_text(str(file))} ({_WRITTEN})")
    with scratch.errors():
        content = file.read_bytes()
    file.unlink()
    return content


def _name() -> str:
    return os.uname().nodename
