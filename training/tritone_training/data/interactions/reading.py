"""Read friends, tags and metadata of a listening log from tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.interactions.columns import (
    Columns,
    distinct,
    ignored_notes,
    optional,
    required,
    shown_columns,
    usual_names,
)
from tritone_training.data.interactions.log import MetadataTable, TagTable, is_text
from tritone_training.data.interactions.media_files import names_text_file, read_covers, read_lyrics
from tritone_training.data.interactions.parsing import id_column, whole_numbers
from tritone_training.data.recordings import printable
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

_NO_COLUMNS: Final = Columns()
_NAMES: Final = {
    "title": ("title", "name", "track", "song"),
    "artist": ("artist", "artistname", "composer", "performer"),
}
_IGNORED: Final = ("images", "links", "bytes")
LONGEST_WORD: Final = 80  # characters of a value that is one word; genres, labels and names of albums are shorter
LONGEST_TAG: Final = 200  # characters; people write sentences as tags, but not lyrics
_MOST_WORDS: Final = 12
_WORDS_OF_A_TEXT: Final = 100  # of one item; the rarest ones
_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_TITLE_WORD: Final = re.compile(r"\w{3,}")
_IMAGE: Final = re.compile(r"(?i).*\.(?:jpe?g|png|gif|webp|bmp|svg|tiff?|avif|heic)(?:[?#].*)?|data:image/.*")
_LINK: Final = re.compile(r"(?i)(?:https?://|www\.)\S+")
_BYTES: Final = re.compile(r"b['\"].*\\x.*|[A-Za-z0-9+/=_-]{200,}", re.DOTALL)  # printed or encoded bytes
_BETWEEN: Final = "\n"  # values that are one word contain no line break


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


def load_metadata(path: Path, *, item: str | None = None, words_of_few: bool = False) -> MetadataTable:
    """Return the metadata of each item: all columns except the id, with `title` and `artist` under these names.

    If several columns have a usual name of the title (or the artist), the first one in `_NAMES` is used; the others
    keep their names and count as words. Rows whose id is not UTF-8, and cells whose text is not, are left out. Columns
    of images, links, bytes and lists are not read; of texts such as lyrics only the words are kept.

    Args:
        item: name of the log's item column; the ids are in the column of that name, else in one with a usual name.
        words_of_few: keep words of texts that a single item of the table has, for items to add to others.

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
    notes: list[str] = []
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
        kind, values = _of_files(name, kind, values, path.parent, notes)
        if kind in _IGNORED:
            ignored[name] = kind
            continue
        if kind == "texts":
            texts.append(name)
            values = words_of_texts(values, n_least=1 if words_of_few else 2)
        elif shown in _NAMES:
            values = {each: " ".join(value.split()) for each, value in values.items()}
        elif kind == "values":
            n_long += sum(map(is_long, values.values()))
            values = {each: value for each, value in values.items() if not is_long(value)}
        for each, text in values.items():
            if text:
                rows[each][shown] = text
    notes += [f"column {name!r} holds {what} and is not read" for name, what in ignored.items()]
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


def _of_files(
    name: str, kind: str, values: dict[str, str], folder: Path, notes: list[str]
) -> tuple[str, dict[str, str]]:
    """Return kind and values of a column; those of the files that it names, if there are any.

    Args:
        notes: a note about the files is added.
    """
    if kind not in ("images", "text files"):
        return kind, values
    paths = {item: value for item, value in values.items() if not _LINK.fullmatch(value) and value[:5] != "data:"}
    files = (read_covers if kind == "images" else read_lyrics)(paths, folder)
    if not files.contents:
        return ("images" if kind == "images" else "values"), values
    if files.note:
        notes.append(f"column {name!r} names files that are not used: {files.note}")
    if kind == "text files":
        return "texts", dict(files.contents)
    notes.append(f"column {name!r} holds images: words for their colours and texture are kept")
    return "covers", dict(files.contents)


def _values(column: pd.Series[Any]) -> list[str]:
    """Return normalised cells; whole numbers such as 1999.0 lose the decimal point."""
    return whole_numbers([normalize_id(str(text)) for text in column])


def words_of(row: Mapping[str, str]) -> set[str]:
    """Return the words of the title, the words of texts (see `words_of_texts`) and the values of all other columns."""
    title = {f"title: {word}" for word in _TITLE_WORD.findall(row.get("title", "").lower())}
    others = ((name, word) for name, value in row.items() if name != "title" for word in value.split(_BETWEEN))
    return title | {f"{name}: {word}" for name, word in others if word}


def is_long(value: str) -> bool:
    """Return whether a value is a text, which is not one word."""
    return len(value) > LONGEST_WORD or len(value.split()) > _MOST_WORDS or len(value.splitlines()) > 1


def column_kind(values: Iterable[str]) -> str:
    """Return what a column of metadata holds: "images", "text files", "links", "bytes", "texts" or "values"."""
    kinds = Counter(map(_kind, values))
    n_values = kinds.total()
    for kind in ("images", "text files", "links", "bytes"):
        if 2 * kinds[kind] > n_values:
            return kind
    # A single long album name does not make a column of texts, nor do short lyrics make one of values.
    return "texts" if 10 * kinds["texts"] >= n_values > 0 else "values"


def _kind(value: str) -> str:
    for kind, pattern in (("images", _IMAGE), ("links", _LINK), ("bytes", _BYTES)):
        if pattern.fullmatch(value):
            return kind
    if names_text_file(value):
        return "text files"
    return "texts" if is_long(value) else "values"


def words_of_texts(texts: Mapping[str, str], *, n_least: int = 2) -> dict[str, str]:
    """Return the words of each item's text, separated by line breaks, as `words_of` expects them.

    English stop words, words of fewer than three letters and words of a single item are left out, because they relate
    no items; of each text the 100 rarest words are kept.

    Args:
        texts: item -> text.
        n_least: smallest number of items with a word.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # only where there are texts: it is slow to import

    words = {
        item: {word for word in _WORD.findall(text.lower()) if word not in ENGLISH_STOP_WORDS and len(word) <= 40}
        for item, text in texts.items()
    }
    n_items = Counter(word for each in words.values() for word in each)
    kept = {}
    for item, each in words.items():
        shared = sorted((word for word in each if n_items[word] >= n_least), key=lambda word: (n_items[word], word))
        if shared:
            kept[item] = _BETWEEN.join(sorted(shared[:_WORDS_OF_A_TEXT]))
    return kept
