"""Copy the rows of a log into a temporary database: the table `staged`, which `staged_cells` reads.

Parquet is copied by SQL, with numbers and moments as numbers where the types of all parts are such. Of other formats
pieces of a bounded number of rows are in memory, and all columns are staged as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.data.interactions.scratch import Scratch, sql_text
from tritone_training.data.tables import NOTHING, Table
from tritone_training.exceptions import DataError

NUMBER: Final = "number"  # kinds of staged columns
MOMENT: Final = "moment"
TEXT: Final = "text"
_NOT_UTF8_MARK: Final = "\0"  # before the hexadecimal digits of a text with bytes that are not UTF-8
# Everything that `str.strip` removes.
_BLANKS: Final = (
    " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_WHOLE_TYPES: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)
_FIRST_MOMENT, _LAST_MOMENT = "TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"


@dataclass(frozen=True)
class RowColumns:
    """Columns of a log.

    Attributes:
        counted: play counts or ratings.
        counted_option: the option that names this column, for messages.
    """

    user: str
    item: str
    counted: str | None = None
    time: str | None = None
    skipped: str | None = None
    counted_option: str = "--plays-column"


@dataclass
class Staging:
    """Rows in the table `staged`.

    Attributes:
        path: of the table, for messages.
        kinds: how the columns `counted` and `time` are staged: by their numbers or moments, or as text.
        is_whole: whether the column of times holds whole numbers.
        n_rows: all rows.
        n_naive: times without a zone so far.
        n_zoned: times with a zone so far.
        is_grouped: whether ids are keys of the tables `user_ids` and `item_ids`, and a row stands for `n` equal ones.
    """

    scratch: Scratch
    source: str
    columns: RowColumns
    path: Path
    separator: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    is_whole: bool = False
    n_rows: int = 0
    n_naive: int = 0
    n_zoned: int = 0
    is_grouped: bool = False


def stage_table(scratch: Scratch, source: str, table: Table, columns: RowColumns) -> Staging:
    """Copy the rows of a table.

    Args:
        source: name of the log, for messages.

    Raises:
        DataError: the table is damaged, a column holds values that are ambiguous or of another kind, or space runs out.
    """
    staging = begin_staging(scratch, source, table, columns)
    _create(staging)
    for part, keys in parts_of(table):
        if part.scan is not None:
            _insert_parquet(staging, part, keys)
        else:
            names = [name for name in used_columns(columns).values() if name in part.names and name not in keys]
            _insert_frames(staging, part.chunks(names or [part.names[0]]), keys)
    return staging


def begin_staging(scratch: Scratch, source: str, table: Table, columns: RowColumns) -> Staging:
    """Decide over all parts of a table how each column is read.

    Raises:
        DataError: a column has values of another kind in one of the parts.
    """
    parts = parts_of(table)
    staging = Staging(scratch, source, columns, table.path, table.separator)
    for use, name in used_columns(columns).items():
        if use != "skipped":
            _check_same_types(name, parts)
    for what in ("counted", "time"):
        if (name := getattr(columns, what)) is not None:
            staging.kinds[what] = _kind_of(what, [_type_of(part, keys, name) for part, keys in parts])
    time_types = [_type_of(part, keys, columns.time) for part, keys in parts] if columns.time else []
    staging.is_whole = bool(time_types) and all(kind in _WHOLE_TYPES for kind in time_types if kind is not None)
    return staging


def parts_of(table: Table) -> Sequence[tuple[Table, Mapping[str, str | None]]]:
    """Return the parts of a table with the columns that their folders are; a table in one file is its only part."""
    return table.parts or [(table, {})]


def stage_frames(scratch: Scratch, source: str, path: Path, frames: Iterator[pd.DataFrame]) -> Staging:
    """Copy rows of the columns `user` and `item`.

    Raises:
        DataError: as `stage_table`.
    """
    staging = Staging(scratch, source, RowColumns("user", "item"), path)
    _create(staging)
    _insert_frames(staging, frames, {})
    return staging


def used_columns(columns: RowColumns) -> dict[str, str]:
    """Return use -> column of the columns that are read."""
    uses = ("user", "item", "counted", "time", "skipped")
    return {use: name for use in uses if (name := getattr(columns, use)) is not None}


def _type_of(part: Table, keys: Mapping[str, str | None], name: str) -> str | None:
    """Return the type of a column in a part: of DuckDB, `text`, or None if the column has no values."""
    if name in keys:
        return TEXT if keys[name] is not None else None
    if part.unusable.get(name) == NOTHING or name not in part.names:
        return None
    return TEXT if part.scan is None else part.scan.types[name]


def _check_same_types(name: str, parts: Sequence[tuple[Table, Mapping[str, str | None]]]) -> None:
    """Check that a column has one kind of type in all Parquet parts; numbers may have different sizes.

    Raises:
        DataError: it holds text in one part and numbers in another, for example.
    """
    first: tuple[Path, str] | None = None
    for part, keys in parts:
        kind = _type_of(part, keys, name)
        if part.scan is None or kind is None or name in keys:
            continue
        if first is None:
            first = part.path, kind
        elif _family(kind) != _family(first[1]):
            raise DataError(
                f"{part.path}: column {name!r} has another type than in {first[0].name}: expected {_family(first[1])} "
                f"({first[1]}), got {_family(kind)} ({kind}); write the part again with that type"
            )


def _family(kind: str) -> str:
    if kind in _WHOLE_TYPES or kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):
        return "numbers"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return "times"
    return "flags" if kind == "BOOLEAN" else "text"


def _kind_of(what: str, types: Sequence[str | None]) -> str:
    """Return how a column is staged: by its type if this settles in each part how it is read, else as text."""
    known = [kind for kind in types if kind is not None]
    families = {_family(kind) for kind in known}
    if families == {"numbers"}:
        return NUMBER
    if what == "time" and families == {"times"}:
        return MOMENT
    return TEXT


def typed_columns(staging: Staging, id_type: str) -> dict[str, str]:
    """Return the columns of the table `staged` with their types in SQL."""
    columns = {"row": "BIGINT", "user": id_type, "item": id_type}
    for what in ("counted", "time"):
        if what in used_columns(staging.columns):
            columns[what] = "VARCHAR" if staging.kinds[what] == TEXT else "DOUBLE"
    if staging.columns.skipped is not None:
        columns["skipped"] = "VARCHAR"
    return columns


def _create(staging: Staging) -> None:
    columns = typed_columns(staging, "VARCHAR")
    defined = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    staging.scratch.run(f"CREATE TABLE staged ({defined})")


def parquet_cells(staging: Staging, part: Table, keys: Mapping[str, str | None]) -> dict[str, str]:
    """Return use -> SQL expression of a Parquet file's column, as the table `staged` holds it."""
    scan = part.scan
    assert scan is not None  # noqa: S101 - checked by the caller
    cells = {}
    for use, name in used_columns(staging.columns).items():
        kind = staging.kinds.get(use, TEXT)
        if name in keys:
            cells[use] = "NULL" if keys[name] is None else sql_text(str(keys[name]))
        elif _type_of(part, keys, name) is None:
            cells[use] = "NULL"
        elif kind == NUMBER:
            cells[use] = _as_number(scan.stored[name], scan.types[name])
        elif kind == MOMENT:
            cells[use] = _as_seconds(scan.stored[name])
        else:
            cells[use] = _stripped(scan.texts[name]) if use in ("counted", "time") else scan.texts[name]
    return cells


def texts_of_file(staging: Staging, part: Table, keys: Mapping[str, str | None]) -> dict[str, str]:
    """Return use -> column of a Parquet file's columns of text, which may hold zero bytes."""
    types = {} if part.scan is None else part.scan.types
    return {
        use: name
        for use, name in used_columns(staging.columns).items()
        if name not in keys and types.get(name) in ("VARCHAR", "BLOB")
    }


def _insert_parquet(staging: Staging, part: Table, keys: Mapping[str, str | None]) -> None:
    """Copy the rows of a Parquet file.

    Raises:
        DataError: the file is damaged, holds zero bytes, or space runs out.
    """
    scan = part.scan
    assert scan is not None  # noqa: S101 - checked by the caller
    cells = parquet_cells(staging, part, keys)
    first = staging.n_rows
    query = (
        f"INSERT INTO staged (row, {', '.join(cells)}) SELECT file_row_number + {first}, {', '.join(cells.values())} "
        f"FROM read_parquet({sql_text(scan.file)}, file_row_number = true)"
    )
    try:
        staging.n_rows += int(staging.scratch.run(query)[0][0])
    except duckdb.Error as error:
        raise scan.damaged(error) from error
    for use, name in texts_of_file(staging, part, keys).items():
        found = staging.scratch.run(f"SELECT min(row) FROM staged WHERE row >= {first} AND contains({use}, chr(0))")
        if found[0][0] is not None:
            raise zero_byte_error(part.path, name, found[0][0] - first)
    if staging.kinds.get("time") == MOMENT:
        known = f"SELECT count(time) FROM staged WHERE row >= {first}"
        count_zones(staging, part, int(staging.scratch.run(known)[0][0]))


def zero_byte_error(path: Path, name: str, row: int) -> DataError:
    """Return the error for a cell of text with a zero byte.

    Args:
        row: in the file, from 0.
    """
    return DataError(
        f"{path}: column {name!r} holds a zero byte (row {row + 1:,}): expected text or numbers; write ids of bytes as "
        f"hexadecimal digits"
    )


def count_zones(staging: Staging, part: Table, n_times: int) -> None:
    """Count the known times of a Parquet file with or without a zone, by the type of the column."""
    types = {} if part.scan is None else part.scan.types
    if "TIME ZONE" in types.get(staging.columns.time or "", ""):
        staging.n_zoned += n_times
    else:
        staging.n_naive += n_times


def _insert_frames(staging: Staging, frames: Iterator[pd.DataFrame], keys: Mapping[str, str | None]) -> None:
    used = used_columns(staging.columns)
    for frame in frames:
        columns: dict[str, Any] = {"row": np.arange(staging.n_rows, staging.n_rows + len(frame))}
        for use, name in used.items():
            if name in keys:
                columns[use] = pd.Series([keys[name]] * len(frame), dtype=object)
            elif name not in frame.columns:
                columns[use] = pd.Series([None] * len(frame), dtype=object)
            else:
                columns[use] = pd.Series(_utf8(frame[name].to_numpy(object)), dtype=object)
        selected = ", ".join(_stripped(use) if use in ("counted", "time") else use for use in ("row", *used))
        names = ", ".join(use for use in ("row", *used))
        staging.scratch.insert(
            f"INSERT INTO staged ({names}) SELECT {selected} FROM piece", piece=pd.DataFrame(columns)
        )
        staging.n_rows += len(frame)


def _utf8(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return texts that the database can store: a mark and hexadecimal digits for bytes that are not UTF-8."""
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode("utf-8")
    except UnicodeEncodeError:
        return np.array([_storable(cell) for cell in cells], object)
    return cells


def _storable(cell: object) -> object:
    try:
        if isinstance(cell, str):
            cell.encode("utf-8")
    except UnicodeEncodeError:
        return _NOT_UTF8_MARK + str(cell).encode("utf-8", "surrogatepass").hex()
    return cell


def original_text(text: str) -> str:
    """Return the text that `_utf8` stored."""
    if not text.startswith(_NOT_UTF8_MARK):
        return text
    return bytes.fromhex(text[1:]).decode("utf-8", "surrogatepass")


def _as_number(column: str, kind: str) -> str:
    if kind == "FLOAT":  # through its shortest text, as 0.1 is meant
        return f"CASE WHEN isnan({column}) THEN NULL ELSE CAST(CAST({column} AS VARCHAR) AS DOUBLE) END"
    number = f"CAST({column} AS DOUBLE)"
    return f"CASE WHEN isnan({column}) THEN NULL ELSE {number} END" if kind == "DOUBLE" else number


def _as_seconds(column: str) -> str:
    moment = f"CAST({column} AS TIMESTAMP)"
    return (
        f"CASE WHEN isfinite({moment}) AND {moment} BETWEEN {_FIRST_MOMENT} AND {_LAST_MOMENT} "
        f"THEN epoch_us({moment}) / 1e6 END"
    )


def _stripped(text: str) -> str:
    return f"trim({text}, {sql_text(_BLANKS)})"
