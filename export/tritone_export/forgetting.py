"""Removes a user from what is served: a new version of the recommender without them, and old ones with them deleted.

What many users' histories went into together stays as it is (counts, similarities, the weights of `taste_vae`):
no user can be read from it, and training again without the user's log rows is what removes their share.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np

from tritone_export._exceptions import ForgettingError, RepositoryError
from tritone_export.card import CARD_FILENAME, card_bytes, checksum
from tritone_export.repository import check_model_name, publish, versions
from tritone_serving.recommender import Artifact, RecommenderError, open_artifact, read_key, write_artifact
from tritone_serving.recommender.artifact import files_of, rows_arrays
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender_keys import find_key
from tritone_serving.sound_index import FILENAME as INDEX_FILENAME

# Where users are in an artifact: sparse tables with a row or a column for each, and arrays with a place for each.
_ROWS: Final = ("history", "friends", "listening", "lists.*", "*.own")
_COLUMNS: Final = ("friends", "listeners")
_VECTORS: Final = ("users", "*.means")


@dataclass(frozen=True)
class Forgotten:
    """What was done.

    Attributes:
        versions: what was published, by model: the recommender, and ensembles that it is a part of, whose cached
            answers end with their version. Empty if the newest version did not know the user.
        removed: versions of the recommender that were deleted, because they held the user.
        kept: versions that still hold the user.
    """

    versions: Mapping[str, int]
    removed: tuple[int, ...]
    kept: tuple[int, ...]


def forget_user(
    user: str, repository: Path, *, model: str = "recommender", key: Path | None = None, keep_old: bool = False
) -> Forgotten:
    """Publish a version without a user, and delete those with them.

    A server goes on with the version that it has loaded, whose files it has mapped, until it loads the new one.

    Args:
        user: as in the log.
        key: the file with the key of the pseudonyms; None looks where a server would.
        keep_old: leave the old versions, for going back.

    Raises:
        ForgettingError: no version knows the user, or a version or the key cannot be read.
        RepositoryError: the repository cannot be written.
    """
    check_model_name(model)
    folder = repository / model
    numbers = versions(folder) if folder.is_dir() else []
    if not numbers:
        raise ForgettingError(f"{folder}: holds no version of a recommender; name its --repository and --model")
    holding = [number for number in numbers if _row(folder / str(number), user, key) is not None]
    if not holding:
        raise ForgettingError(f"{folder}: none of the versions {numbers} knows this user; ids are as in the log")
    published = {}
    if holding[-1] == numbers[-1]:
        published[model] = _publish_without(folder, numbers[-1], user, key)
        published.update(_publish_ensembles(repository, model))
    removed = () if keep_old else tuple(holding)
    for number in removed:
        _remove(folder / str(number))
    return Forgotten(published, removed, tuple(holding) if keep_old else ())


def forget_in_checkpoint(user: str, checkpoint: Path, *, key: Path | None = None) -> bool:
    """Remove a user from the artifact of a checkpoint, from which `tritone export` would bring them back.

    Returns:
        whether they were in it.

    Raises:
        ForgettingError: the artifact or the key cannot be read.
    """
    folder = checkpoint / "artifact"
    own = checkpoint / "recommender.key"
    key = key or (own if own.is_file() else None)
    if _row(folder, user, key) is None:
        return False
    staged, old = checkpoint / ".artifact-new", checkpoint / ".artifact-old"
    for left in (staged, old):
        shutil.rmtree(left, ignore_errors=True)
    write_artifact(staged, *without_user(_open(folder), user, _key(_open(folder), key)))
    folder.rename(old)
    staged.rename(folder)
    shutil.rmtree(old)
    return True


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
    """An array that is as long as there were users, and was not touched, may well be about them."""
    by_user = {artifact.n_users, artifact.n_users + 1} - {artifact.n_items, artifact.n_items + 1, 0, 1}
    suspects = sorted(
        name for name, array in artifact.arrays.items() if arrays.get(name) is array and len(array) in by_user
    )
    if suspects:
        raise ForgettingError(
            f"{artifact.folder}: {', '.join(suspects)} may hold something of each user, and this version of Tritone "
            f"does not know how to remove one from it; train again without the user's rows in the log, and export"
        )


def _publish_without(folder: Path, number: int, user: str, key: Path | None) -> int:
    artifact = _open(folder / str(number))
    with tempfile.TemporaryDirectory(prefix="tritone-forget-") as temporary:
        staged = Path(temporary)
        write_artifact(staged, *without_user(artifact, user, _key(artifact, key)))
        smaller = _open(staged)
        files = {path.name: path for path in files_of(smaller)}
        if (index := folder / str(number) / INDEX_FILENAME).is_file():  # of items alone
            files[INDEX_FILENAME] = index
        card = _card(folder / str(number))
        personal = {**(card.get("personal_data") or {}), "n_users": smaller.n_users}

        def version_files(version: int) -> dict[str, bytes | Path]:
            new = {
                **card,
                "version": version,
                "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                "personal_data": personal,
                "n_users": smaller.n_users,
                "n_forgotten": smaller.manifest["n_forgotten"],
                "files": {name: checksum(path) for name, path in files.items()},
            }
            return {**files, CARD_FILENAME: card_bytes(new)}

        return int(publish(folder, version_files=version_files, model_files={}).name)


def _publish_ensembles(repository: Path, model: str) -> dict[str, int]:
    """A new version of each ensemble of ours that a model is a part of."""
    published = {}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")):
        numbers = versions(folder)
        card = _card(folder / str(numbers[-1])) if numbers else {}
        if card.get("kind") == "ensemble" and model in card.get("steps", ()):

            def version_files(version: int, card: Mapping[str, Any] = card) -> dict[str, bytes | Path]:
                return {CARD_FILENAME: card_bytes({**card, "version": version})}

            published[folder.name] = int(publish(folder, version_files=version_files, model_files={}).name)
    return published


def _row(folder: Path, user: str, key: Path | None) -> int | None:
    artifact = _open(folder)
    row = Resolver(artifact, _key(artifact, key)).user(user)
    return None if row < 0 else row


def _open(folder: Path) -> Artifact:
    try:
        return open_artifact(folder)
    except RecommenderError as error:
        raise ForgettingError(str(error)) from error


def _key(artifact: Artifact, key: Path | None) -> bytes:
    from tritone_serving.recommender.pseudonyms import key_check

    check = str(artifact.manifest["key_check"])
    try:
        path = key or find_key("", check)
        content = read_key(path)
    except (RecommenderError, ValueError) as error:
        raise ForgettingError(str(error)) from error
    if key_check(content) != check:
        raise ForgettingError(f"{path}: is not the key that {artifact.folder} was made with; give that one with --key")
    return content


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD_FILENAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _remove(folder: Path) -> None:
    # Renamed first, so that no server takes half a version for one.
    hidden = folder.with_name(f".forgotten-{folder.name}")
    try:
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise RepositoryError(f"{folder}: still holds the user and cannot be removed ({error.strerror})") from error
