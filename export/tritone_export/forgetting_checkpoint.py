"""Removes a user from what `tritone train` wrote; it can be done again, and finishes what was cut short."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tritone_export._exceptions import ForgettingError
from tritone_export.holding import find_users_key, holds, open_version, why_no_key
from tritone_export.without_user import without_user
from tritone_serving.recommender import write_artifact
from tritone_serving.recommender.artifact import MANIFEST


def forget_in_checkpoint(user: str, checkpoint: Path, *, key: Path | None = None) -> tuple[int, int]:
    """Remove a user from the artifact of a checkpoint, from which `tritone export` would bring them back.

    Returns:
        how many users it held before, and holds now.

    Raises:
        ForgettingError: the artifact or the key cannot be read, or they do not belong together.
    """
    folder = checkpoint / "artifact"
    staged, old = checkpoint / ".artifact-new", checkpoint / ".artifact-old"
    if not folder.exists() and old.exists():  # cut short between the two renames below
        (staged if (staged / MANIFEST).is_file() else old).rename(folder)
    for left in (staged, old):
        shutil.rmtree(left, ignore_errors=True)
    artifact = open_version(folder)
    own = checkpoint / "recommender.key"
    content = find_users_key(artifact, key or (own if own.is_file() else None))
    if content is None:
        raise ForgettingError(why_no_key(checkpoint, key))
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
    """What a checkpoint says of itself; exports put it on the card."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(info, dict) and "n_users" in info and info["n_users"] != n_users:
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(
            json.dumps({**info, "n_users": n_users}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        shutil.copymode(path, partial)
        partial.replace(path)
