"""Read titles, artists and other metadata of items from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.interactions.cleaning import is_text
from tritone_training.data.interactions.columns import ignored_notes, required, shown_columns, usual_names
from tritone_training.data.interactions.identifiers import id_column, whole_numbers
from tritone_training.data.interactions.log import MetadataTable
from tritone_training.data.interactions.words import column_kind, is_long, words_of_texts
from tritone_training.data.recordings import printable
from tritone_training.data.tables import open_table

_NAMES: Final = {
    "title": ("title", "name", "track", "song"),
    "artist": ("artist", "artistname", "composer", "performer"),
}
_IGNORED: Final = ("images", "links", "bytes")


def load_metadata(path: Path, *, item: str | None = None) -> MetadataTable:
    """Return the metadata of each item: all columns except the id, with `title` and `artist` under these names.

    If several columns have a usual name of the title (or the artist), the first one in `_NAMES` is used; the others
    keep their names and count as words. Rows whose id is not UTF-8, and cells whose text is not, are left out. Columns
    of images, links, bytes and lists are not read; of texts such as lyrics only the words are kept.

    Args:
        item: name of the log's item column; the ids are in the column of that name, else in one with a usual name.

    Raises:
        DataError: the table cannot be read, or no column holds the ids.
    """
    with open_table(path) as table:
        key = item if item is not None and item in table.names else required(table, "id", None)
        names = [name for name in table.names if name not in table.binary or name == key]
        frame = table.read(names)
    ids, counts = id_column(path, frame[key])
    n_in = len(frame)
    frame[key] = ids
    frame = frame.dropna(subset=[key])
    readable = is_text(frame[key])
    frame = frame[readable].drop_duplicates(subset=[key])
    usual = usual_names([name for name in names if name != key], _NAMES)
    rows: dict[str, dict[str, str]] = {name: {} for name in frame[key]}
    ignored = {name: "images or other bytes" for name in table.names if name in table.binary and name != key}
    texts: list[str] = []
    n_cells = n_long = 0
    for name in names:
        if name == key:
            continue
        shown = usual.get(name) or name.encode("utf-8", "backslashreplace").decode("utf-8")
        cells = frame[[key, name]].dropna()
        ok = is_text(cells[name])
        n_cells += int((~ok).sum())
        values = dict(zip(cells[key][ok], _values(cells[name][ok]), strict=True))
        kind = "values" if shown in _NAMES else column_kind(values.values())
        if kind in _IGNORED:
            ignored[name] = kind
            continue
        if kind == "texts":
            texts.append(name)
            values = words_of_texts(values)
        elif shown in _NAMES:
            values = {each: " ".join(value.split()) for each, value in values.items()}
        else:
            n_long += sum(map(is_long, values.values()))
            values = {each: value for each, value in values.items() if not is_long(value)}
        for each, text in values.items():
            if text:
                rows[each][shown] = text
    notes = [f"column {name!r} holds {what} and is not read" for name, what in ignored.items()]
    notes += [f"column {name!r} holds texts: only their words are kept" for name in texts]
    report: dict[str, Any] = {
        "source": printable(path.name),
        "columns": shown_columns({"item": key, **{what: name for name, what in usual.items()}}),
        "notes": [*table.notes, *ignored_notes(table), *notes],
        "n_in": n_in,
        "n_used": len(rows),
        "n_ids_not_utf8": int((~readable).sum()),
        "n_cells_not_utf8": n_cells,
        "n_cells_too_long": n_long,
        "ids": {"item": counts.to_dict()} if counts.to_dict() else {},
    }
    return MetadataTable(rows, {name: value for name, value in report.items() if value or name.endswith("utf8")})


def _values(column: pd.Series[Any]) -> list[str]:
    """Return normalised cells; whole numbers such as 1999.0 lose the decimal point."""
    return whole_numbers([normalize_id(str(text)) for text in column])
