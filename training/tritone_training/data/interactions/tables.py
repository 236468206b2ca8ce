"""Tables from disk, every cell as text: CSV with any separator, TSV, both compressed or not, and Parquet."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import duckdb
import pandas as pd

from tritone_training._exceptions import DataError

_SEPARATORS: Final = ("\t", "::", ";", "|", ",")  # a comma last: names hold commas
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')
# By content: a download may have lost its suffix.
_PACKED: Final[tuple[tuple[bytes, Callable[[Path], Any]], ...]] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)


def read_table(path: Path) -> pd.DataFrame:
    """Every column as text, empty cells as missing; bytes that are no UTF-8 stay recognisable.

    Tabs do not occur in cells, so that quotes are not needed there and are often letters: in a table divided by tabs
    only a cell that is quoted as a whole, as programs write it, loses its quotes.

    Raises:
        DataError: it is missing, empty, damaged, no table, or has two columns of one name.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table as CSV, TSV or Parquet")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(path)
    try:
        separator = _separator(path)
        with _opened(path) as file:
            table = pd.read_csv(
                file,
                sep=separator,
                header=None,  # pandas would rename what is there twice, and take unnamed columns for row names
                dtype=object,
                encoding="utf-8-sig",
                encoding_errors="surrogateescape",
                engine="c" if len(separator) == 1 else "python",
                quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
                skipinitialspace=True,
                keep_default_na=False,  # an artist may be called NA or None
                na_values=[""],
            )
    except (pd.errors.ParserError, UnicodeError, ValueError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: is no table that can be read ({why})") from error
    if separator == "\t":
        table = table.map(_unquoted)
    names = ["" if pd.isna(name) else str(name).strip() for name in table.iloc[0]]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has two columns called {', '.join(map(repr, twice))}; rename or remove one")
    table = table.iloc[1:].reset_index(drop=True)
    table.columns = pd.Index([name or f"column {place}" for place, name in enumerate(names, start=1)])
    return table


def _unquoted(cell: object) -> object:
    found = _QUOTED.fullmatch(cell) if isinstance(cell, str) and cell[:1] == '"' else None
    return cell if found is None else found[1].replace('""', '"') or None


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read every column as text, converted by its own type: 64-bit ids stay exact, times with a zone become UTC."""
    try:
        with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as database:
            database.execute("SET TimeZone = 'UTC'")
            table = database.read_parquet([_without_wildcards(path)])
            columns = [_as_text(name, str(kind)) for name, kind in zip(table.columns, table.types, strict=True)]
            text: pd.DataFrame = table.project(", ".join(columns)).df()
            return text.astype(object)
    except duckdb.Error as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if not path.read_bytes().endswith(b"PAR1"):
            why = "its end is missing"
        raise DataError(f"{path}: is damaged, cut short or no Parquet file ({why}); write it again") from error


def _as_text(name: str, kind: str) -> str:
    """An expression of SQL that makes a column text."""
    column = '"' + name.replace('"', '""') + '"'
    if kind.startswith("TIMESTAMP"):
        text = f"strftime(CAST({column} AS TIMESTAMP), '%Y-%m-%dT%H:%M:%S.%f')"
    elif kind in ("FLOAT", "DOUBLE"):  # ids and counts beside missing cells are often written as numbers with a point
        whole = f"isfinite({column}) AND {column} = trunc({column}) AND abs({column}) < 1e15"
        missing = f"isnan({column})"
        text = (
            f"CASE WHEN {missing} THEN NULL WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) "
            f"ELSE CAST({column} AS VARCHAR) END"
        )
    elif kind == "BLOB":
        text = f"CASE WHEN try(decode({column})) IS NULL THEN CAST({column} AS VARCHAR) ELSE decode({column}) END"
    else:
        text = f"CAST({column} AS VARCHAR)"
    return f"{text} AS {column}"


def _without_wildcards(path: Path) -> str:
    """The path as a pattern that only it matches."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _opened(path: Path) -> io.BufferedReader:
    """The table's own bytes, unpacked.

    Raises:
        DataError: it is packed in a way that is not read here.
    """
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a ZIP archive; unpack it")
    unpack = next((unpack for magic, unpack in _PACKED if start.startswith(magic)), None)
    return cast("io.BufferedReader", path.open("rb") if unpack is None else unpack(path))


def _separator(path: Path) -> str:
    """The one that divides the first lines into equally many cells, and into most."""
    with _opened(path) as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.rstrip("\r\n") for _, line in zip(range(20), file, strict=False)]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: is empty; expected a header line and at least one row")
    best, most = ",", 0
    for separator in _SEPARATORS:
        cells = [line.count(separator) for line in lines]
        if cells[0] and min(cells) >= cells[0] and cells[0] > most:
            best, most = separator, cells[0]
    return best
