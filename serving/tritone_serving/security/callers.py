"""Authorisation of callers: whose stored data a request may use; and the user tokens for it.

Three rules apply in this order: with `trust_callers`, every caller has access to all users; the service key gives
access to all users; a user token gives access to one user. All other callers have no access to stored data. An invalid
key or token is not an error, so that responses do not confirm guesses.

A user token is a JSON Web Token (RFC 7519), signed with HS256, which gives its holder access to one stored user for a
short time. The key is the content of the service key file, so any JWT library can mint one:

```python
import time, jwt  # PyJWT
jwt.encode({"sub": "42", "exp": int(time.time()) + 900}, open("service.key").read().strip(), algorithm="HS256")
```
The algorithm is fixed: a token with another `alg` in its header is refused, and the header has no other influence.

Triton passes a request's parameters to a backend as JSON text. Forwarded headers are among them, with the
capitalisation that the caller used, and repeated if they were sent several times. Only the standard library is used,
because backends import this module.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone_serving.ids import normalize_id

LONGEST_LIFETIME_S: Final = 86_400
DEFAULT_LIFETIME_S: Final = 900
CLOCK_SKEW_S: Final = 30  # how far ahead the issuer's clock may be
LONGEST_TOKEN: Final = 4_096  # characters
AUDIENCE: Final = "tritone"
_TOKEN: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_LATEST_S: Final = 1e12  # seconds since 1970; larger whole numbers would overflow
_ALGORITHM: Final = "HS256"
_HEADER: Final = {"alg": _ALGORITHM, "typ": "JWT"}


class TokenError(ValueError):
    """Raised when a user token cannot be minted or is invalid; the message contains neither token nor user."""


def mint_token(key: bytes, user: str, *, lifetime_s: float = DEFAULT_LIFETIME_S, now_s: float | None = None) -> str:
    """Return a token that gives its holder access to one user.

    Args:
        key: the service key, without the white space around it.
        user: the id as in the listening log.
        lifetime_s: seconds until the token expires, at most a day.
        now_s: seconds since 1970; the system's clock if None.

    Raises:
        TokenError: the id cannot be put into a token, or the lifetime is out of range.
    """
    if not user:
        raise TokenError("user is empty: expected an id as in the listening log")
    if not 1 <= lifetime_s <= LONGEST_LIFETIME_S:  # false for NaN
        raise TokenError(f"lifetime_s is {lifetime_s}: expected 1 to {LONGEST_LIFETIME_S} seconds")
    issued_s = int(time.time() if now_s is None else now_s)
    claims = {"sub": user, "aud": AUDIENCE, "iat": issued_s, "exp": issued_s + int(lifetime_s)}
    try:
        parts = [
            _encoded(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()) for part in (_HEADER, claims)
        ]
    except UnicodeEncodeError:
        raise TokenError("user cannot be encoded as UTF-8: expected an id as in the listening log") from None
    signed = ".".join(parts)
    token = f"{signed}.{_encoded(_signature(key, signed))}"
    if len(token) > LONGEST_TOKEN:
        raise TokenError(
            f"the token would have {len(token)} characters: expected at most {LONGEST_TOKEN}; use a shorter user id"
        )
    return token


def verified_user(key: bytes, token: str, *, now_s: float | None = None) -> str:
    """Return the user that a token is about.

    Args:
        key: the service key, without the white space around it.
        token: as `mint_token` or any JWT library made it.
        now_s: seconds since 1970; the system's clock if None.

    Raises:
        TokenError: it is malformed, not signed with this key, expired, not valid yet, valid for too long, or for
            another audience.
    """
    found = _TOKEN.fullmatch(token) if len(token) <= LONGEST_TOKEN else None
    if found is None:
        raise TokenError("malformed")
    # Verify the signature first, so that no unauthenticated content is parsed.
    if not hmac.compare_digest(_decoded(found[3]), _signature(key, f"{found[1]}.{found[2]}")):
        raise TokenError("not signed with this key")
    header, claims = (_object(_decoded(part)) for part in (found[1], found[2]))
    if header.get("alg") != _ALGORITHM or "crit" in header or str(header.get("typ", "JWT")).upper() != "JWT":
        raise TokenError("header not supported")
    _check_times(claims, time.time() if now_s is None else now_s)
    audience = claims.get("aud", AUDIENCE)
    if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
        raise TokenError("for another audience")
    user = claims.get("sub")
    if not isinstance(user, str) or not user:
        raise TokenError("names no user")
    return user


def _check_times(claims: dict[str, Any], now_s: float) -> None:
    expires_s = _seconds(claims, "exp")
    if expires_s is None or expires_s <= now_s:
        raise TokenError("expired")
    if expires_s > now_s + LONGEST_LIFETIME_S + CLOCK_SKEW_S:
        raise TokenError("valid for too long")
    for name in ("nbf", "iat"):
        begins_s = _seconds(claims, name)
        if begins_s is None:
            continue
        if begins_s > now_s + CLOCK_SKEW_S:
            raise TokenError("not valid yet")
        if expires_s - begins_s > LONGEST_LIFETIME_S:
            raise TokenError("valid for too long")


def _seconds(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise TokenError(f"{name} is not a time")
    return float(value)


def _object(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise TokenError("malformed") from None
    if not isinstance(parsed, dict):
        raise TokenError("malformed")
    return parsed


def _signature(key: bytes, signed: str) -> bytes:
    return hmac.digest(key, signed.encode("ascii"), hashlib.sha256)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise TokenError("malformed") from None


SERVICE_KEY_VARIABLE: Final = "TRITONE_SERVICE_KEY_FILE"
TRUST_CALLERS_VARIABLE: Final = "TRITONE_TRUST_CALLERS"
# As in `tritone.credentials`, which a backend cannot import: NVIDIA's container has this package's files alone.
SERVICE_KEY_HEADER: Final = "tritone-service-key"
USER_TOKEN_HEADER: Final = "tritone-user-token"  # noqa: S105 - a header's name
CANARY_PARAMETER: Final = "tritone_canary"
SHORTEST_KEY: Final = 32  # characters; RFC 7518 asks for 256 bits
LONGEST_KEY: Final = 1_024
_CREDENTIALS: Final = (SERVICE_KEY_HEADER, USER_TOKEN_HEADER)


class ServiceKeyError(ValueError):
    """Raised when a service key file is missing, open to others or invalid; the message never contains the key."""


@dataclass(frozen=True)
class Caller:
    """Whose stored data a request may use.

    Attributes:
        is_trusted: whether the request may use all users' data.
        user: the only user whose data it may use; None for no user.
    """

    is_trusted: bool = False
    user: str | None = None

    def may_use(self, user: str) -> bool:
        """Return whether stored data of this user may be looked up."""
        return self.is_trusted or (self.user is not None and normalize_id(self.user) == normalize_id(user))


NOBODY: Final = Caller()
TRUSTED: Final = Caller(is_trusted=True)


@dataclass(frozen=True)
class RequestParameters:
    """Credentials and flags from a request's parameters.

    Attributes:
        credentials: value by header name. A header with several different values is left out, since it is unknown which
            of them a proxy has checked.
        is_canary: whether metrics leave the request out.
    """

    credentials: Mapping[str, str]
    is_canary: bool = False


_NO_PARAMETERS: Final = RequestParameters({})


def read_parameters(text: str) -> RequestParameters:
    """Read the parameters that Triton passes to a Python backend; unreadable ones count as not sent."""
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
    """The members of a JSON object, including repeated names."""


def read_service_key(path: Path) -> bytes:
    """Read a service key.

    A file of this user must have no permissions for others. A file of root may be readable by its group or by all, like
    mounted secrets of containers, whose mode the reader cannot change.

    Raises:
        ServiceKeyError: the file is missing, open to others, or does not hold a valid key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(LONGEST_KEY + 1).strip()
    except OSError as error:
        raise ServiceKeyError(f"{path}: the service key cannot be read ({error.strerror})") from None
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.getuid(), 0):
        raise ServiceKeyError(
            f"{path}: expected a regular file that belongs to this user or root, since other owners could change it"
        )
    forbidden = 0o077 if status.st_uid == os.getuid() else 0o022
    if mode & forbidden:
        raise ServiceKeyError(
            f"{path}: other users can access it (mode {mode:03o}): expected 600; run: chmod 600 {path}"
        )
    if not SHORTEST_KEY <= len(content) <= LONGEST_KEY or not all(0x21 <= byte <= 0x7E for byte in content):
        raise ServiceKeyError(
            f"{path}: does not hold a valid service key: expected {SHORTEST_KEY} to {LONGEST_KEY} printable ASCII "
            f"characters without spaces; create one with: openssl rand -hex 32"
        )
    return content


class CallerCheck:
    """Authorises callers with the key in a file, which is read again when it changes.

    Without a valid key no caller is authorised.
    """

    def __init__(
        self, key_file: Path | None, *, trust_callers: bool = False, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """Read the key.

        Args:
            key_file: None if there is none.
            trust_callers: give every caller access to all users.
            warn: called once for each reason why no caller can be authorised; the message contains no secret.
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
        """Create the check from the environment variables that `tritone serve` sets for its backends."""
        named = os.environ.get(SERVICE_KEY_VARIABLE, "")
        return cls(
            Path(named) if named else None, trust_callers=os.environ.get(TRUST_CALLERS_VARIABLE) == "1", warn=warn
        )

    def caller(self, parameters: RequestParameters) -> Caller:
        """Return whose stored data a request with these parameters may use."""
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
            self._warn_once(f"no service key is configured ({SERVICE_KEY_VARIABLE}): every user is treated as unknown")
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
                self._warn_once(f"{error}; until then every user is treated as unknown")
            self._read = (identity, key)
            if key is not None:
                self._warned = ""
        return key

    def _warn_once(self, text: str) -> None:
        if text != self._warned:
            self._warned = text
            self._warn(text)


def _is_same(sent: str, key: bytes) -> bool:
    # Compare digests, so that the time does not depend on the length either.
    digests = [hashlib.sha256(each).digest() for each in (sent.encode("utf-8", "surrogatepass"), key)]
    return hmac.compare_digest(*digests)
