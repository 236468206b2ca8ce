"""Remove a user from the recommender: publish a version without the user, and delete the versions with them.

Aggregates over many users (counts, similarities, the weights of `taste_vae`) are not changed: no single user can be
read from them. To remove the user's share in them, train again without the user's rows in the log.

The operation is idempotent: it completes an interrupted removal, and changes nothing if no version holds the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np

from tritone.arguments import check_model_name
from tritone.atomic import write_atomically
from tritone_export._exceptions import ForgettingError, RepositoryError
from tritone_export.card import CARD_FILENAME, card_bytes, checksum
from tritone_export.repository import publish, versions
from tritone_serving.events import EventStoreError, existing_store_url, open_store
from tritone_serving.ids import normalize_id
from tritone_serving.recommender import Artifact, RecommenderError, open_artifact, read_key, write_artifact
from tritone_serving.recommender.artifact import MANIFEST, SEQUENCE, SEQUENCE_TIMES, files_of, rows_arrays
from tritone_serving.recommender.forgotten import mark_of, with_marks
from tritone_serving.recommender.lookup import IdLookup
from tritone_serving.recommender.pseudonyms import KEY_VARIABLE, find_key, key_check, key_path, pseudonym
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.similarity import INDEX_FILENAME

_REMOVED: Final = ".forgotten-"
_SELECTION: Final = "selection"  # folder of a checkpoint with the fit without the held-out listens
# Arrays of an artifact that are indexed by user: rows of sparse tables, columns of sparse tables, and vectors.
_ROWS: Final = ("history", SEQUENCE, "friends", "listening", "lists.*", "*.own_tags")
_COLUMNS: Final = ("friends", "listeners")
_VECTORS: Final = ("users", "*.means")
# Arrays that are indexed by item or tag, even if their length equals the number of users. The tables of base models are
# added in `_check_removable`.
_NOT_BY_USER: Final = (
    *("items.*", "titles.*", "artists.*", "tags.*", "vectors", "listeners.rarity"),
    *("*.shares", "*.popularity_penalty", "*.centre", "*.by_item.*", "*.by_tag.*", "*.factors", "search.*"),
)


@dataclass(frozen=True)
class Forgotten:
    """Result of the removal of a user.

    Attributes:
        versions: published version by model; empty if the newest version did not hold the user.
        removed: versions of the recommender that were deleted because they held the user.
        kept: versions that still hold the user.
        other_key: versions that could not be searched, because their pseudonyms were made with another key.
        unread: versions that could not be read or deleted, each with the reason; they may hold the user.
        users: number of users in the newest version before and after; None if it was not read.
    """

    versions: Mapping[str, int]
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    other_key: tuple[int, ...] = ()
    unread: Mapping[int, str] = field(default_factory=dict)
    users: tuple[int, int] | None = None

    @property
    def was_held(self) -> bool:
        """Whether any version held the user."""
        return bool(self.versions or self.removed or self.kept)


def forget_user(
    user: str, repository: Path, *, model: str = "recommender", key: Path | None = None, keep_old: bool = False
) -> Forgotten:
    """Publish a version without a user and delete the versions that hold them; no change if none does.

    A running server keeps using the loaded version, whose files are mapped into memory, until it loads the new one.

    Args:
        user: id of the user, as in the log.
        key: file with the key of the pseudonyms; None for the installed key of each version.
        keep_old: keep the old versions, so that a rollback stays possible.

    Raises:
        ForgettingError: no version can be searched, or the key cannot be read.
        RepositoryError: the repository cannot be written.
    """
    check_model_name(model)
    folder = repository / model
    numbers = versions(folder) if folder.is_dir() else []
    if not numbers:
        raise ForgettingError(
            f"{folder}: expected the folder of a recommender with at least one version, got none; "
            f"name it with --repository and --model"
        )
    for leftover in folder.glob(f"{_REMOVED}*"):  # from an interrupted removal
        _delete(leftover)
    looked: dict[int, tuple[Artifact, bytes]] = {}
    other_key: list[int] = []
    unread: dict[int, str] = {}
    for number in numbers:
        try:
            artifact = open_version(folder / str(number))
        except ForgettingError as error:
            unread[number] = str(error)
            continue
        content = find_users_key(artifact, key)
        if content is None:
            other_key.append(number)
        else:
            looked[number] = artifact, content
    fits = key is None or any(content == read_key(key) for _, content in looked.values())
    if not looked or not fits:
        raise ForgettingError(wrong_key_message(folder, key) if looked or other_key else "; ".join(unread.values()))
    holding = [number for number, found in looked.items() if holds(*found, user)]
    newest = max(looked)
    published: dict[str, int] = {}
    before = after = looked[newest][0].n_users
    if newest in holding:
        published = {model: _publish_without(folder, newest, user, *looked[newest])}
        after = before - 1
    removed, kept = [], list(holding) if keep_old else []
    for number in () if keep_old else holding:
        try:
            _remove(folder / str(number))
            removed.append(number)
        except RepositoryError as error:
            kept.append(number)
            unread[number] = str(error)
    return Forgotten(published, tuple(removed), tuple(kept), tuple(other_key), unread, (before, after))


def _publish_without(folder: Path, number: int, user: str, artifact: Artifact, key: bytes) -> int:
    with tempfile.TemporaryDirectory(prefix="tritone-forget-") as temporary:
        staged = Path(temporary)
        write_artifact(staged, *without_user(artifact, user, key))
        smaller = open_version(staged)
        files = {path.name: path for path in files_of(smaller)}
        if (index := folder / str(number) / INDEX_FILENAME).is_file():  # holds only items
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


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD_FILENAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _remove(folder: Path) -> None:
    # Renamed first, so that no server loads an incomplete version.
    hidden = folder.with_name(f"{_REMOVED}{folder.name}")
    try:
        folder.rename(hidden)
    except OSError as error:
        raise RepositoryError(
            f"{folder}: cannot be removed ({error.strerror}) and still holds the user; remove it by hand"
        ) from error
    _delete(hidden)


def _delete(hidden: Path) -> None:
    try:
        shutil.rmtree(hidden)
    except OSError as error:
        raise RepositoryError(
            f"{hidden}: cannot be removed ({error.strerror}) and still holds the user; remove it by hand"
        ) from error


def users_keys(folder: Path, key: Path | None) -> list[bytes]:
    """Return the keys of the versions of a recommender, as far as they are known; used before versions are deleted.

    Args:
        folder: the model's folder.
        key: as in `forget_user`.
    """
    keys: list[bytes] = []
    for number in versions(folder) if folder.is_dir() else []:
        with contextlib.suppress(ForgettingError):
            content = find_users_key(open_version(folder / str(number)), key)
            if content is not None and content not in keys:
                keys.append(content)
    return keys


def forget_stored_events(user: str, keys: Sequence[bytes], url: str | None = None) -> int | None:
    """Remove the events of a user from an event store.

    Args:
        user: id of the user, as in the log.
        keys: of the users' pseudonyms.
        url: address of the store; None for that of this user's server.

    Returns:
        number of removed events; None if no address is given and there is no store.

    Raises:
        ForgettingError: the store cannot be reached, or is damaged.
    """
    try:
        found = existing_store_url(url)
        if found is None:
            return None
        with contextlib.closing(open_store(found, must_exist=True)) as store:
            names = dict.fromkeys((user, normalize_id(user)))
            return sum(store.forget(pseudonym(key, name).hex()) for key in keys for name in names)
    except EventStoreError as error:
        raise ForgettingError(f"{error}; its events of the user are not removed") from error


def forget_in_checkpoint(user: str, checkpoint: Path, *, key: Path | None = None) -> tuple[int, int]:
    """Remove a user from the artifact of a checkpoint, so that the next export does not restore them.

    The fit without the held-out listens, which `train --refit-on-all` keeps, forgets the user too.

    Returns:
        number of users in the artifact before and after.

    Raises:
        ForgettingError: the artifact or the key cannot be read, or the artifact was made with another key.
    """
    own = checkpoint / "recommender.key"
    key = key or (own if own.is_file() else None)
    selection = checkpoint / _SELECTION
    if selection.is_dir():
        _forget_in_fit(user, selection, key)
    return _forget_in_fit(user, checkpoint, key)


def _forget_in_fit(user: str, checkpoint: Path, key: Path | None) -> tuple[int, int]:
    folder = checkpoint / "artifact"
    staged, old = checkpoint / ".artifact-new", checkpoint / ".artifact-old"
    if not folder.exists() and old.exists():  # interrupted between the two renames below
        (staged if (staged / MANIFEST).is_file() else old).rename(folder)
    for left in (staged, old):
        shutil.rmtree(left, ignore_errors=True)
    artifact = open_version(folder)
    content = find_users_key(artifact, key)
    if content is None:
        raise ForgettingError(wrong_key_message(checkpoint, key))
    before = after = artifact.n_users
    if holds(artifact, content, user):
        write_artifact(staged, *without_user(artifact, user, content))
        folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old)
        after -= 1
    _write_n_users(checkpoint / "checkpoint.json", after)
    return before, after


def _write_n_users(path: Path, n_users: int) -> None:
    """Update the number of users in checkpoint.json, which exports copy to the model card."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(info, dict) and "n_users" in info and info["n_users"] != n_users:
        text = json.dumps({**info, "n_users": n_users}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text, mode=stat.S_IMODE(path.stat().st_mode))


def without_user(artifact: Artifact, user: str, key: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and the arrays of an artifact without a user; the artifact must hold the user.

    Raises:
        ForgettingError: the artifact has unknown arrays that may be indexed by user.
    """
    row = IdLookup(artifact, key).user(user)
    kept = np.flatnonzero(np.arange(artifact.n_users) != row)
    arrays: dict[str, Any] = dict(artifact.arrays)
    tables = [name.removesuffix(".starts") for name in arrays if name.endswith(".starts")]
    for name in tables:
        table = artifact.rows(name)
        if _matches(name, _ROWS):
            table = table.take(kept)
        if _matches(name, _COLUMNS):
            table = _without_column(table, row)
        if name == SEQUENCE and SEQUENCE_TIMES in arrays:
            span = artifact.rows(name).starts[row : row + 2].tolist()
            arrays[SEQUENCE_TIMES] = np.delete(np.asarray(arrays[SEQUENCE_TIMES]), slice(*span))
        arrays.update(rows_arrays(name, table))
    for name in [name for name in arrays if _matches(name, _VECTORS)]:
        arrays[name] = np.asarray(arrays[name])[kept]
    _check_removable(artifact, arrays)
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    pair = [int(half) for half in artifact.arrays["users"][row]]
    mark = mark_of(key, b"".join(half.to_bytes(8, "big") for half in pair))
    manifest = with_marks(manifest, [mark])
    return {**manifest, "n_users": artifact.n_users - 1, "n_forgotten": manifest.get("n_forgotten", 0) + 1}, arrays


def _without_column(table: Rows, column: int) -> Rows:
    columns = np.asarray(table.columns)
    stays = columns != column
    starts = np.concatenate([[0], np.cumsum(stays)])[table.starts]
    left = columns[stays]
    return Rows(starts, (left - (left > column)).astype(columns.dtype), np.asarray(table.values)[stays])


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_removable(artifact: Artifact, arrays: Mapping[str, Any]) -> None:
    """Refuse artifacts with unchanged arrays of unknown names that have as many entries as there are users."""
    tables = [f"{name}.{part}" for name in artifact.manifest["base_models"] for part in ("starts", "columns", "values")]
    not_by_user = (*_NOT_BY_USER, *tables)
    by_user = {artifact.n_users, artifact.n_users + 1} - {0, 1}
    suspects = sorted(
        name
        for name, array in artifact.arrays.items()
        if arrays.get(name) is array and len(array) in by_user and not _matches(name, not_by_user)
    )
    if suspects:
        raise ForgettingError(
            f"{artifact.folder}: the user cannot be removed, because this version of Tritone does not know the arrays "
            f"{', '.join(suspects)}, which may hold data by user; train again without the user's rows in the log, and "
            f"export"
        )


def holds(artifact: Artifact, key: bytes, user: str) -> bool:
    """Return whether an artifact holds a user, given their id in the log."""
    return IdLookup(artifact, key).user(user) >= 0


def open_version(folder: Path) -> Artifact:
    """Map an artifact into memory.

    Raises:
        ForgettingError: the artifact is missing, damaged or of an unsupported format.
    """
    try:
        return open_artifact(folder)
    except RecommenderError as error:
        raise ForgettingError(str(error)) from error


def find_users_key(artifact: Artifact, given: Path | None) -> bytes | None:
    """Return the key that an artifact was made with: the given or the installed one; None if neither fits.

    Raises:
        ForgettingError: the given key cannot be read.
    """
    check = str(artifact.manifest["key_check"])
    try:
        named = given or os.environ.get(KEY_VARIABLE)
        installed = key_path(check)
        paths = ([find_key(str(named), check)] if named else []) + ([installed] if installed.is_file() else [])
        return next((content for path in paths if key_check(content := read_key(path)) == check), None)
    except (RecommenderError, ValueError) as error:
        raise ForgettingError(str(error)) from error


def wrong_key_message(folder: Path, key: Path | None) -> str:
    """Return the error message for a folder whose key was not found."""
    named = key or os.environ.get(KEY_VARIABLE)
    if named:
        return f"{named}: wrong key: expected the one that {folder} was made with; name it with --key"
    return f"{folder}: the key that it was made with is not installed for this system user; name it with --key"
