"""Loading of a version: the key of the users' pseudonyms, which the version names by its check value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tritone_serving.recommender.exceptions import KeyFileError
from tritone_serving.recommender.pseudonyms import KEY_VARIABLE, find_key, key_check, read_key

FILENAME = "events.json"
KEY_PARAMETER = "key_file"
_FORMAT = 1


class LoadError(Exception):
    """Raised when the model cannot be loaded."""


def read_key_of(folder: Path, config: dict[str, Any]) -> bytes:
    """Return the key of a version.

    Args:
        folder: the version folder.
        config: the model's configuration as passed by Triton.

    Raises:
        LoadError: the version is damaged, or its key is missing.
    """
    if config.get("response_cache", {}).get("enable"):
        raise LoadError("response_cache is enabled: cached events would not be stored; remove it from the config")
    path = folder / FILENAME
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        version, check = described["format"], described["key_check"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path}: cannot be read ({error}); export the recommender again") from error
    if version != _FORMAT or not isinstance(check, str):
        raise LoadError(f"{path}: expected format {_FORMAT}, got {version!r:.40}; export the recommender again")
    named = str(config.get("parameters", {}).get(KEY_PARAMETER, {}).get("string_value", ""))
    try:
        file = find_key(named, check)
        key = read_key(file)
    except (KeyFileError, ValueError) as error:
        raise LoadError(
            f"the key of the users' pseudonyms is missing: {error}; name it in the config's parameter {KEY_PARAMETER} "
            f"or in {KEY_VARIABLE}, as for the recommender"
        ) from error
    if key_check(key) != check:
        raise LoadError(f"{file}: wrong key: expected the one with the check value {check}, got {key_check(key)}")
    return key
