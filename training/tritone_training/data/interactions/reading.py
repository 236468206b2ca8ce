"""Read listening logs, friends and tags from tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.interactions.cleaning import CleaningRules, clean, is_text
from tritone_training.data.interactions.columns import (
    Columns,
    distinct,
    ignored_notes,
    item_of_log,
    optional,
    required,
    shown_columns,
)
from tritone_training.data.interactions.log import Log, TagTable
from tritone_training.data.interactions.metadata import LONGEST_TAG
from tritone_training.data.interactions.parsing import id_column, numbers_of, times_of
from tritone_training.data.recordings import printable
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

_NO_COLUMNS: Final = Columns()


def load_log(path: Path, columns: Columns = _NO_COLUMNS, *, rules: CleaningRules | None = None) -> Log:
    """Read and clean a listening log.

    Raises:
        DataError: it is missing or unreadable, has no column for users or items, or has no rows left after cleaning.
    """
    with open_table(path) as table:
        user = required(table, "user", columns.user)
        item, item_notes = item_of_log(table, columns.item, user=user)
        if columns.plays is not None and columns.rating is not None:
            raise DataError(
                f"{path}: expected play counts or ratings, got a column of each ({columns.plays!r}, "
                f"{columns.rating!r}); leave --plays-column or --rating-column out"
            )
        # A rating column that is given by name takes precedence over a column of plays that was found by its name.
        plays = None if columns.rating is not None else optional(table, "plays", columns.plays)
        rating = None if plays else optional(table, "rating", columns.rating)
        time = optional(table, "time", columns.time)
        distinct(table, user=user, item=item, plays=plays, rating=rating, time=time)
        chosen = {"user": user, "item": item, "plays": plays, "rating": rating, "time": time}
        frame = table.read([name for name in chosen.values() if name])
    users, user_counts = id_column(path, frame.pop(user))
    items, item_counts = id_column(path, frame.pop(item))
    counts = None
    number_notes: tuple[str, ...] = ()
    if (counted := plays or rating) is not None:
        option = "--plays-column" if plays else "--rating-column"
        counts, number_notes = numbers_of(path, frame.pop(counted), separator=table.separator, option=option)
    times = times_of(printable(path.name), frame.pop(time)) if time else None
    notes = [*table.notes, *ignored_notes(table), *item_notes, *number_notes]
    report: dict[str, Any] = {"columns": shown_columns(chosen), "notes": notes}
    ids = {"user": user_counts.to_dict(), "item": item_counts.to_dict()}
    report["ids"] = {what: found for what, found in ids.items() if found}
    if times is not None:
        report["times"] = times.to_dict()
        notes.extend(times.notes())
    return clean(
        printable(path.name),
        users=users,
        items=items,
        plays=counts if plays else None,
        ratings=counts if rating else None,
        times=None if times is None else times.seconds,
        rules=rules or CleaningRules(),
        report=report,
    )


def load_friends(path: Path, columns: Columns = _NO_COLUMNS) -> list[tuple[str, str]]:
    """Return pairs of raw user ids, each pair once, in one direction; rows without both ids are left out."""
    return read_friends(path, columns)[0]


def read_friends(path: Path, columns: Columns = _NO_COLUMNS) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return pairs of raw user ids as `load_friends`, and a report on the table.

    Raises:
        DataError: the table cannot be read or lacks a column.
    """
    with open_table(path) as table:
        user, friend = required(table, "user", columns.user), required(table, "friend", columns.friend)
        distinct(table, user=user, friend=friend)
        frame = table.read([user, friend])
    frame[user], user_counts = id_column(path, frame[user])
    frame[friend], friend_counts = id_column(path, frame[friend])
    pairs = frame.dropna()
    ok = is_text(pairs[user]) & is_text(pairs[friend]) & (pairs[user] != pairs[friend]).to_numpy()
    both = {(min(a, b), max(a, b)) for a, b in zip(pairs[user][ok], pairs[friend][ok], strict=True)}
    ids = {"user": user_counts.to_dict(), "friend": friend_counts.to_dict()}
    report = {
        "columns": shown_columns({"user": user, "friend": friend}),
        "notes": [*table.notes, *ignored_notes(table)],
        "ids": {what: found for what, found in ids.items() if found},
    }
    return sorted(both), report


def load_tags(path: Path, columns: Columns = _NO_COLUMNS, *, names: Path | None = None) -> TagTable:
    """Return the tags of items, with the users who gave them if the table has a user column.

    Texts of more than 200 characters are not tags, and are left out.

    Args:
        names: a table from the tag column's ids to their names, for reasons that people can read.

    Raises:
        DataError: a table cannot be read or lacks a column.
    """
    with open_table(path) as table:
        item, tag = required(table, "item", columns.item), required(table, "tag", columns.tag)
        user = optional(table, "user", columns.user)
        distinct(table, user=user, item=item, tag=tag)
        chosen = {"item": item, "tag": tag, **({"user": user} if user else {})}
        frame = table.read(list(chosen.values()))
    ids = {}
    for what, name in chosen.items():
        frame[name], counts = id_column(path, frame[name])
        ids[what] = counts.to_dict()
    kept = frame.dropna()
    kept = kept[np.logical_and.reduce([is_text(kept[name]) for name in chosen.values()])]
    long = kept[tag].str.len().to_numpy(np.int64) > LONGEST_TAG
    kept = kept[~long].drop_duplicates()
    tags = kept[tag]
    report: dict[str, Any] = {
        "source": printable(path.name),
        "columns": shown_columns(chosen),
        "notes": [*table.notes, *ignored_notes(table)],
        "ids": {what: found for what, found in ids.items() if found},
        "n_in": len(frame),
        "n_used": len(kept),
        "n_tags_too_long": int(long.sum()),
        "given_by_users": user is not None,
    }
    if names is not None:
        known, n_unreadable = _tag_names(names, tag)
        tags = tags.map(known).fillna(tags)
        report["n_names_not_utf8"] = n_unreadable
    return TagTable(
        items=kept[item].tolist(),
        tags=[" ".join(str(each).split()) for each in tags],
        users=kept[user].tolist() if user else [""] * len(kept),
        report=report,
    )


def _tag_names(path: Path, tag: str) -> tuple[Mapping[str, str], int]:
    """Return (tag id -> name, number of names that are not UTF-8); tags without a name keep their ids."""
    with open_table(path) as table:
        key = tag if tag in table.names else table.names[0]
        value = next((name for name in table.names if name != key), None)
        if value is None:
            raise DataError(f"{path}: has one column, {key!r}; expected the tags' ids and their names")
        frame: pd.DataFrame = table.read([key, value])
    frame[key], _ = id_column(path, frame[key])
    frame = frame.dropna()
    ok = is_text(frame[value])
    named = ((str(each), normalize_id(str(name))) for each, name in zip(frame[key][ok], frame[value][ok], strict=True))
    return {each: name for each, name in named if name and len(name) <= LONGEST_TAG}, int((~ok).sum())
