"""Where the keys of users' pseudonyms lie: outside every model repository, for one user of the machine alone.

Each key is kept under the check value that an artifact stores of it, so that recommenders which were trained with
different keys can be served side by side, and an old version finds its key after a new training. Needs nothing but
the standard library: the `cf_ensemble` backend runs where Tritone's other dependencies are not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

KEY_VARIABLE: Final = "TRITONE_RECOMMENDER_KEY"


def key_folder() -> Path:
    """The folder of keys; it need not be there.

    Raises:
        ValueError: this user has no home folder, and XDG_STATE_HOME is not set.
    """
    try:
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise ValueError(
            "no folder with the keys of users' pseudonyms: expected a home folder of this user or XDG_STATE_HOME, got "
            f"neither; set XDG_STATE_HOME, or name the key in {KEY_VARIABLE}"
        ) from error
    return Path(state) / "tritone" / "recommender-keys"


def key_path(key_check: str) -> Path:
    """Where the key lies that an artifact with this check value was made with.

    Raises:
        ValueError: it is no check value, and could name another file; or as `key_folder`.
    """
    return key_folder() / f"{_checked(key_check)}.key"


def _checked(key_check: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", key_check):
        raise ValueError(f"{key_check!r} is no check value of a key; expected 8 to 64 hexadecimal digits")
    return key_check


def find_key(configured: str, key_check: str) -> Path:
    """The file to read the key from; it need not be there.

    Args:
        configured: a path, or empty to look at the environment, then in the folder of keys. Where it names a folder,
            the key lies in there as it does in the folder of keys, which is how containers are given theirs.
        key_check: what the artifact stores of its key.

    Raises:
        ValueError: as `key_path`.
    """
    named = configured or os.environ.get(KEY_VARIABLE, "")
    if not named:
        return key_path(key_check)
    try:
        place = Path(named).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"the path of the key cannot be expanded, got {named!r}: {error}; give an absolute path"
        ) from error
    return place / f"{_checked(key_check)}.key" if place.is_dir() else place


def install_key(source: Path, key_check: str) -> Path:
    """Copy a key into the folder of keys, readable for its owner alone.

    Returns:
        where it lies now.

    Raises:
        ValueError: as `key_path`.
        OSError: it cannot be read or written.
    """
    target = key_path(key_check)
    content = source.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o700)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    partial.replace(target)
    return target
