"""Tests of user tokens: minted tokens and those of other libraries are accepted, invalid ones refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tritone_serving.security.callers import (
    CLOCK_SKEW_S,
    LONGEST_LIFETIME_S,
    LONGEST_TOKEN,
    TokenError,
    mint_token,
    verified_user,
)

KEY = b"0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000
HS256 = {"alg": "HS256", "typ": "JWT"}


def encoded(value: Any) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(claims: Any, *, header: Any = HS256, key: bytes = KEY, digest: Any = hashlib.sha256) -> str:
    """A token as any other library makes it."""
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.new(key, text.encode(), digest).digest())}"


@pytest.mark.parametrize("user", ["42", "Björk", "夜に駆ける", "a b\tc", "x" * 1_000, '"}'])
def test_a_minted_token_names_its_user(user: str) -> None:
    assert verified_user(KEY, mint_token(KEY, user, now_s=NOW), now_s=NOW + 899) == user


def test_a_minted_token_is_a_jwt() -> None:
    head, payload, _ = mint_token(KEY, "42", lifetime_s=60, now_s=NOW).split(".")
    parts = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, payload)]
    assert parts == [HS256, {"sub": "42", "aud": "tritone", "iat": NOW, "exp": NOW + 60}]


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "42", "exp": NOW + 60},
        {"sub": "42", "exp": NOW + 60.5, "iat": NOW},
        {"sub": "42", "exp": NOW + 60, "nbf": NOW + CLOCK_SKEW_S},
        {"sub": "42", "exp": NOW + LONGEST_LIFETIME_S},
        {"sub": "42", "exp": NOW + 60, "aud": ["other", "tritone"], "iss": "shop", "jti": "1", "more": {}},
    ],
)
def test_tokens_of_other_libraries_are_accepted(claims: Mapping[str, Any]) -> None:
    assert verified_user(KEY, signed(claims), now_s=NOW) == "42"
    assert verified_user(KEY, signed(claims, header={"alg": "HS256"}), now_s=NOW) == "42"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "42"},
        {"exp": NOW + 60},
        {"sub": "", "exp": NOW + 60},
        {"sub": ["42"], "exp": NOW + 60},
        {"sub": 42, "exp": NOW + 60},
        {"sub": "42", "exp": NOW},
        {"sub": "42", "exp": NOW - 1},
        {"sub": "42", "exp": str(NOW + 60)},
        {"sub": "42", "exp": True},
        {"sub": "42", "exp": None},
        {"sub": "42", "exp": float("nan")},
        {"sub": "42", "exp": float("inf")},
        {"sub": "42", "exp": 10**400},
        {"sub": "42", "exp": NOW + LONGEST_LIFETIME_S + CLOCK_SKEW_S + 1},
        {"sub": "42", "exp": NOW + 60, "iat": NOW - LONGEST_LIFETIME_S},
        {"sub": "42", "exp": NOW + 600, "nbf": NOW + CLOCK_SKEW_S + 1},
        {"sub": "42", "exp": NOW + 600, "iat": NOW + CLOCK_SKEW_S + 1},
        {"sub": "42", "exp": NOW + 60, "nbf": "soon"},
        {"sub": "42", "exp": NOW + 60, "aud": "other"},
        {"sub": "42", "exp": NOW + 60, "aud": None},
        ["sub", "42"],
        "42",
        None,
    ],
)
def test_claims_that_are_refused(claims: Any) -> None:
    with pytest.raises(TokenError):
        verified_user(KEY, signed(claims), now_s=NOW)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None", "typ": "JWT"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": ["HS256"]},
        {},
        {"alg": "HS256", "typ": "JWE"},
        {"alg": "HS256", "crit": ["exp"]},
        ["HS256"],
        "HS256",
    ],
)
def test_headers_that_are_refused(header: Any) -> None:
    with pytest.raises(TokenError):
        verified_user(KEY, signed({"sub": "42", "exp": NOW + 60}, header=header), now_s=NOW)


def test_a_token_with_another_signature_is_refused() -> None:
    claims = {"sub": "42", "exp": NOW + 60}
    good = signed(claims)
    head, payload, signature = good.split(".")
    none = encoded({"alg": "none"})
    for token in (
        signed(claims, key=b"another key of thirty-two bytes."),
        signed(claims, key=b""),
        signed(claims, digest=hashlib.sha512),
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{head}.{encoded({**claims, 'sub': '43'})}.{signature}",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}",
        f"{head}.{payload}.{signature}.",
        f" {good}",
        f"{good}\n",
        f"{good}=",
        good.replace(".", ".\u0000", 1),
        f"{encoded(b'[' * 2000)}.{payload}.{signature}",
        "a" * (LONGEST_TOKEN + 1),
        "ä.ä.ä",
        "a.a.a",
        "",
    ):
        with pytest.raises(TokenError):
            verified_user(KEY, token, now_s=NOW)
    assert verified_user(KEY, good, now_s=NOW) == "42"


@pytest.mark.parametrize("header", [b"[" * 2_000, b"\xff\xfe", b"{", b""])
def test_signed_parts_that_are_no_json_are_refused(header: bytes) -> None:
    with pytest.raises(TokenError):
        verified_user(KEY, signed({"sub": "42", "exp": NOW + 60}, header=header or b" "), now_s=NOW)


@pytest.mark.parametrize(
    ("user", "lifetime_s"),
    [
        ("", 60),
        ("42", 0),
        ("42", -1),
        ("42", LONGEST_LIFETIME_S + 1),
        ("42", float("nan")),
        ("\ud800", 60),
        ("x" * 9_000, 60),
    ],
)
def test_invalid_tokens_are_not_minted(user: str, lifetime_s: float) -> None:
    with pytest.raises(TokenError) as caught:
        mint_token(KEY, user, lifetime_s=lifetime_s)
    assert KEY.decode() not in str(caught.value)
