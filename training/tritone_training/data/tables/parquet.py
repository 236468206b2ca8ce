"""Parquet, with each column converted to text by its type: 64-bit ids stay exact, times with a zone become UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.tables.table import NOTHING, ParquetScan, Table, check_names, check_zero_bytes
from tritone_training.exceptions import DataError

_SNIFFED_ROWS: Final = 1_000
_ROWS_ALWAYS_READ: Final = 20_000_000
_MOST_ROWS_A_BYTE: Final = 20  # runs of equal values compress without limit; real logs have fewer rows
_EXACT: Final = {"DOUBLE": 2**53, "FLOAT": 2**24}


def parquet_table(path: Path, file: Path) -> Table:
    """Open a Parquet file.

    Args:
        path: the file to name in messages.
        file: the unpacked file.

    Raises:
        DataError: it is damaged, has two columns of one name, or unpacks to too many rows.
    """
    try:
        with _database() as database:
            relation = database.read_parquet([exact_pattern(file)])
            columns = list(zip(relation.columns, map(str, relation.types), strict=True))
            stored = _stored_names(database, file)
            counted = "SELECT coalesce(sum(num_rows), 0) FROM parquet_file_metadata(?)"
            n_rows = int(database.execute(counted, [exact_pattern(file)]).fetchall()[0][0])
            blobs = {name for name, kind in columns if kind == "BLOB" and not _is_text(relation, name)}
    except duckdb.Error as error:
        raise damaged_parquet(path, file, error) from error
    if n_rows > max(_ROWS_ALWAYS_READ, _MOST_ROWS_A_BYTE * file.stat().st_size):
        raise DataError(
            f"{path}: unpacks to {n_rows:,} rows: expected at most {_ROWS_ALWAYS_READ:,}, or "
            f"{_MOST_ROWS_A_BYTE} for each of its bytes"
        )
    shown = [name for name, _ in columns] if len(stored) != len(columns) else stored  # DuckDB renames duplicates
    names = check_names(path, [normalize_id(name) for name in shown])
    by_name = dict(zip(names, columns, strict=True))
    unusable = {name: what for name, (_, kind) in by_name.items() if (what := _no_single_value(kind))}

    scan = ParquetScan(
        path=file,
        file=exact_pattern(file),
        n_rows=n_rows,
        is_unpacked=path != file,
        types={name: kind for name, (_, kind) in by_name.items()},
        stored={name: _quoted(column) for name, (column, _) in by_name.items()},
        texts={name: _as_text(column, kind, is_binary=column in blobs) for name, (column, kind) in by_name.items()},
        damaged=lambda error: damaged_parquet(path, file, error),
    )

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        expressions = [f"{scan.texts[name]} AS {scan.stored[name]}" for name in wanted]
        try:
            with _database() as database:
                relation = database.read_parquet([exact_pattern(file)])
                frame: pd.DataFrame = relation.project(", ".join(expressions)).df()
        except duckdb.Error as error:
            raise damaged_parquet(path, file, error) from error
        frame.columns = pd.Index(wanted, dtype=object)
        for name in wanted:
            if by_name[name][1] in ("VARCHAR", "BLOB"):
                check_zero_bytes(path, name, frame[name])
        return frame.astype(object)

    return Table(
        path,
        "Parquet",
        [name for name in names if name not in unusable],
        load,
        unusable=unusable,
        binary=frozenset(name for name, (column, _) in by_name.items() if column in blobs),
        scan=scan,
    )


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    database.execute("SET TimeZone = 'UTC'")
    return database


def damaged_parquet(path: Path | str, file: Path, error: Exception) -> DataError:
    """Return the error for a Parquet file that DuckDB cannot read.

    Args:
        path: the file to name in the message.
        file: the unpacked file.

    Raises:
        OSError: the file was deleted, or cannot be opened.
    """
    why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - 4))
        if content.read() not in (b"PAR1", b"PARE"):
            why = "its end is missing"
    return DataError(f"{path}: is damaged, cut short or no Parquet file ({why}); write it again")


def _stored_names(database: duckdb.DuckDBPyConnection, file: Path) -> list[str]:
    """Return the names of the columns as the file has them, without those of nested fields."""
    schema = database.execute("SELECT name, num_children FROM parquet_schema(?)", [exact_pattern(file)]).fetchall()
    names: list[str] = []
    open_children: list[int] = []
    for name, n_children in schema[1:]:
        if not open_children:
            names.append(str(name))
        else:
            open_children[-1] -= 1
        if n_children:
            open_children.append(int(n_children))
        while open_children and open_children[-1] == 0:
            open_children.pop()
    return names


def _no_single_value(kind: str) -> str | None:
    """Return what a column holds if it is neither text nor numbers nor times; else None."""
    if kind.endswith("]"):
        return "lists"
    nested = {"STRUCT": "nested fields", "MAP": "maps", "UNION": "unions", "VARIANT": "variants"}
    others = {"INTERVAL": "durations", "GEOMETRY": "shapes", "NULL": NOTHING}
    if kind.startswith("TIME") and not kind.startswith("TIMESTAMP"):
        return "times of day without a date"
    found = (what for start, what in nested.items() if kind.startswith(start))
    return next(found, others.get(kind.strip('"')))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_text(relation: duckdb.DuckDBPyRelation, name: str) -> bool:
    """Return whether the first rows of a column of bytes are text."""
    column = _quoted(name)
    is_text = f"{column} IS NULL OR coalesce(NOT contains(try(decode({column})), chr(0)), false)"
    return all(row[0] for row in relation.limit(_SNIFFED_ROWS).project(is_text).fetchall())


def _as_text(name: str, kind: str, *, is_binary: bool) -> str:
    """Return an SQL expression that converts a column to text."""
    column = _quoted(name)
    if kind.startswith("TIMESTAMP"):
        zone = "Z" if "TIME ZONE" in kind else ""
        text = f"strftime(CAST({column} AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%f{zone}')"
    elif kind in _EXACT:  # as pandas writes them to CSV, without digits beyond the precision of the type
        whole = f"isfinite({column}) AND {column} = trunc({column})"
        most = _EXACT[kind]
        text = (
            f"CASE WHEN isnan({column}) THEN NULL "
            f"WHEN {whole} AND abs({column}) < {most} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) || '.0' "
            f"WHEN {whole} THEN format('{{:.16e}}', CAST({column} AS DOUBLE)) "
            f"ELSE CAST({column} AS VARCHAR) END"
        )
    elif kind.startswith("DECIMAL") and not kind.endswith(",0)"):
        text = (
            f"CASE WHEN {column} = trunc({column}) THEN CAST(CAST({column} AS HUGEINT) AS VARCHAR) "
            f"ELSE CAST({column} AS VARCHAR) END"
        )
    elif kind == "BLOB":
        text = f"lower(hex({column}))" if is_binary else f"coalesce(try(decode({column})), CAST({column} AS VARCHAR))"
    else:
        text = f"CAST({column} AS VARCHAR)"
    return text


def exact_pattern(path: Path) -> str:
    """Return the path as a glob pattern that matches only this path."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
