"""Read listening events from a table: who did what with which track, and when."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pandas as pd

from tritone import ListeningEvent
from tritone.constants import EVENT_KINDS, LONGEST_PLAY_S, EventKind
from tritone_training.data.interactions.columns import Columns, distinct, item_of_log, optional, required, shown_columns
from tritone_training.data.interactions.parsing import flags_of, id_column, times_of
from tritone_training.data.recordings import printable
from tritone_training.data.tables import Table, open_table

# Usual names of columns, in lower case without `_`, `-` and blanks.
_KIND_NAMES: Final = ("kind", "event", "eventtype", "action", "type")
_SECONDS_NAMES: Final = ("playeds", "playedseconds", "secondsplayed", "durationplayed")
_MILLISECONDS_NAMES: Final = ("msplayed", "playedms")
_ID_NAMES: Final = ("eventid", "eventuuid")
_KINDS: Final[dict[str, EventKind]] = {
    **{kind: kind for kind in EVENT_KINDS},
    **dict.fromkeys(("listen", "played", "stream"), "play"),
    **dict.fromkeys(("skipped",), "skip"),
    **dict.fromkeys(("love", "liked", "favorite", "favourite"), "like"),
    **dict.fromkeys(("hate", "disliked", "ban"), "dislike"),
}


@dataclass(frozen=True, eq=False)
class ImportedEvents:
    """The events of a table, in its order.

    Attributes:
        columns: name of the column by what it holds.
        rows: number of the row of each event, 1 for the first row after the header.
        events: each with an id that is the same whenever the table is read.
        problems: why a row is no event, by its number.
    """

    columns: dict[str, str]
    rows: list[int] = field(repr=False)
    events: list[ListeningEvent] = field(repr=False)
    problems: dict[int, str] = field(repr=False)


def load_events(path: Path, columns: Columns | None = None) -> ImportedEvents:
    """Read events from a table with columns of users, tracks and times, as a listening log.

    A row without an id of its own gets one from its content, so that reading a table again gives the same ids. Columns
    of kinds (`play`, `skip`, `like`, `dislike`), of seconds or milliseconds played, and `skipped` are used if there are
    any.

    Raises:
        DataError: the table is missing or unreadable, or has no column for users, items or times.
    """
    given = columns or Columns()
    with open_table(path) as table:
        user = required(table, "user", given.user)
        item, _ = item_of_log(table, given.item, user=user)
        chosen = {
            "user": user,
            "item": item,
            "time": required(table, "time", given.time),
            "skipped": optional(table, "skipped", given.skipped),
            "kind": _usual(table, _KIND_NAMES),
            "played_s": _usual(table, _SECONDS_NAMES),
            "played_ms": _usual(table, _MILLISECONDS_NAMES),
            "event_id": _usual(table, _ID_NAMES),
        }
        distinct(table, **chosen)
        frame = table.read([name for name in chosen.values() if name])
    shown = shown_columns(chosen)
    users, _ = id_column(path, frame[chosen["user"]])
    items, _ = id_column(path, frame[chosen["item"]])
    at = times_of(printable(path.name), frame[chosen["time"]]).seconds
    skipped = flags_of(path, frame[name], option="--skipped-column") if (name := chosen["skipped"]) else None
    kinds = _texts(frame, chosen["kind"])
    played = _played(frame, chosen)
    played_texts = _texts(frame, chosen["played_s"] or chosen["played_ms"]) or []
    ids = _texts(frame, chosen["event_id"])
    made = ImportedEvents(shown, [], [], {})
    seen: Counter[str] = Counter()
    for index, (user_id, track_id) in enumerate(zip(users, items, strict=True)):
        row = index + 1
        kind_text = "" if kinds is None else kinds[index].lower()
        kind = _KINDS.get(kind_text or "play")
        problem = None
        if (wrong := _not_utf8(user_id, track_id)) is not None:
            problem = f"its {wrong} is not UTF-8 text"
        elif pd.isna(user_id) or pd.isna(track_id):
            problem = f"no {'user' if pd.isna(user_id) else 'track'}"
        elif not np.isfinite(at[index]) or at[index] < 0:
            problem = "no time that can be read"
        elif kind is None:
            problem = f"invalid kind: expected {', '.join(EVENT_KINDS)}, got {kind_text[:40]!r}"
        elif played is not None and np.isnan(played[index]) and played_texts[index]:
            problem = f"invalid time played: expected a number, got {played_texts[index][:40]!r}"
        elif played is not None and not (np.isnan(played[index]) or 0 <= played[index] <= LONGEST_PLAY_S):
            problem = f"invalid time played: expected 0 to {LONGEST_PLAY_S:,.0f} seconds, got {played[index]:g}"
        if problem is not None:
            made.problems[row] = problem
            continue
        if not kind_text and skipped is not None and skipped[index]:
            kind = "skip"
        seconds = float(at[index])
        content = f"{user_id}\0{track_id}\0{kind}\0{seconds!r}"
        seen[content] += 1
        made.rows.append(row)
        made.events.append(
            ListeningEvent(
                str(user_id),
                str(track_id),
                cast(EventKind, kind),
                None if played is None or np.isnan(played[index]) else float(played[index]),
                seconds,
                event_id=(ids[index] if ids is not None else "") or _id_of(content, seen[content]),
            )
        )
    return made


def batches(
    table: ImportedEvents, size: int, *, after_row: int = 0
) -> Iterator[tuple[list[int], list[ListeningEvent]]]:
    """Yield up to `size` events with the numbers of their rows, from the row after `after_row`."""
    first = int(np.searchsorted(table.rows, after_row, side="right"))
    for start in range(first, len(table.events), size):
        yield table.rows[start : start + size], table.events[start : start + size]


def _usual(table: Table, usual: tuple[str, ...]) -> str | None:
    plain = {"".join(each for each in str(name).lower() if each not in "_- "): name for name in table.names}
    return next((str(plain[name]) for name in usual if name in plain), None)


def _texts(frame: pd.DataFrame, name: str | None) -> list[str] | None:
    if name is None:
        return None
    return ["" if pd.isna(cell) else str(cell).strip() for cell in frame[name]]


def _played(frame: pd.DataFrame, chosen: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return the seconds played of each row, NaN where there is no number; None without such a column."""
    name = chosen["played_s"] or chosen["played_ms"]
    if name is None:
        return None
    texts = _texts(frame, name) or []
    numbers = np.array(pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce"), np.float64)
    return numbers if chosen["played_s"] else numbers / 1_000


def _not_utf8(user_id: Any, track_id: Any) -> str | None:
    """Return which of the ids holds bytes that are not UTF-8, None if neither does."""
    for name, value in (("user", user_id), ("track", track_id)):
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError:
            return name
    return None


def _id_of(content: str, n: int) -> str:
    return hashlib.sha256(f"{content}\0{n}".encode()).hexdigest()[:32]
