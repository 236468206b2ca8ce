"""Spreadsheets: the first sheet with cells of an Excel or OpenDocument workbook."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from python_calamine import CalamineError, CalamineWorkbook

from tritone_serving.ids import normalize_id
from tritone_training._exceptions import DataError
from tritone_training.data.tables.table import Table, check_names


def workbook_table(file: Path, path: Path | None = None) -> Table:
    """Read the first sheet that has cells.

    Args:
        file: the workbook.
        path: what messages call it, if it was unpacked.

    Raises:
        DataError: it is damaged, protected by a password or empty.
    """
    path = path or file
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


def _text(cell: object) -> str | None:
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        # Workbooks store every number so; 15 digits are exact.
        return str(int(cell)) if cell.is_integer() and abs(cell) < 10**15 else repr(cell)
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    text = str(cell)
    return text or None
