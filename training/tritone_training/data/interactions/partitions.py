"""Write a cleaned listening log in parts of its users, for workers that read one part each.

```python
write_parts(log, Path("/shared/parts"), n_parts=16)   # on the driver; `keep_log` reads logs larger than memory
parts = open_parts(Path("/shared/parts"))             # on each worker: ids and counts, no listens
log = parts.read(3)                                   # all listens of a sixteenth of the users
```

All listens of a user are in one part, which depends on the user's id and the number of parts alone. Each part is a
`Log` whose indices refer to the ids of the whole log, so that item-item counts, for example, are sums over the parts.

Shapes: U users, I items, E pairs of a part, N events of a part.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.atomic import PRIVATE_FILE, make_private_folder, replacing, write_atomically
from tritone_training.data.interactions.log import Log
from tritone_training.data.interactions.splitting import COLUMNS, EVENT_COLUMNS, LogColumns
from tritone_training.data.interactions.user_sequences import UserSequences
from tritone_training.exceptions import DataError

INDEX_FILE: Final = "parts.json"
_USERS_FILE: Final = "users.txt"
_ITEMS_FILE: Final = "items.txt"
_FORMAT: Final = 1
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LogParts:
    """A log in parts, in a folder.

    Attributes:
        folder: holds `parts.json`, `users.txt`, `items.txt` and `part-00000.npz` onwards.
        source: name of the log.
        n_parts: number of parts, some of which may have no users.
        users: raw ids (U,), sorted.
        items: ids (I,), sorted.
        n_pairs: number of pairs of user and item in each part.
        report: counts of the cleaning.
    """

    folder: Path
    source: str
    n_parts: int
    users: Sequence[str]
    items: Sequence[str]
    n_pairs: Sequence[int]
    report: Mapping[str, Any] = field(default_factory=dict)

    def read(self, part: int) -> Log:
        """Return a part: its pairs in order of user and item, its users' events, and the ids of the whole log.

        Raises:
            DataError: the part does not exist, is missing or is damaged.
        """
        if not 0 <= part < self.n_parts:
            raise DataError(f"{self.folder}: has no part {part}: expected 0 to {self.n_parts - 1}")
        path = _part_path(self.folder, part)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                columns = {name: found[name] for name in found.files}
        except FileNotFoundError as error:
            raise DataError(f"{path}: is missing: expected part {part} of {self.n_parts}; write the parts again") from (
                error
            )
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({error}); write the parts again") from error
        sequences = None
        if "event_user" in columns:
            sequences = UserSequences(
                columns["event_user"],
                columns["event_item"],
                columns.get("event_time"),
                columns["event_skipped"],
            )
        return Log(
            self.source,
            self.users,
            self.items,
            columns["user"],
            columns["item"],
            columns["plays"],
            columns.get("time"),
            self.report,
            columns.get("last_time"),
            sequences,
        )

    def __iter__(self) -> Iterator[Log]:
        """Yield each part in turn."""
        return (self.read(part) for part in range(self.n_parts))

    def __len__(self) -> int:
        return self.n_parts


def part_of_users(users: Sequence[str], n_parts: int) -> npt.NDArray[np.int32]:
    """Return the part of each user (U,): CRC-32 of the id in UTF-8, modulo the number of parts.

    Raises:
        DataError: the number of parts is below 1.
    """
    if n_parts < 1:
        raise DataError(f"invalid number of parts: expected at least 1, got {n_parts}")
    return np.fromiter((zlib.crc32(name.encode("utf-8")) % n_parts for name in users), np.int32, len(users))


def write_parts(log: LogColumns, folder: Path, n_parts: int) -> LogParts:
    """Write a log in parts of its users to a folder, and replace the parts that are there.

    Of a log in files (`keep_log`), one column and one part at a time are in memory. The index is written last, so that
    a folder with an index is complete.

    Raises:
        DataError: the folder cannot be written.
    """
    part_of = part_of_users(log.users, n_parts)
    user, event_user = log.column("user"), log.column("event_user")
    assert user is not None  # noqa: S101 - every log has it
    of_pairs = part_of[user]
    of_events = None if event_user is None else part_of[event_user]
    n_pairs = np.bincount(of_pairs, minlength=n_parts).tolist()
    del user, event_user
    try:
        make_private_folder(folder)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for stale in folder.glob("part-*.npz"):
            stale.unlink()
        for part in range(n_parts):
            with (
                replacing(_part_path(folder, part), mode=PRIVATE_FILE) as staged,
                staged.open("wb") as file,
            ):
                np.savez(file, **_columns(log, of_pairs == part, None if of_events is None else of_events == part))
        for name, ids in ((_USERS_FILE, log.users), (_ITEMS_FILE, log.items)):
            write_atomically(folder / name, "".join(f"{each}\n" for each in ids), mode=PRIVATE_FILE)
        index = {
            "format": _FORMAT,
            "source": log.source,
            "n_parts": n_parts,
            "n_pairs": n_pairs,
            "n_users": len(log.users),
            "n_items": len(log.items),
            "report": dict(log.report),
        }
        write_atomically(folder / INDEX_FILE, json.dumps(index), mode=PRIVATE_FILE)
    except OSError as error:
        raise DataError(
            f"{folder}: the parts of the log cannot be written ({error.strerror or error}); free space or choose "
            f"another folder"
        ) from error
    return LogParts(folder, log.source, n_parts, log.users, log.items, n_pairs, log.report)


def open_parts(folder: Path) -> LogParts:
    """Open the parts of a log.

    Raises:
        DataError: the folder has no complete log in parts, or one of another version.
    """
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        users, items = (_lines(folder / name) for name in (_USERS_FILE, _ITEMS_FILE))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: holds no complete log in parts ({error}): expected {INDEX_FILE}, {_USERS_FILE} and "
            f"{_ITEMS_FILE}; write the parts again"
        ) from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise DataError(f"{folder / INDEX_FILE}: expected format {_FORMAT}, got {found}; write the parts again")
    if (len(users), len(items)) != (index["n_users"], index["n_items"]):
        raise DataError(
            f"{folder}: expected {index['n_users']} users and {index['n_items']} items, got {len(users)} and "
            f"{len(items)}; write the parts again"
        )
    return LogParts(folder, index["source"], index["n_parts"], users, items, index["n_pairs"], index["report"])


def _columns(log: LogColumns, pairs: Flags, events: Flags | None) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a part by name.

    Args:
        pairs: which pairs of the log are in the part.
        events: which events are; None if the log has none.
    """
    columns = {}
    for name in (*COLUMNS, *(() if events is None else EVENT_COLUMNS)):
        if (values := log.column(name)) is not None:
            chosen = values[events if name in EVENT_COLUMNS else pairs]
            columns[name] = chosen.astype(np.int32) if name.endswith(("user", "item")) else chosen
    return columns


def _part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.npz"


def _lines(path: Path) -> list[str]:
    """Return the ids of a file, one a line; ids hold no line feeds, but may hold other line breaks."""
    return path.read_bytes().decode("utf-8").split("\n")[:-1]
