"""Reproducible uniform noise, from which the models sample notes.

The noise is made from the raw output of a counter-based generator instead of NumPy's distributions, whose values may
change between releases. A seed therefore gives the same notes on every host and with every version of NumPy.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): Philox 4x64-10.
"""

from __future__ import annotations

import math
import operator
import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError

LARGEST_SEED: Final = 2**63 - 1  # what an int64 tensor and every JSON reader can hold
_N_BITS: Final = 24  # of a float32's significand: every value is exact, and 1.0 cannot come out


def uniform_noise(seed: int, *shape: int, stream: int = 0) -> npt.NDArray[np.float32]:
    """Return noise for one input of a model; a longer array begins with the shorter one.

    Args:
        seed: 0 to 2**63 - 1.
        shape: of the array.
        stream: another number gives noise that is independent of the other streams of the seed, for a model
            with several noise inputs.

    Returns:
        (*shape) float32, multiples of 2**-24 in [0, 1).

    Raises:
        InvalidInputError: the seed is out of range.
    """
    key = check_seed(seed) | stream << 64
    words: npt.NDArray[np.uint64] = np.random.Philox(key=key).random_raw(math.prod(shape))
    top_bits = (words >> np.uint64(64 - _N_BITS)).astype(np.float32)
    return (top_bits * np.float32(2.0**-_N_BITS)).reshape(shape)


def fresh_seed() -> int:
    """Return a random seed, for calls without one; it is stored in the result."""
    return secrets.randbelow(LARGEST_SEED + 1)


def check_seed(seed: int) -> int:
    """Return the seed as a plain int.

    Raises:
        InvalidInputError: it is not a whole number from 0 to 2**63 - 1.
    """
    expected = "expected a whole number from 0 to 2**63 - 1 (9223372036854775807)"
    if isinstance(seed, bool | np.bool_):
        raise InvalidInputError(f"the seed is {seed!r}; {expected}", argument="seed")
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise InvalidInputError(f"the seed is {seed!r}; {expected}", argument="seed") from error
    if not 0 <= number <= LARGEST_SEED:
        raise InvalidInputError(f"the seed is {number}; {expected}", argument="seed")
    return number
