"""Spreadsheets: the first sheet with cells of an Excel or OpenDocument workbook."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from python_calamine import CalamineError, CalamineWorkbook

from tritone_serving.ids import normalize_id
from tritone_training.data.tables.table import Table, check_names
from tritone_training.exceptions import DataError

_MOST_CELLS: Final = 50_000_000  # in the range of a sheet that has cells, all of which the reader keeps in memory
_CELL: Final = re.compile(rb'<c [^>]*?\br="([A-Z]{1,3})([0-9]{1,7})"')
_CHUNK: Final = 1 << 20
_LONGEST_CELL: Final = 1 << 10  # of its opening tag


def workbook_table(file: Path, path: Path | None = None) -> Table:
    """Read the first sheet that has cells.

    Args:
        file: the workbook.
        path: the file to name in messages, if the workbook was unpacked from it.

    Raises:
        DataError: it is damaged, protected by a password or empty.
    """
    path = path or file
    _check_extent(file, path)
    try:
        workbook = CalamineWorkbook.from_path(str(file))
        sheets = {name: workbook.get_sheet_by_name(name).to_python() for name in workbook.sheet_names}
    except (CalamineError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: is an Excel workbook that cannot be read ({error}); save the table as CSV in UTF-8"
        ) from error
    filled = [name for name, rows in sheets.items() if any(cell != "" for row in rows for cell in row)]
    if not filled:
        raise DataError(f"{path}: is an empty workbook; expected a header row and at least one row")
    rows = [[_text(cell) for cell in row] for row in sheets[filled[0]]]
    rows = [row for row in rows if any(cell is not None for cell in row)]
    header = [normalize_id(cell or "") for cell in rows[0]]
    names = check_names(path, header)
    frame = pd.DataFrame(rows[1:], columns=pd.Index(names, dtype=object), dtype=object)
    notes = [f"read the sheet {filled[0]!r}"]
    if filled[1:]:
        notes.append(f"other sheets are not read: {', '.join(map(repr, filled[1:]))}")

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        return frame[list(wanted)].copy()

    return Table(path, "Excel", names, load, notes=tuple(notes), first_row=header)


def _check_extent(file: Path, path: Path) -> None:
    """Refuse a sheet with a stray cell far away: the reader would allocate everything up to it.

    Raises:
        DataError: it has too many cells.
    """
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        sheets = [name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/[^/]+\.xml", name)]
        for name in sheets:
            n_rows = n_columns = 0
            try:
                with archive.open(name) as sheet:
                    rest = b""
                    while chunk := sheet.read(_CHUNK):
                        for letters, digits in _CELL.findall(rest + chunk):
                            n_rows = max(n_rows, int(digits))
                            n_columns = max(n_columns, _column_number(letters))
                        rest = chunk[-_LONGEST_CELL:]
            except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
                raise DataError(f"{path}: is a damaged Excel workbook ({error}); save the table as CSV") from error
            if n_rows * n_columns > _MOST_CELLS:
                raise DataError(
                    f"{path}: {name} reaches to row {n_rows:,} and column {n_columns:,}: expected at most "
                    f"{_MOST_CELLS:,} cells; delete stray cells, or save the table as CSV"
                )


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number


def _text(cell: object) -> str | None:
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        # Workbooks store all numbers as floats, of which 15 digits are exact.
        return str(int(cell)) if cell.is_integer() and abs(cell) < 10**15 else repr(cell)
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    text = str(cell)
    return text or None
