"""Find the columns of a table, by the given name or by their usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tritone_serving.ids import normalize_id
from tritone_training.data.tables import NOT_UTF8, Table
from tritone_training.exceptions import DataError

# Usual names of columns, in lower case without `_`, `-` and blanks, the most likely first.
_USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("userid", "user", "uid", "userkey", "listener", "listenerid", "username", "accountid", "customerid"),
    "item": ("itemid", "item", "trackid", "track", "songid", "song", "artistid", "artist", "iid"),
    "id": ("id", "itemid", "trackid", "songid", "artistid", "item", "track", "song"),
    "plays": ("plays", "playcount", "count", "weight", "listens", "nplays"),
    "rating": ("rating", "score", "stars"),
    "time": ("timestamp", "time", "datetime", "date", "ts", "playedat"),
    "skipped": ("skipped", "skip", "isskipped", "disliked", "dislike"),
    "friend": ("friendid", "friend", "followee", "otherid"),
    "tag": ("tagid", "tag", "tagvalue", "label", "genre"),
}
# In a log, `id` may be a row number; then one of these is the column of the items.
_ROW_ID: Final = "id"
_ITEM_NAMES: Final = (
    *("trackuri", "trackmbid", "recordingid", "recordingmbid", "songname", "trackname", "tracktitle", "songtitle"),
    *("title", "name", "artistname", "artistmbid", "video", "videoid"),
)


@dataclass(frozen=True)
class Columns:
    """Names of columns. None: look for the usual names; optional columns may be missing."""

    user: str | None = None
    item: str | None = None
    plays: str | None = None
    rating: str | None = None
    time: str | None = None
    skipped: str | None = None
    friend: str | None = None
    tag: str | None = None


def required(table: Table, what: str, name: str | None) -> str:
    """Return the name of a required column.

    Raises:
        DataError: it is missing, or does not hold single values.
    """
    found = optional(table, what, name)
    if found is not None:
        return found
    path, option = table.path, "item" if what == "id" else what  # ids of metadata are those of items
    names = [*table.names, *table.unusable]
    if table.lacks_header:
        shown = _listed(table.first_row)
        raise DataError(
            f"{path}: seems to have no header: expected a first line with the names of the columns, among them the "
            f"{what}, got {shown}; add such a line, or name the column with --{option}-column"
        )
    if len(names) == 1:
        raise DataError(
            f"{path}: has one column, {names[0]!r}: expected several, divided by tabs, commas, semicolons, | or ::"
        )
    nested = next((each for each in table.unusable if _plain_name(each) in _USUAL[what]), None)
    if nested is not None:
        raise _not_single(table, nested, what)
    hint = next((f"; it {note}" for note in table.notes if note.startswith(NOT_UTF8)), "")
    raise DataError(
        f"{path}: no column of the {what} found: expected a usual name, got {_listed(names)}; name the column with "
        f"--{option}-column{hint}"
    )


def optional(table: Table, what: str, name: str | None) -> str | None:
    """Return the name of an optional column; None if no name is given and no column has a usual name.

    Raises:
        DataError: the named column does not exist, does not hold single values, or is missing in a part of the table.
    """
    if name is not None:
        named = name if name in (*table.names, *table.unusable) else normalize_id(name)
        if named in table.unusable:
            raise _not_single(table, named, what)
        if named not in table.names:
            hint = "; it seems to have no header" if table.lacks_header else ""
            raise DataError(
                f"{table.path}: has no column {name!r} for the {what}; found are "
                f"{_listed([*table.names, *table.unusable])}{hint}"
            )
        return _complete(table, named)
    found = _find(table, _USUAL[what])
    return None if found is None else _complete(table, found)


def item_of_log(table: Table, name: str | None, *, user: str) -> tuple[str, tuple[str, ...]]:
    """Return the column of a log's items, and notes.

    A column `id` with a different value in each row, or whose repeated values mostly occur with different items,
    numbers listens or sessions, and is used only if nothing else names items.

    Raises:
        DataError: as `required`.
    """
    if names_item(table, name):
        return required(table, "item", name), ()
    row_id, other = _find(table, (_ROW_ID,)), _find(table, _ITEM_NAMES)
    if row_id is not None and other is not None and _is_of(table, other, user):
        other = None  # the users' names
    if row_id is None:
        return required(table, "item", other), ()
    if not _numbers_rows(table, row_id, other):
        return _complete(table, row_id), ()
    if other is None:
        return _complete(table, row_id), (
            f"column {row_id!r} is taken for the items, although it differs in each row; if another one names them, "
            f"give it with --item-column",
        )
    return _complete(table, other), (
        f"column {row_id!r} numbers rows or sessions and is not taken for the items; if it names them, give "
        f"--item-column {row_id}",
    )


def names_item(table: Table, name: str | None) -> bool:
    """Return whether `item_of_log` finds the column of the items by its name alone, without reading rows."""
    return name is not None or _find(table, _USUAL["item"]) is not None


def _is_of(table: Table, name: str, user: str) -> bool:
    """Return whether each user has a single value in a column."""
    if name == user:
        return True
    frame = table.read([user, name]).dropna()
    return not (frame.groupby(user, sort=False)[name].nunique() > 1).any()


def _numbers_rows(table: Table, row_id: str, other: str | None) -> bool:
    """Return whether a column numbers rows or sessions: no value occurs twice, or most that do are of several items."""
    if other is None:
        return bool(table.read([row_id])[row_id].is_unique)
    frame = table.read([row_id, other]).dropna()
    names = frame[other].map(lambda name: normalize_id(str(name)).casefold())
    by_id = names.groupby(frame[row_id], sort=False).agg(["size", "nunique"])
    repeated = by_id[by_id["size"] > 1]
    return bool(2 * (repeated["nunique"] > 1).sum() >= len(repeated))


def distinct(table: Table, **columns: str | None) -> None:
    """Check that no column is used twice.

    Args:
        columns: use -> column; None is ignored.

    Raises:
        DataError: a column has two uses.
    """
    taken: dict[str, str] = {}
    for what, name in columns.items():
        if name is None:
            continue
        if name in taken:
            raise DataError(
                f"{table.path}: column {name!r} cannot be both the {taken[name]} and the {what}; name another with "
                f"--{what}-column or --{taken[name]}-column"
            )
        taken[name] = what


def shown_columns(chosen: Mapping[str, str | None]) -> dict[str, str]:
    """Return the chosen columns for the report; bytes of a name that are not UTF-8 are escaped."""
    return {what: name.encode("utf-8", "backslashreplace").decode() for what, name in chosen.items() if name}


def ignored_notes(table: Table) -> tuple[str, ...]:
    """Return a note on each column that is not read because it does not hold single values."""
    return tuple(f"column {name!r} holds {what} and is not read" for name, what in table.unusable.items())


def usual_names(names: Iterable[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return column -> field for the fields whose columns are found.

    Args:
        wanted: field -> usual names of its column, the most likely first.
    """
    found = {}
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(_plain_name(name), name)
    for what, usual in wanted.items():
        chosen = what if what in plain.values() else next((plain[name] for name in usual if name in plain), None)
        if chosen is not None:
            found[chosen] = what
    return found


def _find(table: Table, usual: Sequence[str]) -> str | None:
    plain: dict[str, str] = {}
    for name in table.names:
        plain.setdefault(_plain_name(name), name)
    return next((plain[name] for name in usual if name in plain), None)


def _complete(table: Table, name: str) -> str:
    if (found := table.incomplete.get(name)) is not None:
        part, names = found
        raise DataError(
            f"{table.path}: its part {part} has no column {name!r}: expected the same columns in all parts, got "
            f"{_listed(names)} there; rename the column in that part, write the table again, or name another column"
        )
    return name


def _not_single(table: Table, name: str, what: str) -> DataError:
    return DataError(
        f"{table.path}: column {name!r} cannot be the {what}: expected one value in each cell, got "
        f"{table.unusable[name]}; write a row for each value"
    )


def _plain_name(name: object) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _listed(names: Sequence[object]) -> str:
    return ", ".join(repr(str(name)) for name in names)
