"""Users' ids are stored as keyed hashes only: without the key nobody can tell whose history a row is.

```python
key = read_key(Path("recommender.key"))
pseudonym(key, "user 42")   # 16 bytes
```
"""

from __future__ import annotations

import hashlib
import hmac
import os
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
