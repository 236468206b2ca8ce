"""Whether an artifact holds a user, which only the key of its pseudonyms can tell."""

from __future__ import annotations

import os
from pathlib import Path

from tritone_export._exceptions import ForgettingError
from tritone_serving.recommender import Artifact, RecommenderError, open_artifact, read_key
from tritone_serving.recommender.pseudonyms import key_check
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender_keys import KEY_VARIABLE, find_key, key_path


def holds(artifact: Artifact, key: bytes, user: str) -> bool:
    """Whether a user, by their id as in the log, is stored."""
    return Resolver(artifact, key).user(user) >= 0


def open_version(folder: Path) -> Artifact:
    """Map an artifact into memory.

    Raises:
        ForgettingError: it is missing, damaged, or of another version.
    """
    try:
        return open_artifact(folder)
    except RecommenderError as error:
        raise ForgettingError(str(error)) from error


def find_users_key(artifact: Artifact, given: Path | None) -> bytes | None:
    """The key that an artifact was made with: the given one, or the one installed for it; None if neither is.

    Raises:
        ForgettingError: the given one cannot be read.
    """
    check = str(artifact.manifest["key_check"])
    try:
        named = given or os.environ.get(KEY_VARIABLE)
        installed = key_path(check)
        paths = ([find_key(str(named), check)] if named else []) + ([installed] if installed.is_file() else [])
        return next((content for path in paths if key_check(content := read_key(path)) == check), None)
    except (RecommenderError, ValueError) as error:
        raise ForgettingError(str(error)) from error


def why_no_key(folder: Path, key: Path | None) -> str:
    """What to say where no key fits."""
    named = key or os.environ.get(KEY_VARIABLE)
    if named:
        return f"{named}: is not the key that {folder} was made with; give that one with --key"
    return f"{folder}: the key that it was made with is not among this user's; give it with --key"
