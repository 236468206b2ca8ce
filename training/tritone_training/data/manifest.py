"""A manifest CSV as recordings: `path,label[,fold][,artist][,emotion_*]`, paths relative to the manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tritone.constants import EMOTIONS
from tritone_training.data.file_names import find_file, is_windows_path
from tritone_training.data.recordings import DataProblem, Recording, RecordingSet, normal_label, printable
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

_EMOTION_COLUMNS: Final = tuple(f"emotion_{name}" for name in EMOTIONS)
_EXPECTED: Final = "path,label[,fold][,artist][,emotion_*]"


def from_manifest(manifest: Path) -> RecordingSet:
    """List the recordings of a manifest; a row that cannot be used is reported with its line.

    Raises:
        DataError: it is not such a table, or no row of it can be used.
    """
    recordings: dict[str, Recording] = {}
    problems: list[DataProblem] = []
    for line, cells in _rows(manifest):
        name = cells["path"] or f"line {line}"
        try:
            path = find_file(manifest.parent, name)
            # The same file under another spelling is the same recording.
            key = os.path.normpath(path)
            if key in recordings:
                raise _RowError("duplicate", "stands twice in the manifest; the first is used")
            recordings[key] = _recording(name, cells, path)
        except _RowError as error:
            problems.append(DataProblem(name, error.reason, f"{manifest.name} line {line}: {name}: {error}"))
    if not recordings:
        raise DataError(f"{manifest}: no row can be used" + (f"; the first: {problems[0].message}" if problems else ""))
    return RecordingSet(printable(str(manifest)), tuple(recordings.values()), tuple(problems))


class _RowError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line in the file, cells by column) of each row that is not blank."""
    with open_table(manifest) as table:
        _check_columns(table.names, manifest)
        yield from table.rows()


def _check_columns(columns: Sequence[str], manifest: Path) -> None:
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise DataError(
            f"{manifest}: has no column {' and '.join(missing)}; expected {_EXPECTED}, found {','.join(columns)}"
        )
    emotions = {column for column in columns if column.startswith("emotion_")}
    if emotions and emotions != set(_EMOTION_COLUMNS):  # part of them would be trained as noise
        raise DataError(
            f"{manifest}: emotion columns are all nine or none; "
            f"missing: {', '.join(sorted(set(_EMOTION_COLUMNS) - emotions)) or 'none'}, "
            f"unknown: {', '.join(sorted(emotions - set(_EMOTION_COLUMNS))) or 'none'}"
        )


def _recording(name: str, cells: Mapping[str, str], path: Path) -> Recording:
    if not cells["path"]:
        raise _RowError("no_path", "the path is empty")
    if is_windows_path(name) and not path.exists():
        raise _RowError("missing", f"is a Windows path, and there is no such file here ({path})")
    label = normal_label(cells["label"])
    if not label:
        raise _RowError("no_label", "the label is empty")
    if not label.isprintable():  # label files hold one label a line
        raise _RowError("bad_label", f"the label {label!r} holds unprintable characters")
    known: dict[str, Any] = {"fold": _fold(cells.get("fold", "")), "artist": cells.get("artist") or None}
    return Recording.of_file(name, label, path, emotions=_emotions(cells), **known)


def _fold(cell: str) -> int | None:
    if not cell:
        return None
    digits = cell.removesuffix(".0")  # as tables with gaps write whole numbers
    if not digits.isdecimal() or len(digits) > 9:
        raise _RowError("bad_fold", f"the fold is {cell!r}; expected a whole number from 0")
    return int(digits)


def _emotions(cells: Mapping[str, str]) -> tuple[float, ...] | None:
    given = [cells.get(column, "") for column in _EMOTION_COLUMNS]
    if not any(given):
        return None
    try:
        values = tuple(float(cell) for cell in given)
    except ValueError as error:
        raise _RowError("bad_emotion", f"emotions are numbers, all nine or none: {error}") from error
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise _RowError("bad_emotion", f"emotions are fractions in 0..1, got {min(values)} to {max(values)}")
    return values
