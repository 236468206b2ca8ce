"""Tables of tracks to add to a recommender: metadata as in training, with the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tritone_training.data.interactions.columns import required
from tritone_training.data.interactions.log import is_text
from tritone_training.data.interactions.parsing import id_column
from tritone_training.data.interactions.reading import load_metadata, words_of
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

_LONGEST_ID_BYTES: Final = 1_024


@dataclass(frozen=True)
class RowProblem:
    """A row that is not used.

    Attributes:
        row: number of the row, from 1 for the first one after the header.
        track: its id, empty if it has none.
        reason: why, in words.
    """

    row: int
    track: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"row": self.row, "track": self.track, "reason": self.reason}


@dataclass(frozen=True)
class NewTracks:
    """Tracks of a table.

    Attributes:
        rows: id -> column -> text, with `title` and `artist`.
        numbers: id -> number of its row.
        problems: rows that are not used.
        notes: columns that are not read, and why.
    """

    rows: Mapping[str, Mapping[str, str]]
    numbers: Mapping[str, int]
    problems: tuple[RowProblem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def words(self, track: str) -> frozenset[str]:
        """Return the words of a track as training names them."""
        return frozenset(words_of(self.rows[track]))


def load_new_tracks(path: Path, *, item: str | None = None) -> NewTracks:
    """Read a metadata table as training does, see `load_metadata`, and report each row that cannot be used.

    Args:
        path: the table.
        item: name of the column with the ids; None finds the usual names.

    Raises:
        DataError: the table cannot be read, no column holds ids, or no row can be used.
    """
    metadata = load_metadata(path, item=item, words_of_few=True)
    with open_table(path) as table:
        key = item if item is not None and item in table.names else required(table, "id", None)
        frame = table.read([key])
    ids, _ = id_column(path, frame[key])
    readable = is_text(ids.where(ids.notna(), ""))
    numbers: dict[str, int] = {}
    problems = []
    for number, (track, ok) in enumerate(zip(ids, readable.tolist(), strict=True), start=1):
        if not isinstance(track, str) or not track:
            problems.append(RowProblem(number, "", "it has no id"))
        elif not ok:
            problems.append(RowProblem(number, "", "its id is not UTF-8"))
        elif track in numbers:
            problems.append(RowProblem(number, track, f"its id is that of row {numbers[track]}, which is used"))
        elif len(track.encode()) > _LONGEST_ID_BYTES or "\n" in track:
            problems.append(
                RowProblem(number, track[:40], f"its id is longer than {_LONGEST_ID_BYTES:,} bytes or has line breaks")
            )
        else:
            numbers[track] = number
    if not numbers:
        why = f"; row {problems[0].row}: {problems[0].reason}" if problems else ""
        raise DataError(f"{path}: no row can be used: expected tracks with an id, a title and an artist{why}")
    rows = {track: metadata.rows.get(track, {}) for track in numbers}
    return NewTracks(rows, numbers, tuple(problems), tuple(metadata.report.get("notes", ())))
