"""Which ensemble of an A/B test a user gets: always the same, and nothing is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

DEFAULT_ARM: Final = "a"


def arm_of(user: str | None, *, salt: str, shares: Mapping[str, float]) -> str:
    """Draw an arm by the salted hash of the raw user id.

    Args:
        user: None gets the first arm: nobody can be told apart from nobody.
        salt: another salt shuffles everybody anew.
        shares: arm -> share of the users; they are divided by their sum.
    """
    names = list(shares)
    if user is None or len(names) == 1:
        return names[0]
    digest = hashlib.sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for name in names:
        point -= shares[name]
        if point < 0:
            return name
    return names[-1]
