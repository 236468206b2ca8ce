"""Arrays of samples: validation, conversion of all number types to floats in -1..1, and mixing down to one channel.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from tritone.audio_files.containers import Fail

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


def sample_blocks(samples: npt.NDArray[np.generic], n_frames: int) -> Iterator[FloatArray]:
    """Yield (S,) or (S, C) as blocks of (S, C) floats with up to `n_frames` samples of each channel.

    Blocks of float32 samples are views of them, which cannot be written to: copying a clip of 20 s takes as long as
    everything else that the client does with it.
    """
    for start in range(0, len(samples), n_frames):
        block = _scaled(samples[start : start + n_frames])
        yield block if block.ndim == 2 else block[:, None]


def _scaled(block: npt.NDArray[np.generic]) -> FloatArray:
    if block.dtype == np.float32:
        view = cast("FloatArray", block[:])
        view.flags.writeable = False
        return view
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which the caller reports
            return block.astype(np.float32)
    info = np.iinfo(cast("np.dtype[np.integer[Any]]", block.dtype))
    half = (float(info.max) - float(info.min) + 1) / 2
    middle = half if block.dtype.kind == "u" else 0.0  # unsigned samples swing around their middle
    return ((block.astype(np.float64) - middle) / half).astype(np.float32)


STEP_S: Final = 0.5  # length of the segments that are checked for cancellation
_FADE_S: Final = 0.01  # cross-fade between the mean of the channels and one of them, to avoid clicks
# Power of the mean of the channels times C over their mean power: 1 for unrelated channels, C for equal ones, 0 for
# opposite ones. Below this, the mean is 10 dB weaker than that of unrelated channels.
_CANCELLING: Final = 0.1
_SILENT_POWER: Final = 1e-10  # -100 dBFS: below it, rounding errors dominate


class Mixer:
    """Mixes to the mean of all channels, or to a single channel where the channels cancel each other.

    Attributes:
        n_mixed: samples that were mixed.
        n_cancelled: those of them for which a single channel was used.
        channel: index of that channel.
    """

    def __init__(self, rate_hz: int) -> None:
        self.n_mixed = 0
        self.n_cancelled = 0
        self.channel = 0
        self._is_cancelled = False
        self._n_step = max(1, round(STEP_S * rate_hz))
        self._n_fade = max(1, round(_FADE_S * rate_hz))

    def mix(self, block: FloatArray) -> FloatArray:
        """(S, C) -> (S,); non-finite samples stay non-finite, for the caller to report."""
        if block.shape[1] == 1:
            return block[:, 0]
        steps = [self._mixed_step(block[at : at + self._n_step]) for at in range(0, len(block), self._n_step)]
        return np.concatenate(steps) if steps else np.zeros(0, np.float32)

    def _mixed_step(self, step: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is possible here
            mean: FloatArray = step.mean(axis=1, dtype=np.float32)
            energies = np.einsum("sc,sc->c", step, step)  # (C,)
            power = float(energies.mean()) / len(step)
            ratio = len(energies) * float(np.dot(mean, mean)) / len(step) / power if power > 0 else 1.0
        was_cancelled = self._is_cancelled
        if power > _SILENT_POWER and len(step) >= self._n_step // 2:  # shorter segments are too noisy
            self._is_cancelled = ratio < _CANCELLING
        if self._is_cancelled:
            if not self.n_cancelled:
                # The first of the loudest channels, kept from then on: changes of the channel would be audible.
                self.channel = int((energies > 0.99 * energies.max()).argmax())
            self.n_cancelled += len(step)
        mixed = step[:, self.channel].copy() if self._is_cancelled else mean
        if was_cancelled != self._is_cancelled and self.n_mixed:
            other = mean if self._is_cancelled else step[:, self.channel]
            fade = np.linspace(0, 1, self._n_fade, dtype=np.float32)[: len(step)]
            mixed[: len(fade)] = other[: len(fade)] + fade * (mixed - other)[: len(fade)]
        self.n_mixed += len(step)
        return mixed
