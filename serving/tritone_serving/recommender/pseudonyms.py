"""Pseudonyms of users, and the key files they are computed with.

User ids are stored only as keyed hashes; without the key, rows cannot be attributed to users.

```python
key = read_key(Path("recommender.key"))
pseudonym(key, "user 42")   # 16 bytes
```
Keys are stored outside of model repositories, in a folder of the current user, in files named by the key's check value,
which is also stored in the artifact. Recommenders with different keys can therefore be served together, and older
versions keep working after a new training with another key.
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

from tritone.atomic import make_private_folder
from tritone_serving.recommender.exceptions import KeyFileError

PSEUDONYM_BYTES: Final = 16
_KEY_BYTES: Final = 32
_LEAST_KEY_BYTES: Final = 16


class Pseudonym(str):
    """A user's pseudonym as 32 hexadecimal digits, in place of an id that is not known, as in stores of events.

    Only programs that hold the key can make one: ids in requests and logs are plain strings.
    """

    __slots__ = ()


def pseudonym(key: bytes, user: str) -> bytes:
    """Return the first 16 bytes of the HMAC-SHA256 of a user id in UTF-8."""
    if isinstance(user, Pseudonym):
        return bytes.fromhex(user)
    return hmac.digest(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256)[:PSEUDONYM_BYTES]


def pseudonyms(key: bytes, users: list[str]) -> npt.NDArray[np.uint64]:
    """Return the pseudonyms of n users as pairs of big-endian halves (n, 2), which sort like their bytes."""
    whole = b"".join(pseudonym(key, user) for user in users)
    return np.frombuffer(whole, ">u8").reshape(-1, 2).astype(np.uint64)


def key_check(key: bytes) -> str:
    """Return the check value of a key, by which a wrong key is recognised."""
    return hmac.digest(key, b"tritone recommender key", hashlib.sha256).hex()[:16]


def read_key(path: Path) -> bytes:
    """Read a key from a file that `make_key` wrote, or any file of at least 16 bytes.

    Raises:
        KeyFileError: the file is missing, unreadable or too short.
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
    """Read a key, or create a random one, readable by its owner only, if the file does not exist.

    Raises:
        KeyFileError: the file cannot be read or written, or is too short.
    """
    if path.exists():
        return read_key(path)
    if not path.parent.exists():
        make_private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    except FileExistsError:
        pass  # created by another process in the meantime
    except OSError as error:
        raise KeyFileError(f"{path}: the key cannot be written ({error.strerror})") from error
    return read_key(path)


KEY_VARIABLE: Final = "TRITONE_RECOMMENDER_KEY"


def key_folder() -> Path:
    """Return the folder of keys, which may not exist yet.

    Raises:
        ValueError: the current user has no home folder and XDG_STATE_HOME is not set.
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
    """Return the path of the key with this check value.

    Raises:
        ValueError: the check value is malformed and could name another file; or as `key_folder`.
    """
    return key_folder() / f"{_checked(key_check)}.key"


def _checked(key_check: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", key_check):
        raise ValueError(f"check value of a key is malformed: expected 8 to 64 hexadecimal digits, got {key_check!r}")
    return key_check


def find_key(configured: str, key_check: str) -> Path:
    """Return the path of the key file of an artifact, which may not exist.

    Args:
        configured: path of the key file, or of a folder laid out like the folder of keys (as mounted into containers);
            if empty, the environment variable TRITONE_RECOMMENDER_KEY and then the folder of keys are used.
        key_check: check value stored in the artifact.

    Raises:
        ValueError: as `key_path`.
    """
    named = configured or os.environ.get(KEY_VARIABLE, "")
    if not named:
        return key_path(key_check)
    try:
        path = Path(named).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"the path of the key cannot be expanded, got {named!r}: {error}; give an absolute path"
        ) from error
    return path / f"{_checked(key_check)}.key" if path.is_dir() else path


def install_key(source: Path, key_check: str) -> Path:
    """Copy a key into the folder of keys, readable by its owner only.

    Returns:
        path of the copy.

    Raises:
        ValueError: as `key_path`.
        OSError: the key cannot be read or written.
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
