"""User tokens: JSON Web Tokens (RFC 7519) signed with HS256, using only the standard library.

A token gives its holder access to one stored user for a short time. The key is the content of the service key file, so
any JWT library can mint one:

```python
import time, jwt  # PyJWT
jwt.encode({"sub": "42", "exp": int(time.time()) + 900}, open("service.key").read().strip(), algorithm="HS256")
```
The algorithm is fixed: a token with another `alg` in its header is refused, and the header has no other influence.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from typing import Any, Final

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
