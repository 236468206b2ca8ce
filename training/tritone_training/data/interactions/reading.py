"""The log and what belongs to it, read from tables: columns by name, or found where their name is usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from tritone_training._exceptions import DataError
from tritone_training.data.interactions.cleaning import CleaningRules, clean, is_text
from tritone_training.data.interactions.log import Log, MetadataTable, TagTable
from tritone_training.data.interactions.tables import read_table

# Names that columns usually have, in lower case without `_`, `-` and blanks.
_USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("userid", "user", "uid", "userkey", "listener", "listenerid"),
    "item": ("itemid", "item", "trackid", "track", "songid", "song", "artistid", "artist", "iid", "id"),
    "id": ("id", "itemid", "trackid", "songid", "artistid", "item", "track", "song"),
    "plays": ("plays", "playcount", "count", "weight", "listens", "nplays"),
    "rating": ("rating", "score", "stars"),
    "time": ("timestamp", "time", "datetime", "date", "ts", "playedat"),
    "friend": ("friendid", "friend", "followee", "otherid"),
    "tag": ("tagid", "tag", "tagvalue", "label", "genre"),
}
_NAMES: Final = {
    "title": ("title", "name", "track", "song"),
    "artist": ("artist", "artistname", "composer", "performer"),
}


@dataclass(frozen=True)
class Columns:
    """Names of columns; None: the usual ones are looked for, and optional columns may be absent."""

    user: str | None = None
    item: str | None = None
    plays: str | None = None
    rating: str | None = None
    time: str | None = None
    friend: str | None = None
    tag: str | None = None


def load_log(path: Path, columns: Columns = Columns(), *, rules: CleaningRules | None = None) -> Log:
    """Read and clean a listening log.

    Raises:
        DataError: it is missing, unreadable, lacks a column, or nothing of it is left after cleaning.
    """
    table = read_table(path)
    user, item = _required(table, path, "user", columns.user), _required(table, path, "item", columns.item)
    plays = _optional(table, path, "plays", columns.plays)
    rating = None if plays else _optional(table, path, "rating", columns.rating)
    time = _optional(table, path, "time", columns.time)
    _distinct(path, user=user, item=item, plays=plays, rating=rating, time=time)
    return clean(
        path.name,
        users=table[user],
        items=table[item],
        plays=table[plays] if plays else None,
        ratings=table[rating] if rating else None,
        times=table[time] if time else None,
        rules=rules or CleaningRules(),
    )


def load_friends(path: Path, columns: Columns = Columns()) -> list[tuple[str, str]]:
    """Pairs of raw user ids, each pair once, in either direction; rows without both ids are left out."""
    table = read_table(path)
    user, friend = _required(table, path, "user", columns.user), _required(table, path, "friend", columns.friend)
    _distinct(path, user=user, friend=friend)
    pairs = table[[user, friend]].dropna()
    ok = is_text(pairs[user]) & is_text(pairs[friend]) & (pairs[user] != pairs[friend]).to_numpy()
    both = {(min(a, b), max(a, b)) for a, b in zip(pairs[user][ok], pairs[friend][ok], strict=True)}
    return sorted(both)


def load_tags(path: Path, columns: Columns = Columns(), *, names: Path | None = None) -> TagTable:
    """Who gave which tag to which item; without a user column nobody is said to have given them.

    Args:
        names: a table from the tag column's ids to their names, for reasons that people can read.
    """
    table = read_table(path)
    item, tag = _required(table, path, "item", columns.item), _required(table, path, "tag", columns.tag)
    user = _optional(table, path, "user", columns.user)
    _distinct(path, user=user, item=item, tag=tag)
    wanted = [item, tag, *([user] if user else [])]
    kept = table[wanted].dropna()
    ok = np.logical_and.reduce([is_text(kept[name]) for name in wanted])
    kept = kept[ok].drop_duplicates()
    tags = kept[tag]
    report = {"source": path.name, "n_in": len(table), "n_used": len(kept), "given_by_users": user is not None}
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


def _tag_names(path: Path, tag: str) -> tuple[dict[str, str], int]:
    """(tag's id -> name, how many names are no UTF-8); a tag without a name is called by its id."""
    table = read_table(path)
    key = tag if tag in table.columns else str(table.columns[0])
    value = next((str(name) for name in table.columns if name != key), None)
    if value is None:
        raise DataError(f"{path}: has one column, {key!r}; expected the tags' ids and their names")
    table = table.dropna(subset=[key, value])
    ok = is_text(table[value])
    named = zip(table[key][ok], table[value][ok], strict=True)
    return {str(each): str(name) for each, name in named if str(name).strip()}, int((~ok).sum())


def load_metadata(path: Path, *, item: str | None = None) -> MetadataTable:
    """What is said of each item: all other columns, with `title` and `artist` under these names.

    Of several columns that usually hold a title (or an artist) the first of `_NAMES` is one; the others stay what they
    are called, and count as words. Rows whose id, and cells whose text, is no UTF-8 are left out.

    Args:
        item: what the log calls its items; a column of that name holds the ids, else one that is usual.
    """
    table = read_table(path)
    n_in = len(table)
    key = item if item is not None and item in table.columns else _required(table, path, "id", None)
    table = table.dropna(subset=[key])
    ids = is_text(table[key])
    table = table[ids].drop_duplicates(subset=[key])
    usual = _usual_names(table.columns, key)
    columns = {
        name: usual.get(name) or name.encode("utf-8", "backslashreplace").decode("utf-8")
        for name in map(str, table.columns)
        if name != key
    }
    rows: dict[str, dict[str, str]] = {name: {} for name in table[key]}
    n_cells = 0
    for name, shown in columns.items():
        cells = table[[key, name]].dropna()
        ok = is_text(cells[name])
        n_cells += int((~ok).sum())
        for each, text in zip(cells[key][ok], cells[name][ok], strict=True):
            rows[each][shown] = text
    report = {
        "source": path.name,
        "n_in": n_in,
        "n_used": len(rows),
        "n_ids_not_utf8": int((~ids).sum()),
        "n_cells_not_utf8": n_cells,
    }
    return MetadataTable(rows, report)


def _usual_names(columns: pd.Index, key: str) -> dict[str, str]:
    """The columns that hold titles and artists -> `title` and `artist`."""
    found = {}
    for wanted, names in _NAMES.items():
        plain = {_plain_name(name): str(name) for name in columns if name != key}
        chosen = wanted if wanted in plain.values() else next((plain[name] for name in names if name in plain), None)
        if chosen is not None:
            found[chosen] = wanted
    return found


def _required(table: pd.DataFrame, path: Path, what: str, name: str | None) -> str:
    found = _optional(table, path, what, name)
    if found is None:
        option = "item" if what == "id" else what  # ids of metadata are those of items
        raise DataError(
            f"{path}: which column holds the {what}? Found are {_listed(table.columns)}; name it with --{option}-column"
        )
    return found


def _optional(table: pd.DataFrame, path: Path, what: str, name: str | None) -> str | None:
    if name is not None:
        if name not in table.columns:
            raise DataError(f"{path}: has no column {name!r} for the {what}; found are {_listed(table.columns)}")
        return name
    plain = {_plain_name(each): str(each) for each in table.columns}
    return next((plain[usual] for usual in _USUAL[what] if usual in plain), None)


def _distinct(path: Path, **columns: str | None) -> None:
    """Refuse one column for two things.

    Raises:
        DataError: as said.
    """
    taken: dict[str, str] = {}
    for what, name in columns.items():
        if name is None:
            continue
        if name in taken:
            raise DataError(
                f"{path}: column {name!r} cannot be both the {taken[name]} and the {what}; name another with "
                f"--{what}-column or --{taken[name]}-column"
            )
        taken[name] = what


def _plain_name(name: object) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _listed(names: Sequence[object] | pd.Index) -> str:
    return ", ".join(repr(str(name)) for name in names)
