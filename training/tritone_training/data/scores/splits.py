"""Portions of a data set that brings none: by a seeded hash, so that a piece keeps its portion as the set grows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

SPLIT_SEED: Final = 0
_SHARES: Final = (("train", 0.8), ("valid", 0.9), ("test", 1.0))  # upper ends
SPLIT_NOTE: Final = f"by a hash of the name (seed {SPLIT_SEED}): 80 % train, 10 % valid, 10 % test"


def hashed_splits(keys: Sequence[str]) -> list[str]:
    """A portion for each key; equal keys get equal portions.

    A set too small for the hash to give it a `valid` gets one: the key of `train` whose hash is nearest to it.
    """
    places = {key: _place(key) for key in keys}
    splits = {key: next(split for split, end in _SHARES if place < end) for key, place in places.items()}
    training = [key for key, split in splits.items() if split == "train"]
    if "valid" not in splits.values() and len(training) > 1:
        splits[max(training, key=lambda key: places[key])] = "valid"
    return [splits[key] for key in keys]


def _place(key: str) -> float:
    """Where a key falls in [0, 1)."""
    digest = hashlib.sha256(f"{SPLIT_SEED}:{key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
