"""Removes a user from what is served: a new version of the recommender without them, and old ones with them deleted.

What many users' histories went into together stays as it is (counts, similarities, the weights of `taste_vae`):
no user can be read from it, and training again without the user's log rows is what removes their share.

All of it can be done again: what was cut short is finished, and where nobody holds the user nothing changes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tritone_export._exceptions import ForgettingError, RepositoryError
from tritone_export.card import CARD_FILENAME, card_bytes, checksum
from tritone_export.holding import find_users_key, holds, open_version, why_no_key
from tritone_export.repository import check_model_name, publish, versions
from tritone_export.without_user import without_user
from tritone_serving.recommender import Artifact, read_key, write_artifact
from tritone_serving.recommender.artifact import files_of
from tritone_serving.sound_index import FILENAME as INDEX_FILENAME

_REMOVED: Final = ".forgotten-"


@dataclass(frozen=True)
class Forgotten:
    """What was done.

    Attributes:
        versions: published version by model. Empty if the newest version did not know the user.
        removed: versions of the recommender that were deleted, because they held the user.
        kept: versions that still hold the user.
        other_key: versions whose pseudonyms were made with a key that is not at hand: under the given one they
            hold nobody.
        unread: version -> why it could not be looked into; it may hold the user.
        users: how many the newest version held before and holds now; None if it was not looked into.
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
    """Publish a version without a user, and delete those with them; where none holds them, nothing changes.

    A server goes on with the version that it has loaded, whose files it has mapped, until it loads the new one.

    Args:
        user: as in the log.
        key: the file with the key of the pseudonyms; None looks where a server would, for each version.
        keep_old: leave the old versions, for going back.

    Raises:
        ForgettingError: no version can be looked into, or the key cannot be read.
        RepositoryError: the repository cannot be written.
    """
    check_model_name(model)
    folder = repository / model
    numbers = versions(folder) if folder.is_dir() else []
    if not numbers:
        raise ForgettingError(f"{folder}: holds no version of a recommender; name its --repository and --model")
    for leftover in folder.glob(f"{_REMOVED}*"):  # of a removal that was cut short
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
        raise ForgettingError(why_no_key(folder, key) if looked or other_key else "; ".join(unread.values()))
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


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD_FILENAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _remove(folder: Path) -> None:
    # Renamed first, so that no server takes half a version for one.
    hidden = folder.with_name(f"{_REMOVED}{folder.name}")
    try:
        folder.rename(hidden)
    except OSError as error:
        raise RepositoryError(f"{folder}: still holds the user and cannot be removed ({error.strerror})") from error
    _delete(hidden)


def _delete(hidden: Path) -> None:
    try:
        shutil.rmtree(hidden)
    except OSError as error:
        raise RepositoryError(f"{hidden}: holds a forgotten user and cannot be removed ({error.strerror})") from error
