"""Marks of users who were removed from a recommender, so that a later fit of an older log does not bring them back.

A mark is a keyed hash of the user's pseudonym. It names nobody without the key, and is no pseudonym itself: it is not
found in histories or in stores of events.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any, Final

FORGOTTEN: Final = "forgotten"  # in the manifest: marks, sorted
_MARK_BYTES: Final = 16


def mark_of(key: bytes, pseudonym: bytes) -> str:
    """Return the mark of a forgotten user as hexadecimal digits."""
    return hmac.digest(key, b"forgotten " + pseudonym, hashlib.sha256)[:_MARK_BYTES].hex()


def marks_in(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the marks in a manifest; none if it has no valid ones."""
    found = manifest.get(FORGOTTEN)
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def with_marks(manifest: Mapping[str, Any], marks: Iterable[str]) -> dict[str, Any]:
    """Return a manifest with more marks."""
    every = sorted({*marks_in(manifest), *marks})
    return {**manifest, **({FORGOTTEN: every} if every else {})}
