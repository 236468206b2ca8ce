"""The type that all table readers return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tritone_training.exceptions import DataError

EXPECTED: Final = "a table as CSV, TSV, Parquet, JSON or Excel"
NOT_UTF8: Final = "holds bytes that are not UTF-8"  # how the note on such bytes begins
NOTHING: Final = "nothing"  # content of a column without values, whose type is unknown


@dataclass(frozen=True, eq=False)
class ParquetScan:
    """What DuckDB needs to read the columns of a Parquet file by their types, without a copy in memory.

    Attributes:
        path: the unpacked file.
        file: the same as a pattern of `read_parquet` that matches this file only.
        n_rows: as the file's footer says.
        is_unpacked: whether the file is a temporary copy of a compressed one.
        types: column -> its type in DuckDB.
        stored: column -> its name in the file, quoted for SQL.
        texts: column -> SQL expression that converts it to text.
        damaged: returns the error for a file that DuckDB cannot read.
    """

    path: Path
    file: str
    n_rows: int
    is_unpacked: bool
    types: Mapping[str, str]
    stored: Mapping[str, str]
    texts: Mapping[str, str]
    damaged: Callable[[Exception], DataError]


@dataclass(frozen=True, eq=False)
class Table:
    """An opened table, whose columns are read on demand.

    Attributes:
        format: "CSV", "Parquet", "JSON" or "Excel".
        names: all columns that can be read, in order.
        unusable: column -> what it holds instead of single values, such as lists.
        binary: columns of bytes that are not text, read as hexadecimal digits.
        incomplete: column -> a part of the table that does not have it, and the columns of that part.
        notes: sentences for the report.
        separator: between cells, where the format has one.
        first_row: the header, in formats where the first row may be data instead.
        numbered_rows: of a text table: yields (line in the file, cells) of each row, the header first.
        load_chunks: yields columns in pieces of a bounded number of rows; None if the table is in memory, or Parquet.
        scan: of a Parquet file.
        parts: of a table in several files: each part, and the columns that its folders are (Hive), in order of rows.
        origins: copy of an object of a bucket -> its URL.
    """

    path: Path
    format: str
    names: Sequence[str]
    load: Callable[[Sequence[str]], pd.DataFrame]
    unusable: Mapping[str, str] = field(default_factory=dict)
    binary: frozenset[str] = frozenset()
    incomplete: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    separator: str | None = None
    first_row: Sequence[str] = ()
    numbered_rows: Callable[[], Iterator[tuple[int, list[str]]]] | None = None
    load_chunks: Callable[[Sequence[str]], Iterator[pd.DataFrame]] | None = None
    scan: ParquetScan | None = None
    parts: Sequence[tuple[Table, Mapping[str, str | None]]] = ()
    origins: Mapping[Path, str] = field(default_factory=dict)

    def read(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return columns as text (object dtype); missing cells are missing values.

        Args:
            names: which columns; all that can be read if None.

        Raises:
            DataError: the table is damaged.
        """
        wanted = list(self.names if names is None else names)
        frame = self.load(wanted)
        frame.columns = pd.Index(wanted, dtype=object)
        return frame

    def chunks(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield columns as text in pieces of a bounded number of rows, if the format allows it.

        Raises:
            DataError: the table is damaged.
        """
        if self.load_chunks is None:
            yield self.read(names)
            return
        for frame in self.load_chunks(names):
            frame.columns = pd.Index(list(names), dtype=object)
            yield frame

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line or row number, cells by column) of each row that is not blank, for small tables.

        Blanks around cells are removed; a row may end after its last known value, as some programs write it.

        Raises:
            DataError: the table is damaged, not in UTF-8, or a row has too many cells.
        """
        if self.numbered_rows is None:
            frame = self.read()
            for number, row in enumerate(frame.itertuples(index=False), start=2):
                yield (
                    number,
                    {
                        name: "" if pd.isna(cell) else str(cell).strip()
                        for name, cell in zip(self.names, row, strict=True)
                    },
                )
            return
        rows = self.numbered_rows()
        next(rows, None)
        for line, written in rows:
            cells = [cell.strip() for cell in written]
            if not any(cells):
                continue
            if len(cells) > len(self.names):
                raise DataError(
                    f"{self.path} line {line}: has {len(cells)} cells under {len(self.names)} columns; a cell that "
                    f"holds the separator must be enclosed in double quotes"
                )
            yield line, dict(zip(self.names, cells + [""] * (len(self.names) - len(cells)), strict=True))

    @property
    def lacks_header(self) -> bool:
        """Return whether the first line looks like data: it holds a number, which is not a column name."""
        return any(is_number(name) for name in self.first_row)


def is_number(text: str) -> bool:
    """Return whether a cell holds a number."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return text.lower() not in ("nan", "inf", "infinity")


def check_names(path: Path, names: Sequence[str]) -> list[str]:
    """Return column names, with a generated name for each column without one.

    Raises:
        DataError: two columns have the same name.
    """
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has two columns called {', '.join(map(repr, twice))}; rename or remove one")
    return [name or f"column {number}" for number, name in enumerate(names, start=1)]


def check_zero_bytes(path: Path, name: str, column: pd.Series[Any]) -> None:
    """Refuse text with zero bytes, behind which pandas does not compare: different ids would become one.

    Raises:
        DataError: a cell holds one.
    """
    bad = next((row for row, cell in enumerate(column, 1) if isinstance(cell, str) and "\0" in cell), None)
    if bad is not None:
        raise DataError(
            f"{path}: column {name!r} holds a zero byte (row {bad:,}): expected text or numbers; write ids of bytes as "
            f"hexadecimal digits"
        )
