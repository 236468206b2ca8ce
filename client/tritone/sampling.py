"""How generative models sample: the parameters, and the reproducible uniform noise from which they choose notes.

The noise is made from the raw output of a counter-based generator instead of NumPy's distributions, whose values may
change between releases. A seed therefore gives the same notes on every host and with every version of NumPy.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): Philox 4x64-10.
"""

from __future__ import annotations

import math
import operator
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from tritone.arguments import is_number, is_whole, scalar, shown
from tritone.constants import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tritone.exceptions import InvalidInputError
from tritone.messages import Array
from tritone.music.instruments import Instruments, check_instruments

LARGEST_SEED: Final = 2**63 - 1  # what an int64 tensor and every JSON reader can hold
_N_BITS: Final = 24  # of a float32's significand: every value is exact, and 1.0 cannot come out
TEMPI_QPM: Final = (10.0, 1_000.0)
TOP_K_ALL: Final = 2**31 - 1  # no model has that many candidates


@dataclass(frozen=True)
class SamplingParams:
    """How a generative model samples, and in which style and tempo.

    Attributes:
        temperature: None for that of the model.
        top_k: `TOP_K_ALL` for no limit.
        top_p: 1 for no limit; None for that of the model.
        style: one of the styles of the model; None for any.
        tempo_qpm: quarter notes per minute of the result; None for the default of the operation.
        instruments: General MIDI names that play the result; none for those of the style.
    """

    temperature: float | None
    top_k: int
    top_p: float | None
    seed: int
    style: str | None = None
    tempo_qpm: float | None = None
    instruments: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        style: str | None = None,
        tempo_qpm: float | None = None,
        instruments: Instruments | None = None,
    ) -> Self:
        """Check the options of a caller and draw a seed if there is none.

        Raises:
            InvalidInputError: an option is invalid.
        """
        if temperature is not None and (
            not is_number(temperature) or not LEAST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE
        ):
            raise InvalidInputError(
                f"invalid temperature: expected a number from {LEAST_TEMPERATURE} to {LARGEST_TEMPERATURE:g}, or "
                f"None, got {shown(temperature)}; use top_k=1 to always take the most likely candidate",
                argument="temperature",
            )
        if top_k is not None and (not is_whole(top_k) or top_k < 1):
            raise InvalidInputError(
                f"invalid top_k: expected a whole number, 1 or more, or None, got {shown(top_k)}", argument="top_k"
            )
        if top_p is not None and (not is_number(top_p) or not 0 < top_p <= 1):
            raise InvalidInputError(
                f"invalid top_p: expected a number above 0 and at most 1, or None, got {shown(top_p)}", argument="top_p"
            )
        if style is not None and not isinstance(style, str):
            raise InvalidInputError(
                f"invalid style: expected the name of a style, or None for any, got {shown(style)}", argument="style"
            )
        return cls(
            temperature=None if temperature is None else float(temperature),
            top_k=TOP_K_ALL if top_k is None else min(int(top_k), TOP_K_ALL),
            top_p=None if top_p is None else max(float(top_p), float(np.finfo(np.float32).tiny)),
            seed=fresh_seed() if seed is None else check_seed(seed),
            style=style,
            tempo_qpm=_checked_tempo(tempo_qpm),
            instruments=check_instruments(instruments) or (),
        )

    def of_pieces(self) -> Mapping[str, Any]:
        """Return what pieces keep of the parameters, as arguments of `Piece`."""
        return {"seed": self.seed, "instruments": self.instruments}

    def inputs(self, n_batch: int, *, temperature: float = 1.0, top_p: float = 1.0) -> Mapping[str, Array]:
        """Return the three inputs that all generative models have, each (n_batch, 1).

        Args:
            n_batch: number of pieces.
            temperature: of the model.
            top_p: of the model.
        """
        return {
            "temperature": scalar(temperature if self.temperature is None else self.temperature, n_batch, np.float32),
            "top_k": scalar(self.top_k, n_batch, np.int64),
            "top_p": scalar(top_p if self.top_p is None else self.top_p, n_batch, np.float32),
        }


def _checked_tempo(tempo_qpm: float | None) -> float | None:
    if tempo_qpm is None:
        return None
    low, high = TEMPI_QPM
    if not is_number(tempo_qpm) or not low <= tempo_qpm <= high:
        raise InvalidInputError(
            f"invalid tempo_qpm: expected {low:g} to {high:g} quarter notes per minute, or None, got "
            f"{shown(tempo_qpm)}",
            argument="tempo_qpm",
        )
    return float(tempo_qpm)


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
        raise InvalidInputError(f"invalid seed: {expected}, got {shown(seed)}", argument="seed")
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise InvalidInputError(f"invalid seed: {expected}, got {shown(seed)}", argument="seed") from error
    if not 0 <= number <= LARGEST_SEED:
        raise InvalidInputError(f"invalid seed: {expected}, got {shown(number)}", argument="seed")
    return number
