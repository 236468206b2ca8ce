"""Stage a log of Parquet files that workers read, a part each: the driver merges their ids and rows.

The table `staged` that results has keys of ids in place of texts, and one row for equal ones; what is made of it is
the same as if this process had read the files. The rows of one part at a time are in memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from tritone_training.data.interactions.part_reading import IDS, LogPart, PartRows, UnreadablePart, read_part
from tritone_training.data.interactions.scratch import Scratch, sql_text
from tritone_training.data.interactions.staging import (
    MOMENT,
    TEXT,
    RowColumns,
    Staging,
    begin_staging,
    count_zones,
    parquet_cells,
    parts_of,
    texts_of_file,
    typed_columns,
    zero_byte_error,
)
from tritone_training.data.tables import Table
from tritone_training.data.tables.parquet import exact_pattern
from tritone_training.exceptions import DataError

ROWS_OF_A_PART: Final = 2_000_000  # of a file on disk
LEAST_ROWS: Final = 5_000_000  # of a log that workers read by default: starting them takes seconds


class PartMap(Protocol):
    """An ordered parallel map, such as an engine of the recommender."""

    @property
    def n_workers(self) -> int:
        """Parts that are read at the same time."""

    def map(self, task: Callable[[LogPart], Any], parts: Sequence[LogPart]) -> Generator[Any]:
        """Yield the results of a task in the order of the parts."""


@dataclass(frozen=True)
class ReadingWorkers:
    """Workers that may read a log.

    Attributes:
        open: starts them for a `with` block.
        is_required: whether they have to read the log; False if they do only where it is worth it.
        least_rows: rows of a log that is read by them if it is not required.
    """

    open: Callable[[], AbstractContextManager[PartMap]]
    is_required: bool = False
    least_rows: int = LEAST_ROWS

    def why_not(self, table: Table) -> str | None:
        """Return why the workers do not read a table, as the end of a sentence; None if they do."""
        scans = [part.scan for part, _ in parts_of(table)]
        if any(scan is None for scan in scans):
            return f"it is {table.format}"
        if any(scan is not None and scan.is_unpacked for scan in scans):
            return "its files are compressed as a whole"
        n_rows = sum(scan.n_rows for scan in scans if scan is not None)
        if n_rows < self.least_rows and not self.is_required:
            return f"it has {n_rows:,} rows"
        return None


@dataclass(frozen=True)
class _Slice:
    """A part, and where it is in the log.

    Attributes:
        file_row: position in the log of the file's first row.
        is_last: whether it is the last one of its file.
    """

    part: LogPart
    table: Table
    keys: Mapping[str, str | None]
    file_row: int
    is_last: bool


def stage_parts(scratch: Scratch, source: str, table: Table, columns: RowColumns, workers: ReadingWorkers) -> Staging:
    """Let workers read the Parquet files of a table, and merge what they find.

    Args:
        source: name of the log, for messages.

    Raises:
        DataError: a file is damaged, has changed, or cannot be read by a worker; a column holds values that are
            ambiguous or of another kind; or space runs out.
        FileNotFoundError: a file was deleted.
    """
    staging = replace(begin_staging(scratch, source, table, columns), is_grouped=True)
    defined = {**typed_columns(staging, "INTEGER"), "n": "INTEGER"}
    scratch.run(f"CREATE TABLE staged ({', '.join(f'{name} {kind}' for name, kind in defined.items())})")
    for what in IDS:
        scratch.run(f"CREATE TABLE {what}_ids (key INTEGER, text VARCHAR, n INTEGER, first BIGINT)")
    n_ids = dict.fromkeys(IDS, 0)
    zero_bytes: dict[str, int] = {}  # of the file so far
    with workers.open() as engine:
        for each, found in _read(engine, list(_slices(staging, table, engine.n_workers))):
            for use, row in found.zero_bytes.items():
                zero_bytes.setdefault(use, row)
            if each.is_last:
                for use, name in texts_of_file(staging, each.table, each.keys).items():
                    if use in zero_bytes:
                        raise zero_byte_error(each.table.path, name, zero_bytes[use])
                zero_bytes.clear()
            _insert(staging, found, each.file_row, n_ids)
            if staging.kinds.get("time") == MOMENT:
                count_zones(staging, each.table, found.n_times)
    return staging


def _read(engine: PartMap, slices: Sequence[_Slice]) -> Iterator[tuple[_Slice, PartRows]]:
    """Yield what workers read, in the order of the log.

    Raises:
        DataError: a part is damaged, has changed, or cannot be read by a worker.
        FileNotFoundError: a file was deleted.
    """
    with closing(engine.map(read_part, [each.part for each in slices])) as results:
        for each, found in zip(slices, results, strict=True):
            if isinstance(found, UnreadablePart):
                raise _unreadable(each, found)
            yield each, found


def _slices(staging: Staging, table: Table, n_workers: int) -> Iterator[_Slice]:
    columns, file_row = staging.columns, 0
    counts_equal = columns.time is None and staging.kinds.get("counted") != TEXT
    for part, keys in parts_of(table):
        scan = part.scan
        assert scan is not None  # noqa: S101 - checked by ReadingWorkers.why_not
        url = table.origins.get(scan.path)
        whole = LogPart(
            location=url or str(scan.path.absolute()),
            shown=url or str(part.path),
            source=str(table.path),
            cells=parquet_cells(staging, part, keys),
            texts=tuple(texts_of_file(staging, part, keys)),
            first_row=0,
            end_row=scan.n_rows,
            n_file_rows=scan.n_rows,
            counts_equal=counts_equal,
            has_order=not counts_equal or columns.skipped is not None,
            n_at_once=n_workers,
        )
        # Each part of an object would have to be copied with the whole object.
        size = max(scan.n_rows, 1) if url else ROWS_OF_A_PART
        for first in range(0, scan.n_rows, size):
            end = min(first + size, scan.n_rows)
            piece = replace(whole, first_row=first, end_row=end)
            yield _Slice(piece, part, keys, file_row, is_last=end == scan.n_rows)
        file_row += scan.n_rows


def _insert(staging: Staging, found: PartRows, file_row: int, n_ids: dict[str, int]) -> None:
    """Add the ids and rows of a part.

    Args:
        file_row: position in the log of the file's first row.
        n_ids: keys of ids so far, which are counted on.

    Raises:
        DataError: memory or disk space are used up.
    """
    scratch = staging.scratch
    for what in IDS:
        with _file_of(scratch, found.ids[what]) as file:
            scratch.run(
                f"INSERT INTO {what}_ids SELECT key + {n_ids[what]}, text, n, first + {file_row} "
                f"FROM read_parquet({file})"
            )
    columns = [name for name in typed_columns(staging, "INTEGER") if name not in ("row", *IDS)]
    names = ", ".join(["row", *IDS, *columns, "n"])
    values = [f"row + {file_row}", *(f"{what} + {n_ids[what]}" for what in IDS), *columns, "n"]
    with _file_of(scratch, found.rows) as file:
        scratch.run(f"INSERT INTO staged ({names}) SELECT {', '.join(values)} FROM read_parquet({file})")
    staging.n_rows += found.n_rows
    for what in IDS:
        n_ids[what] += found.n_ids[what]


@contextmanager
def _file_of(scratch: Scratch, content: bytes) -> Iterator[str]:
    """Yield the path of a Parquet file as a literal of SQL.

    Raises:
        DataError: disk space is used up.
    """
    path = scratch.folder / "part"
    with scratch.errors():
        path.write_bytes(content)
    try:
        yield sql_text(exact_pattern(path))
    finally:
        path.unlink()


def _unreadable(each: _Slice, found: UnreadablePart) -> Exception:
    """Return the error for a part that a worker has no access to."""
    part = each.part
    if "://" in part.location:
        if found.is_missing:
            return DataError(
                f"{part.shown}: was deleted since the parts of {part.source} were listed; make sure that no other "
                f"process writes to it, and read it again"
            )
        return DataError(
            f"worker {found.worker} cannot read the log: {found.why}; give the workers the credentials of the bucket "
            f"in their environment and the package for it, or read the log in this process: --read driver"
        )
    try:
        with Path(part.location).open("rb"):
            pass
    except FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part.shown)
    except OSError as error:
        return DataError(f"{part.shown}: cannot be read ({error.strerror or error})")
    return DataError(
        f"{part.location}: worker {found.worker} cannot read it ({found.why}), but this process can: expected the log "
        f"at the same path on all workers; mount the folder there, put the log into a bucket, or read it in this "
        f"process: --read driver"
    )
