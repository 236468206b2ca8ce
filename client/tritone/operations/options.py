"""Options that several operations share, and their checks."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from tritone.constants import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tritone.exceptions import InvalidInputError
from tritone.messages import Array
from tritone.music.noise import check_seed, fresh_seed

TEMPI_QPM: Final = (10.0, 1_000.0)
TOP_K_ALL: Final = 2**31 - 1  # no model has that many candidates


@dataclass(frozen=True)
class SamplingParams:
    """How a generative model samples, and in which style and tempo.

    Attributes:
        top_k: `TOP_K_ALL` for no limit.
        top_p: 1 for no limit.
        style: one of the styles of the model; None for any.
        tempo_qpm: quarter notes per minute of the result; None for the default of the operation.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    style: str | None = None
    tempo_qpm: float | None = None

    @classmethod
    def checked(
        cls,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
    ) -> Self:
        """Check the options of a caller and draw a seed if there is none.

        Raises:
            InvalidInputError: an option is invalid.
        """
        if not is_number(temperature) or not LEAST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:
            raise InvalidInputError(
                f"invalid temperature: expected a number from {LEAST_TEMPERATURE} to {LARGEST_TEMPERATURE:g}, got "
                f"{temperature!r}; use top_k=1 to always take the most likely candidate",
                argument="temperature",
            )
        if top_k is not None and (not is_whole(top_k) or top_k < 1):
            raise InvalidInputError(
                f"invalid top_k: expected a whole number, 1 or more, or None, got {top_k!r}", argument="top_k"
            )
        if top_p is not None and (not is_number(top_p) or not 0 < top_p <= 1):
            raise InvalidInputError(
                f"invalid top_p: expected a number above 0 and at most 1, or None, got {top_p!r}", argument="top_p"
            )
        if style is not None and not isinstance(style, str):
            raise InvalidInputError(
                f"invalid style: expected the name of a style, or None for any, got {style!r}", argument="style"
            )
        return cls(
            temperature=float(temperature),
            top_k=TOP_K_ALL if top_k is None else min(int(top_k), TOP_K_ALL),
            top_p=1.0 if top_p is None else max(float(top_p), float(np.finfo(np.float32).tiny)),
            seed=fresh_seed() if seed is None else check_seed(seed),
            style=style,
            tempo_qpm=_checked_tempo(tempo_qpm),
        )

    def inputs(self, n_batch: int) -> Mapping[str, Array]:
        """Return the three inputs that all generative models have, each (n_batch, 1)."""
        return {
            "temperature": scalar(self.temperature, n_batch, np.float32),
            "top_k": scalar(self.top_k, n_batch, np.int64),
            "top_p": scalar(self.top_p, n_batch, np.float32),
        }


def scalar(value: float, n_batch: int, dtype: type[np.generic]) -> Array:
    """Return a number for each row of a batch, (n_batch, 1)."""
    return np.full((n_batch, 1), value, dtype)


def check_count(name: str, value: int, *, least: int, most: int) -> int:
    """Return a whole number within its bounds.

    Raises:
        InvalidInputError: it is something else.
    """
    if not is_whole(value) or not least <= value <= most:
        raise InvalidInputError(
            f"invalid {name}: expected a whole number from {least} to {most}, got {value!r}",
            argument=name.partition("[")[0],
        )
    return int(value)


def check_bool(name: str, value: bool) -> bool:
    """Return True or False.

    Raises:
        InvalidInputError: the value is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise InvalidInputError(
            f"invalid {name}: expected True or False, got {reprlib.repr(value)}", argument=name.partition("[")[0]
        )
    return bool(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a bool."""
    is_plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        return is_plain and math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _checked_tempo(tempo_qpm: float | None) -> float | None:
    if tempo_qpm is None:
        return None
    low, high = TEMPI_QPM
    if not is_number(tempo_qpm) or not low <= tempo_qpm <= high:
        raise InvalidInputError(
            f"invalid tempo_qpm: expected {low:g} to {high:g} quarter notes per minute, or None, got {tempo_qpm!r}",
            argument="tempo_qpm",
        )
    return float(tempo_qpm)
