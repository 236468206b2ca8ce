"""API keys: created, listed, rotated and revoked by `tritone keys`, checked by the gateway.

The keys are in one JSON file, which is replaced atomically and read again after a change, so that several workers and
gateways can share it (also as a read-only secret of Kubernetes). It holds only SHA-256 digests: a key has 256
random bits, which cannot be guessed, so a slow hash would only add time to each request.

A key looks like `tritone_<id>_<secret>`; the id names it in lists, logs and metrics.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritone import TritoneError, atomic
from tritone.watched_files import WatchedFiles

Scope: TypeAlias = Literal["listen", "write", "recommend", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("listen", "write", "recommend", "admin")
KEY: Final = re.compile(r"tritone_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_LOCK_TIMEOUT_S: Final = 10.0
_N_SECRET_BYTES: Final = 32
RATE: Final = r"^[1-9]\d{0,6}/(second|minute|hour|day)$"
# What the patterns mean, for the messages about callers and rates.
_EXPECTED: Final = {
    "rate": "expected requests per second, minute, hour or day, such as 600/minute",
    "caller": "expected a name of 1 to 100 letters, digits or characters of _.@:+-",
}
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ApiKeyError(TritoneError):
    """Raised when the key file cannot be read or written, or a key is invalid or does not exist."""


class RetiredSecret(BaseModel):
    """The previous secret of a rotated key, accepted until a Unix time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: _Digest
    until_s: float


class ApiKey(BaseModel):
    """One key, without its secret.

    Times are Unix times.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    caller: str = Field(
        min_length=1, max_length=100, pattern=r"^[\w.@:+-]+$", description="Name of the caller that holds the key."
    )
    scopes: tuple[Scope, ...] = Field(min_length=1, description="Groups of routes that the key allows.")
    users: str = Field(
        "none",
        min_length=1,  # every id begins with an empty prefix
        max_length=200,
        description="Stored users whose data `recommend` may use: all, none, or a prefix of their ids.",
    )
    rate: str | None = Field(
        None, pattern=RATE, description="Maximum rate of requests, such as 600/minute; None for no limit."
    )
    concurrency: int | None = Field(
        None, ge=1, le=100_000, description="Maximum number of requests at once; None for no limit."
    )
    created_s: float
    expires_s: float | None = None
    revoked_s: float | None = None
    digest: _Digest = Field(repr=False)
    retired: tuple[RetiredSecret, ...] = Field((), repr=False)

    def is_valid(self, now_s: float) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)

    def matches(self, key: str, now_s: float) -> bool:
        """Return whether a text is this key with a secret that is accepted now; compared in constant time."""
        digest = digest_of(key)
        accepted = [self.digest, *(each.digest for each in self.retired if now_s < each.until_s)]
        return any(hmac.compare_digest(digest, each) for each in accepted)

    def may_use(self, user_id: str) -> bool:
        """Return whether the key may use the stored data of a user."""
        return self.users == "all" or (self.users != "none" and user_id.startswith(self.users))


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


def digest_of(key: str) -> str:
    """Return the SHA-256 digest of a key in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def default_keys_file() -> Path:
    """Return the default path of the key file.

    Raises:
        RuntimeError: the user of this process has no home folder, and XDG_STATE_HOME is not set.
    """
    from tritone.credentials import default_key_file

    return default_key_file().parent.parent / "gateway" / "keys.json"


class KeyStore:
    """Reads and changes the keys of one file."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._had_keys = False
        self._by_id: WatchedFiles[Mapping[str, ApiKey]] = WatchedFiles(
            [path], lambda: {each.id: each for each in self._read().keys}
        )

    def find(self, key: str) -> ApiKey | None:
        """Return the key that a caller has sent; None if it is unknown, revoked or expired.

        Raises:
            ApiKeyError: the file cannot be read.
        """
        found = KEY.fullmatch(key)
        keys = self._by_id.content()
        each = keys.get(found[1]) if found else None
        now_s = self._clock()
        return each if each is not None and each.matches(key, now_s) and each.is_valid(now_s) else None

    def has_keys(self) -> bool:
        """Return whether keys were created, revoked and expired ones included.

        Neither revoking the last key nor the loss of the file, such as a volume that is no longer mounted, may open the
        gateway to everyone: once there were keys, this is true until the process ends.
        """
        self._had_keys = self._had_keys or bool(self._by_id.content())
        return self._had_keys

    def keys(self) -> tuple[ApiKey, ...]:
        """Return all keys, the oldest first."""
        return self._read().keys

    def create(
        self,
        caller: str,
        scopes: tuple[Scope, ...],
        *,
        users: str = "none",
        rate: str | None = None,
        concurrency: int | None = None,
        ttl_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key.

        Returns:
            The key without its secret, and the text to give to the caller, which is not stored.

        Raises:
            ApiKeyError: a value is invalid, or the file cannot be written.
        """
        key_id = secrets.token_hex(6)
        text = _key_text(key_id)
        now_s = self._clock()
        try:
            made = ApiKey(
                id=key_id,
                caller=caller,
                scopes=tuple(dict.fromkeys(scopes)),
                users=users,
                rate=rate,
                concurrency=concurrency,
                created_s=now_s,
                expires_s=None if ttl_s is None else now_s + ttl_s,
                digest=digest_of(text),
            )
        except ValidationError as error:
            raise ApiKeyError(_first_error(error)) from error
        with self._edit() as keys:
            keys.append(made)
        return made, text

    def rotate(self, key_id: str, *, grace_s: float = 0.0) -> tuple[ApiKey, str]:
        """Replace the secret of a key.

        Args:
            key_id: its id.
            grace_s: seconds for which the current secret stays valid.

        Returns:
            As `create`.

        Raises:
            ApiKeyError: there is no such key, it is revoked, or the file cannot be written.
        """
        text = _key_text(key_id)
        now_s = self._clock()
        with self._edit() as keys:
            index = _index_of(keys, key_id)
            if keys[index].revoked_s is not None:
                raise ApiKeyError(f"key {key_id} is revoked: expected a valid key; create a new one")
            kept = [each for each in keys[index].retired if now_s < each.until_s]
            if grace_s > 0:
                kept.append(RetiredSecret(digest=keys[index].digest, until_s=now_s + grace_s))
            keys[index] = keys[index].model_copy(update={"digest": digest_of(text), "retired": tuple(kept)})
            made = keys[index]
        return made, text

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key permanently; gateways refuse it within a second.

        Raises:
            ApiKeyError: there is no such key, or the file cannot be written.
        """
        with self._edit() as keys:
            index = _index_of(keys, key_id)
            if keys[index].revoked_s is None:
                keys[index] = keys[index].model_copy(update={"revoked_s": self._clock(), "retired": ()})
            return keys[index]

    def _read(self) -> _KeyFile:
        try:
            return _KeyFile.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return _KeyFile()
        except OSError as error:
            raise ApiKeyError(f"{self.path}: the API keys cannot be read ({error.strerror})") from error
        except ValidationError as error:
            raise ApiKeyError(
                f"{self.path}: invalid key file: {_first_error(error)}; restore it from a backup"
            ) from error

    @contextmanager
    def _edit(self) -> Iterator[list[ApiKey]]:
        """Yield a list of the keys under a lock; write it back when the block ends."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=atomic.PRIVATE_FOLDER)
            with FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o600):
                keys = list(self._read().keys)
                yield keys
                content = json.dumps(_KeyFile(keys=tuple(keys)).model_dump(mode="json"), indent=1)
                atomic.write_atomically(self.path, content + "\n", mode=0o600, sync=True)
        except TimeoutError as error:
            raise ApiKeyError(f"{self.path}: another process is changing the API keys; try again") from error
        except OSError as error:
            raise ApiKeyError(f"{self.path}: the API keys cannot be written ({error.strerror})") from error
        self._by_id.expire()


def _key_text(key_id: str) -> str:
    return f"tritone_{key_id}_{secrets.token_urlsafe(_N_SECRET_BYTES)}"


def _index_of(keys: list[ApiKey], key_id: str) -> int:
    for index, each in enumerate(keys):
        if each.id == key_id:
            return index
    raise ApiKeyError(f"no key {key_id!r}: expected an id that `tritone keys list` shows")


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    wrong = _EXPECTED.get(name, first["msg"].lower())
    return f"invalid {name}: {wrong}, got {str(first['input'])[:80]!r}"
