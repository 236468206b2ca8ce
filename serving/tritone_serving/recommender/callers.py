"""Who sends a request, and whose stored data it may use.

Three rules, in this order: with `trust_callers` everybody may ask about everybody; the holder of the service key may
ask about everybody; the holder of a user token may ask about that one user. All others may use nothing that is stored
about anybody. A wrong key or a token that is not valid is no error: an answer that differed would tell whether a guess
was close.

Triton hands a request's parameters to a backend as JSON text; headers that it is told to forward are among them, under
the name that the caller wrote, capitals included, and once for each time that they were sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender.tokens import TokenError, verified_user

SERVICE_KEY_VARIABLE: Final = "TRITONE_SERVICE_KEY_FILE"
TRUST_CALLERS_VARIABLE: Final = "TRITONE_TRUST_CALLERS"
SERVICE_KEY_HEADER: Final = "tritone-service-key"
USER_TOKEN_HEADER: Final = "tritone-user-token"  # noqa: S105 - a header's name
CANARY_PARAMETER: Final = "tritone_canary"
SHORTEST_KEY: Final = 32  # characters; RFC 7518 asks for 256 bits
LONGEST_KEY: Final = 1_024
_CREDENTIALS: Final = (SERVICE_KEY_HEADER, USER_TOKEN_HEADER)


class ServiceKeyError(ValueError):
    """The service key file is missing, open to others, or holds no key; the text does not hold the key."""


@dataclass(frozen=True)
class Caller:
    """Whose stored data a request may use.

    Attributes:
        is_trusted: everybody's.
        user: this user's; None for nobody's.
    """

    is_trusted: bool = False
    user: str | None = None

    def may_use(self, user: str) -> bool:
        """Whether stored data of this user may be looked up at all."""
        return self.is_trusted or (self.user is not None and self.user == user)


NOBODY: Final = Caller()
TRUSTED: Final = Caller(is_trusted=True)


@dataclass(frozen=True)
class RequestParameters:
    """What a request's parameters say.

    Attributes:
        credentials: value by header name. One that was sent with two values is left out: which of them a proxy has
            checked cannot be known.
        is_canary: sent by a health check, and not to be counted as traffic.
    """

    credentials: Mapping[str, str]
    is_canary: bool = False


_NO_PARAMETERS: Final = RequestParameters({})


def read_parameters(text: str) -> RequestParameters:
    """Read the parameters that Triton hands to a Python backend; what cannot be read counts as not sent."""
    if text in ("", "{}"):
        return _NO_PARAMETERS
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return _NO_PARAMETERS
    if not isinstance(pairs, _Pairs):
        return _NO_PARAMETERS
    sent: dict[str, list[Any]] = {}
    for name, value in pairs:
        sent.setdefault(name.lower(), []).append(value)
    credentials: dict[str, str] = {}
    for name in _CREDENTIALS:
        values = sent.get(name, [])
        if values and isinstance(values[0], str) and all(value == values[0] for value in values):
            credentials[name] = values[0].strip()
    return RequestParameters(credentials, is_canary=sent.get(CANARY_PARAMETER, [False])[0] is True)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its repeated names."""


def read_service_key(path: Path) -> bytes:
    """Read a service key.

    A file of this user must be closed to all others. One of root may be readable for this user's group or for all, as
    mounted secrets of containers are: its reader cannot change that.

    Raises:
        ServiceKeyError: it is missing, open to others, or holds no key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(LONGEST_KEY + 1).strip()
    except OSError as error:
        raise ServiceKeyError(f"{path}: the service key cannot be read ({error.strerror})") from None
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.getuid(), 0):
        raise ServiceKeyError(f"{path}: expected a file of this user or of root; another user could change it")
    forbidden = 0o077 if status.st_uid == os.getuid() else 0o022
    if mode & forbidden:
        raise ServiceKeyError(f"{path}: is open to other users (mode {mode:03o}): expected 600; run: chmod 600 {path}")
    if not SHORTEST_KEY <= len(content) <= LONGEST_KEY or not all(0x21 <= byte <= 0x7E for byte in content):
        raise ServiceKeyError(
            f"{path}: holds no service key: expected {SHORTEST_KEY} to {LONGEST_KEY} printable ASCII characters "
            f"without spaces; make one with: openssl rand -hex 32"
        )
    return content


class CallerCheck:
    """Tells callers apart by a key file, which is read again when it changes.

    Without a key that can be used, nobody is authorised.
    """

    def __init__(
        self, key_file: Path | None, *, trust_callers: bool = False, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """Read the key.

        Args:
            key_file: None if there is none.
            trust_callers: let everybody ask about everybody.
            warn: told once for each reason why nobody is authorised; the text holds no secret.
        """
        self._path = key_file
        self._trusts = trust_callers
        self._warn = warn
        self._warned = ""
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, ...] | None, bytes | None] = (None, None)
        if not trust_callers:
            self._key()

    @classmethod
    def from_environment(cls, warn: Callable[[str], None]) -> CallerCheck:
        """As `tritone serve` tells its backends by environment variables."""
        named = os.environ.get(SERVICE_KEY_VARIABLE, "")
        return cls(
            Path(named) if named else None, trust_callers=os.environ.get(TRUST_CALLERS_VARIABLE) == "1", warn=warn
        )

    def caller(self, parameters: RequestParameters) -> Caller:
        """Whose stored data a request with these parameters may use."""
        if self._trusts:
            return TRUSTED
        key = self._key() if parameters.credentials else None
        if key is None:
            return NOBODY
        sent = parameters.credentials.get(SERVICE_KEY_HEADER)
        if sent is not None and _is_same(sent, key):
            return TRUSTED
        try:
            return Caller(user=verified_user(key, parameters.credentials.get(USER_TOKEN_HEADER, "")))
        except TokenError:
            return NOBODY

    def _key(self) -> bytes | None:
        if self._path is None:
            self._warn_once(f"no service key is configured ({SERVICE_KEY_VARIABLE}): every user is answered as unknown")
            return None
        try:
            status = self._path.stat()
            identity = (status.st_ino, status.st_dev, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid)
        except OSError:
            identity = None
        with self._lock:
            if identity is not None and identity == self._read[0]:
                return self._read[1]
            key: bytes | None = None
            try:
                key = read_service_key(self._path)
            except ServiceKeyError as error:
                self._warn_once(f"{error}; until then every user is answered as unknown")
            self._read = (identity, key)
            if key is not None:
                self._warned = ""
        return key

    def _warn_once(self, text: str) -> None:
        if text != self._warned:
            self._warned = text
            self._warn(text)


def _is_same(sent: str, key: bytes) -> bool:
    # Of digests, so that not even the length shows in the time.
    digests = [hashlib.sha256(each).digest() for each in (sent.encode("utf-8", "surrogatepass"), key)]
    return hmac.compare_digest(*digests)
