"""What a caller may ask of a model that writes music, and the checks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tritone.constants import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tritone.exceptions import InvalidInputError
from tritone.messages import Array

N_BARS_MAX: Final = 256  # about eight minutes of 4/4 at 120 quarters a minute
N_PIECES_MAX: Final = 1_000
N_STEPS_MAX: Final = 64
TEMPI_QPM: Final = (10.0, 1_000.0)
EVERY_CHOICE: Final = 2**31 - 1  # more choices than any model has


@dataclass(frozen=True)
class Choice:
    """How a model chooses among what it finds likely."""

    temperature: float
    top_k: int
    top_p: float

    def inputs(self, n_batch: int) -> Mapping[str, Array]:
        """The three inputs that all writing models have, each (n_batch, 1)."""
        return {
            "temperature": scalar(self.temperature, n_batch, np.float32),
            "top_k": scalar(self.top_k, n_batch, np.int64),
            "top_p": scalar(self.top_p, n_batch, np.float32),
        }


def scalar(value: float, n_batch: int, dtype: type[np.generic]) -> Array:
    """One number for each of a batch, as Triton wants it on the wire: (n_batch, 1)."""
    return np.full((n_batch, 1), value, dtype)


def check_choice(temperature: float, top_k: int | None, top_p: float | None) -> Choice:
    """Check how to choose.

    Raises:
        InvalidInputError: says which value cannot be.
    """
    if not is_number(temperature) or not LEAST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:
        raise InvalidInputError(
            f"temperature is {temperature!r}; expected a number from {LEAST_TEMPERATURE} to {LARGEST_TEMPERATURE:g} "
            f"(below 1 the likely gets likelier; top_k=1 always takes the likeliest)"
        )
    if top_k is not None and (not is_whole(top_k) or top_k < 1):
        raise InvalidInputError(f"top_k is {top_k!r}; expected a whole number, 1 or more, or None for all choices")
    if top_p is not None and (not is_number(top_p) or not 0 < top_p <= 1):
        raise InvalidInputError(
            f"top_p is {top_p!r}; expected a number above 0, at most 1 (which, like None, leaves nothing out)"
        )
    return Choice(
        temperature=float(temperature),
        top_k=EVERY_CHOICE if top_k is None else min(int(top_k), EVERY_CHOICE),
        top_p=1.0 if top_p is None else max(float(top_p), float(np.finfo(np.float32).tiny)),
    )


def check_count(name: str, value: int, *, least: int, most: int) -> int:
    """Check a number of things.

    Raises:
        InvalidInputError: names it and its bounds.
    """
    if not is_whole(value) or not least <= value <= most:
        raise InvalidInputError(f"{name} is {value!r}; expected a whole number from {least} to {most}")
    return int(value)


def check_range(bars: tuple[int, int], n_bars: int) -> tuple[int, int]:
    """Check a half-open range of bars, counted from 0.

    Raises:
        InvalidInputError: says what the score has.
    """
    expected = (
        f"expected (start, end) with 0 <= start < end <= {n_bars}, the number of bars of the score; "
        f"bars are counted from 0 and the end is not included"
    )
    pair = isinstance(bars, tuple | list) and len(bars) == 2 and all(is_whole(bar) for bar in bars)
    if not pair or not 0 <= bars[0] < bars[1] <= n_bars:
        raise InvalidInputError(f"bars is {bars!r}; {expected}")
    if bars[1] - bars[0] > N_BARS_MAX:
        raise InvalidInputError(f"bars is {bars!r}; one call writes at most {N_BARS_MAX} bars")
    return int(bars[0]), int(bars[1])


def check_tempo(tempo_qpm: float | None) -> float | None:
    """Check a tempo in quarters a minute.

    Raises:
        InvalidInputError: it is not one.
    """
    if tempo_qpm is None:
        return None
    low, high = TEMPI_QPM
    if not is_number(tempo_qpm) or not low <= tempo_qpm <= high:
        raise InvalidInputError(
            f"tempo_qpm is {tempo_qpm!r}; expected quarter notes a minute, {low:g} to {high:g}, or None"
        )
    return float(tempo_qpm)


def frames_per_bar(meter: tuple[int, int] | None, frames_per_quarter: int) -> int | None:
    """A time signature, as in (3, 4), as frames.

    Raises:
        InvalidInputError: no such signature, or one that does not fit the grid.
    """
    if meter is None:
        return None
    pair = isinstance(meter, tuple | list) and len(meter) == 2 and all(is_whole(number) for number in meter)
    if not pair or not 1 <= meter[0] <= 32 or meter[1] not in (1, 2, 4, 8, 16, 32):
        raise InvalidInputError(f"meter is {meter!r}; expected a time signature such as (4, 4), (3, 4) or (6, 8)")
    n_frames, rest = divmod(4 * frames_per_quarter * int(meter[0]), int(meter[1]))
    if rest or not n_frames:
        raise InvalidInputError(
            f"meter is {meter[0]}/{meter[1]}, whose bar is no whole number of the model's steps "
            f"({frames_per_quarter} to a quarter note)"
        )
    return n_frames


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not a truth value."""
    plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        return plain and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest of the others
        return False


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
