"""Pseudonyms of users, and the keys that they are made with.

User ids are stored as keyed hashes only: without the key nobody can tell whose history a row is.

```python
key = read_key(Path("recommender.key"))
pseudonym(key, "user 42")   # 16 bytes
```
Keys are kept outside every model repository, in a folder of this user, under the check value that an artifact stores of
its key. Recommenders that were trained with different keys can be served together, and an old version finds its key
after a new training.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender._exceptions import KeyFileError
from tritone_serving.recommender.private_files import make_private_folder

PSEUDONYM_BYTES: Final = 16
_KEY_BYTES: Final = 32
_LEAST_KEY_BYTES: Final = 16


def pseudonym(key: bytes, user: str) -> bytes:
    """HMAC-SHA256 of the id in UTF-8, the first 16 bytes."""
    return hmac.digest(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256)[:PSEUDONYM_BYTES]


def pseudonyms(key: bytes, users: list[str]) -> npt.NDArray[np.uint64]:
    """Of many ids: (n, 2) as pairs of big-endian halves, so that they sort as their bytes do."""
    whole = b"".join(pseudonym(key, user) for user in users)
    return np.frombuffer(whole, ">u8").reshape(-1, 2).astype(np.uint64)


def key_check(key: bytes) -> str:
    """What an artifact stores of the key, to tell a wrong key from an unknown user."""
    return hmac.digest(key, b"tritone recommender key", hashlib.sha256).hex()[:16]


def read_key(path: Path) -> bytes:
    """Read a key from a file that `make_key` wrote, or any file of at least 16 bytes.

    Raises:
        KeyFileError: it is missing, unreadable or too short.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise KeyFileError(
            f"{path}: the key for users' pseudonyms cannot be read ({error.strerror}); name the file that was made "
            f"when the recommender was trained"
        ) from error
    if len(key) < _LEAST_KEY_BYTES:
        raise KeyFileError(f"{path}: holds {len(key)} bytes; expected a key of at least {_LEAST_KEY_BYTES}")
    return key


def make_key(path: Path) -> bytes:
    """Read the key if the file is there, else write a new random one that only its owner may read."""
    if path.exists():
        return read_key(path)
    if not path.parent.exists():
        make_private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    except FileExistsError:
        pass  # somebody else was first
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be written ({error.strerror})") from error
    return read_key(path)


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
