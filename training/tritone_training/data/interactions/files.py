"""Paths of a listening log and its additional tables, as a request names them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from tritone_training.exceptions import DataError

# Options that describe a listening log, by parameter name of the command line.
LOG_OPTIONS: Final = frozenset(
    {
        "data",
        "interactions",
        "valid",
        *(f"{name}_column" for name in ("user", "item", "plays", "rating", "time", "skipped")),
    }
)


@dataclass(frozen=True)
class ListeningFiles:
    """Paths of a listening log and its additional tables, and the names of their columns.

    Attributes:
        interactions: the log; None for the simulated log over the embedded corpus.
        valid: held-out listens for validation; None splits them off `interactions`.
        test: held-out listens for testing, used by `evaluate` only.
        friends: pairs of users.
        item_tags: tags of items, optionally with the users who gave them; `tag_names` maps ids of tags to names.
        metadata: one row per item: title, artist and other text.
        recordings: a folder with one recording per item, named by its id; `genre_checkpoint` embeds them.
        *_column: names of columns; None finds the usual names.
        key: file with the key for pseudonyms; None creates one in the checkpoint's folder.
    """

    interactions: Path | None = None
    valid: Path | None = None
    test: Path | None = None
    friends: Path | None = None
    item_tags: Path | None = None
    tag_names: Path | None = None
    metadata: Path | None = None
    recordings: Path | None = None
    genre_checkpoint: Path | None = None
    user_column: str | None = None
    item_column: str | None = None
    plays_column: str | None = None
    rating_column: str | None = None
    time_column: str | None = None
    skipped_column: str | None = None
    friend_column: str | None = None
    tag_column: str | None = None
    key: Path | None = None

    def given(self) -> tuple[str, ...]:
        """Return the names of the fields that are not None."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) is not None)


def join_data(data: Path | None, files: ListeningFiles) -> Path | ListeningFiles | None:
    """Return the data of a request from a path and listening files, either of which may name the log.

    Raises:
        DataError: both name a log.
    """
    if not files.given():
        return data
    if data is None:
        return files
    if files.interactions is not None:
        raise DataError("two listening logs: expected one of --data and --interactions, got both; leave one out")
    return replace(files, interactions=data)


def files_of(data: Path | ListeningFiles | None) -> ListeningFiles:
    """Return the data of a request as listening files; a path is the log, and without a log listening is simulated."""
    return data if isinstance(data, ListeningFiles) else ListeningFiles(interactions=data)
