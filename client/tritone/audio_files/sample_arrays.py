"""Recordings as arrays of samples: validation, and conversion of all number types to floats in -1..1.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from tritone.audio_files.parts import Fail

FloatArray = npt.NDArray[np.float32]

RATES_HZ: Final = range(100, 1_000_001)
N_CHANNELS_MAX: Final = 64  # more columns than this mean that the axes are swapped
_N_SIXTEEN_BITS: Final = 1 << 16


def checked_samples(audio: tuple[npt.ArrayLike, int], fail: Fail) -> tuple[npt.NDArray[np.generic], int]:
    """Return samples of shape (S,) or (S, C) and their rate.

    Raises:
        InvalidAudioError: the shape is another one, or the type does not fit the values.
    """
    if len(audio) != 2:
        raise fail("bad_shape", f"expected (samples, rate_hz), got {len(audio)} values")
    rate_hz = audio[1]
    try:
        samples = np.asarray(audio[0])
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on a GPU
        raise fail("bad_shape", f"samples are not an array of numbers ({error})") from error
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | np.integer) or int(rate_hz) not in RATES_HZ:
        raise fail(
            "bad_shape",
            f"rate_hz is {rate_hz!r}; expected a whole number of samples a second, 100 to 1,000,000",
        )
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise fail(
            "bad_shape",
            f"samples have shape {samples.shape} and type {samples.dtype}; "
            f"expected numbers of shape (n_samples,) or (n_samples, n_channels)",
        )
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= N_CHANNELS_MAX:
        hint = "; time comes first: pass samples.T" if samples.shape[0] <= N_CHANNELS_MAX else ""
        raise fail(
            "bad_shape",
            f"samples have shape {samples.shape}, which reads as {samples.shape[1]} channels{hint}",
        )
    _check_integer_scale(samples, fail)
    return samples, int(rate_hz)


def _check_integer_scale(samples: npt.NDArray[np.generic], fail: Fail) -> None:
    """Refuse small values of a wide integer type: relative to its full scale they would be silence."""
    if samples.dtype.kind not in "iu" or samples.dtype.itemsize < 4 or not samples.size:
        return
    whole = cast("npt.NDArray[np.integer[Any]]", samples)
    lowest, highest = int(whole.min()), int(whole.max())
    largest = max(-lowest - 1, highest)  # -32768..32767 are numbers of 16 bits
    n_safe = _N_SIXTEEN_BITS if samples.dtype.itemsize == 4 else 1 << 32
    if lowest == highest or largest >= n_safe:
        return
    is_signed = lowest < 0  # unsigned samples swing around the middle of their range
    n_bits = largest.bit_length() + is_signed
    fitting = next((bits for bits in ((16, 24, 32) if is_signed else (8, 16, 24, 32)) if n_bits <= bits), 32)
    advice = (
        "pass 24-bit numbers as floats: samples / 8388608"
        if fitting == 24
        else f"pass {fitting}-bit numbers as such: samples.astype(numpy.{'' if is_signed else 'u'}int{fitting})"
    )
    raise fail(
        "out_of_range",
        f"samples are too small for their type: expected numbers up to the full scale of {samples.dtype}, "
        f"got {lowest} to {highest}; {advice}",
    )


def sample_blocks(samples: npt.NDArray[np.generic], n_values: int) -> Iterator[FloatArray]:
    """Yield (S,) or (S, C) as blocks of (S, C) floats with up to `n_values` values each."""
    n_frames = max(1, n_values // (1 if samples.ndim == 1 else samples.shape[1]))
    for start in range(0, len(samples), n_frames):
        block = _scaled(samples[start : start + n_frames])
        yield block if block.ndim == 2 else block[:, None]


def _scaled(block: npt.NDArray[np.generic]) -> FloatArray:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which the caller reports
            return block.astype(np.float32)
    info = np.iinfo(cast("np.dtype[np.integer[Any]]", block.dtype))
    half = (float(info.max) - float(info.min) + 1) / 2
    middle = half if block.dtype.kind == "u" else 0.0  # unsigned samples swing around their middle
    return ((block.astype(np.float64) - middle) / half).astype(np.float32)
