"""Tables from disk: CSV with any separator, TSV, Parquet; columns by name, or found where their name is usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tritone_training._exceptions import DataError
from tritone_training.data.interactions.cleaning import CleaningRules, clean, is_text
from tritone_training.data.interactions.log import Log, TagTable

_SEPARATORS: Final = ("\t", "::", ";", "|", ",")  # a comma last: names hold commas
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
    wanted = [item, tag, *([user] if user else [])]
    kept = table[wanted].dropna()
    ok = np.logical_and.reduce([is_text(kept[name]) for name in wanted])
    kept = kept[ok].drop_duplicates()
    tags = kept[tag]
    if names is not None:
        named = read_table(names)
        key = tag if tag in named.columns else str(named.columns[0])
        value = next((str(name) for name in named.columns if name != key), key)
        tags = tags.map(dict(zip(named[key], named[value], strict=True))).fillna(tags)
    return TagTable(
        items=kept[item].tolist(),
        tags=[" ".join(str(each).split()) for each in tags],
        users=kept[user].tolist() if user else [""] * len(kept),
        report={"source": path.name, "n_in": len(table), "n_used": len(kept), "given_by_users": user is not None},
    )


def load_metadata(path: Path, *, item: str | None = None) -> dict[str, dict[str, str]]:
    """Item id -> {column: text} of all other columns; `title` and `artist` are those columns' usual names.

    Args:
        item: what the log calls its items; a column of that name holds the ids, else one that is usual.
    """
    table = read_table(path)
    key = item if item in table.columns else _required(table, path, "id", None)
    plain = {_plain_name(name): name for name in table.columns if name != key}
    renamed = {plain[usual]: wanted for wanted, names in _NAMES.items() for usual in reversed(names) if usual in plain}
    table = table.dropna(subset=[key]).drop_duplicates(subset=[key]).rename(columns=renamed)
    rows: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        rows[str(row[key])] = {
            str(name): str(value) for name, value in row.items() if name != key and isinstance(value, str) and value
        }
    return rows


def read_table(path: Path) -> pd.DataFrame:
    """Every column as text, empty cells as missing; bytes that are no UTF-8 stay recognisable.

    Raises:
        DataError: it is missing, empty or no table.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a table as CSV, TSV or Parquet")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _as_text(_read_parquet(path))
        separator = _separator(path)
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=object,
            encoding="utf-8-sig",
            encoding_errors="surrogateescape",
            engine="c" if len(separator) == 1 else "python",
            skipinitialspace=True,
            keep_default_na=False,  # an artist may be called NA or None
            na_values=[""],
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeError, ValueError, OSError) as error:
        raise DataError(f"{path}: is no table that can be read ({str(error).splitlines()[0]})") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs fastparquet or pyarrow: pip install 'tritone[train]'"
        ) from error


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    whole = {}
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_datetime64_any_dtype(column):
            whole[str(name)] = column.dt.strftime("%Y-%m-%dT%H:%M:%S.%f").astype(object)
        else:
            whole[str(name)] = pd.Series([None if pd.isna(v) else _text(v) for v in column], dtype=object)
    return pd.DataFrame(whole)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _separator(path: Path) -> str:
    """The one that divides the first lines into equally many cells, and into most."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [line.rstrip("\r\n") for _, line in zip(range(20), file, strict=False)]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: is empty; expected a header line and at least one row")
    best, most = ",", 0
    for separator in _SEPARATORS:
        cells = [line.count(separator) for line in lines]
        if cells[0] and min(cells) >= cells[0] and cells[0] > most:
            best, most = separator, cells[0]
    return best


def _required(table: pd.DataFrame, path: Path, what: str, name: str | None) -> str:
    found = _optional(table, path, what, name)
    if found is None:
        raise DataError(
            f"{path}: which column holds the {what}? Found are {_listed(table.columns)}; name it with --{what}-column"
        )
    return found


def _optional(table: pd.DataFrame, path: Path, what: str, name: str | None) -> str | None:
    if name is not None:
        if name not in table.columns:
            raise DataError(f"{path}: has no column {name!r} for the {what}; found are {_listed(table.columns)}")
        return name
    plain = {_plain_name(each): str(each) for each in table.columns}
    return next((plain[usual] for usual in _USUAL[what] if usual in plain), None)


def _plain_name(name: object) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _listed(names: Sequence[object] | pd.Index) -> str:
    return ", ".join(repr(str(name)) for name in names)
