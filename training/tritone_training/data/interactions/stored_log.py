"""A cleaned log as files of columns, of which one at a time is in memory.

Columns: those of the pairs (`user`, `item`, `plays`, `time`, `last_time`) and of the events in order (`event_user`,
`event_item`, `event_time`, `event_skipped`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.data.interactions.log import Log
from tritone_training.data.interactions.splitting import LogSelection

_TYPES: Final[Mapping[str, Any]] = {
    "user": np.int32,
    "item": np.int32,
    "plays": np.float32,
    "time": np.float64,
    "last_time": np.float64,
    "event_user": np.int32,
    "event_item": np.int32,
    "event_time": np.float64,
    "event_skipped": np.bool_,
}

_VALUES_AT_ONCE: Final = 1 << 22


class ColumnFiles:
    """Columns of a log in a folder, which are written piece by piece."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is created if it does not exist."""
        folder.mkdir(exist_ok=True)
        self._folder = folder

    def append(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write values after those that the column has.

        Raises:
            OSError: the disk is full.
        """
        with (self._folder / name).open("ab") as file:
            file.write(np.ascontiguousarray(values, _TYPES[name]).data)

    def write(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write the values of a column.

        Raises:
            OSError: the disk is full.
        """
        (self._folder / name).unlink(missing_ok=True)
        self.append(name, values)

    def read(self, name: str, chosen: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[Any]:
        """Return the chosen values of a column, all by default; without values if it was not written."""
        path, kind = self._folder / name, np.dtype(_TYPES[name])
        if not path.exists():
            return np.zeros(0, kind)
        if chosen is None:
            return np.fromfile(path, kind)
        values = np.empty(int(chosen.sum()), kind)
        n_read = 0
        with path.open("rb") as file:
            for first in range(0, len(chosen), _VALUES_AT_ONCE):  # a whole column besides the chosen values is large
                wanted = chosen[first : first + _VALUES_AT_ONCE]
                piece = np.fromfile(file, kind, len(wanted))[wanted]
                values[n_read : n_read + len(piece)] = piece
                n_read += len(piece)
        return values

    def remove(self) -> None:
        """Remove the columns."""
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class StoredLog:
    """A cleaned log in a folder.

    Attributes:
        users: raw ids.
        items: ids.
        n_pairs: number of pairs of user and item.
        has_times: whether pairs and events have times.
        has_events: whether the order of listening is known.
        report: counts of the cleaning.
    """

    folder: Path
    source: str
    users: Sequence[str]
    items: Sequence[str]
    n_pairs: int
    has_times: bool
    has_events: bool
    report: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n_pairs

    def column(self, name: str, chosen: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[Any] | None:
        """Read the chosen values of a column, all by default; None if the log does not have it."""
        if name.startswith("event_") and not self.has_events:
            return None
        if name.endswith("time") and not self.has_times:
            return None
        return ColumnFiles(self.folder).read(name, chosen)

    def load(self) -> Log:
        """Return the log in memory."""
        return LogSelection(self).load()
