"""An artifact without one of its users: which of its arrays are of users is known by their names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np

from tritone_export._exceptions import ForgettingError
from tritone_serving.recommender import Artifact
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows

# Where users are in an artifact: sparse tables with a row or a column for each, and arrays with a place for each.
_ROWS: Final = ("history", "friends", "listening", "lists.*", "*.own_tags")
_COLUMNS: Final = ("friends", "listeners")
_VECTORS: Final = ("users", "*.means")
# What is of items and tags alone, however long it happens to be; so are the tables of base models.
_OF_NOBODY: Final = (
    *("items.*", "titles.*", "artists.*", "tags.*", "vectors", "listeners.rarity"),
    *("*.shares", "*.popularity_penalty", "*.centre", "*.by_item.*", "*.by_tag.*"),
)


def without_user(artifact: Artifact, user: str, key: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the arrays of an artifact without a user, who has to be in it.

    Raises:
        ForgettingError: the artifact holds something by user of which this version does not know how to remove one.
    """
    row = Resolver(artifact, key).user(user)
    kept = np.flatnonzero(np.arange(artifact.n_users) != row)
    arrays: dict[str, Any] = dict(artifact.arrays)
    tables = [name.removesuffix(".starts") for name in arrays if name.endswith(".starts")]
    for name in tables:
        table = artifact.rows(name)
        if _matches(name, _ROWS):
            table = table.take(kept)
        if _matches(name, _COLUMNS):
            table = _without_column(table, row)
        arrays.update(rows_arrays(name, table))
    for name in [name for name in arrays if _matches(name, _VECTORS)]:
        arrays[name] = np.asarray(arrays[name])[kept]
    _check_nothing_is_left(artifact, arrays)
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    return {**manifest, "n_users": artifact.n_users - 1, "n_forgotten": manifest.get("n_forgotten", 0) + 1}, arrays


def _without_column(table: Rows, column: int) -> Rows:
    columns = np.asarray(table.columns)
    stays = columns != column
    starts = np.concatenate([[0], np.cumsum(stays)])[table.starts]
    left = columns[stays]
    return Rows(starts, (left - (left > column)).astype(columns.dtype), np.asarray(table.values)[stays])


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_nothing_is_left(artifact: Artifact, arrays: Mapping[str, Any]) -> None:
    """An array of a name that says nothing, as long as there were users, may well be about them."""
    base_models = [
        f"{name}.{part}" for name in artifact.manifest["base_models"] for part in ("starts", "columns", "values")
    ]
    of_nobody = (*_OF_NOBODY, *base_models)
    by_user = {artifact.n_users, artifact.n_users + 1} - {0, 1}
    suspects = sorted(
        name
        for name, array in artifact.arrays.items()
        if arrays.get(name) is array and len(array) in by_user and not _matches(name, of_nobody)
    )
    if suspects:
        raise ForgettingError(
            f"{artifact.folder}: {', '.join(suspects)} may hold something of each user, and this version of Tritone "
            f"does not know how to remove one from it; train again without the user's rows in the log, and export"
        )
