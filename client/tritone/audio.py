"""Read recordings as windows: decode, mix down, resample and cut them in bounded memory.

Training, evaluation and the SDK all cut recordings with `iter_windows`, so that a model sees at inference what it was
trained on.

```python
for window in iter_windows("song.ogg"):
    print(window.start_s, window.samples.shape)  # 0.0 (66150,)
```

Shapes: S samples, C channels, N windows, W samples of a window (66,150).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone.audio_files.decode import Audio, FloatArray, describe, iter_mono_blocks, too_long
from tritone.constants import (
    LARGEST_SAMPLE,
    MIN_DURATION_S,
    PCM16_FULL_SCALE,
    SAMPLE_RATE_HZ,
    SILENCE_PEAK,
    WINDOW_S,
    WINDOW_SAMPLES,
)
from tritone.exceptions import InvalidAudioError

__all__ = ["Audio", "FloatArray", "OnNote", "Window", "describe", "iter_windows", "load_mono", "to_pcm16"]

OnNote: TypeAlias = Callable[[str], None]

_LOGGER: Final = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Window:
    """One fixed-length cut of a recording.

    Attributes:
        start_s: start of the window in the recording, in seconds.
        samples: (W,) float32, mono at 22,050 Hz, -1..1; may be a view of the samples that were given, and cannot be
            written to then.
        covers_s: seconds of the recording in the window; less than 3 only if the whole recording is shorter.
    """

    start_s: float
    samples: FloatArray
    covers_s: float = WINDOW_S


def iter_windows(
    audio: Audio, *, on_note: OnNote | None = None, max_duration_s: float | None = None
) -> Iterator[Window]:
    """Cut a recording into consecutive windows of 3 s.

    The last window is aligned to the recording's end and so overlaps the one before it, which avoids
    padding; a recording shorter than one window is repeated until it fills it.

    Args:
        audio: a path, the bytes of a file, a binary file object (read from its beginning, left open), or
            `(samples, rate_hz)` with samples of shape (S,) or (S, C), floats in -1..1 or any integer type
            at its full scale. Files that were joined end to end are read to the end of the last one.
        on_note: called with each warning about a usable recording: channels that cancel each other, of which one is
            used, and bytes that are not read. The warnings are also logged.
        max_duration_s: maximum length of the recording in seconds; None for no limit. A length in the header of a file
            is checked before any of it is decoded.

    Yields:
        Windows in order of time, at least one.

    Raises:
        InvalidAudioError: see its `reason`. Silence and length are properties of the whole recording, so these two
            are raised after the last window, all others as soon as they are detected.
    """
    name = describe(audio)
    check = _Check(name, max_duration_s)
    tail = np.zeros(0, np.float32)  # not yet part of a window
    last = np.zeros(0, np.float32)  # the last whole window, for aligning the final one to the end
    for block in iter_mono_blocks(audio, _noting(name, on_note), max_duration_s=max_duration_s):
        check.add(block)
        tail = np.concatenate([tail, block]) if tail.size else block
        while tail.size >= WINDOW_SAMPLES:
            last, tail = tail[:WINDOW_SAMPLES], tail[WINDOW_SAMPLES:]
            yield Window((check.n_samples - tail.size - WINDOW_SAMPLES) / SAMPLE_RATE_HZ, last)
    check.finish()
    if tail.size and last.size:
        start_s = (check.n_samples - WINDOW_SAMPLES) / SAMPLE_RATE_HZ
        yield Window(start_s, np.concatenate([last[tail.size :], tail]))
    elif tail.size:
        yield Window(0.0, np.resize(tail, WINDOW_SAMPLES), tail.size / SAMPLE_RATE_HZ)


def load_mono(audio: Audio, *, on_note: OnNote | None = None) -> FloatArray:
    """Read a whole recording as mono at 22,050 Hz.

    Args:
        audio: as `iter_windows`.
        on_note: as `iter_windows`.

    Returns:
        (S,) float32.

    Raises:
        InvalidAudioError: as `iter_windows`.
    """
    name = describe(audio)
    check = _Check(name)
    blocks = []
    for block in iter_mono_blocks(audio, _noting(name, on_note)):
        check.add(block)
        blocks.append(block)
    check.finish()
    return np.concatenate(blocks)


def to_pcm16(windows: Sequence[FloatArray]) -> npt.NDArray[np.int16] | None:
    """Return windows as 16-bit integers, rounded to the nearest one; None if a sample is NaN or beyond full scale.

    Args:
        windows: N arrays of W samples.

    Returns:
        (N, W), in steps of 1/32768 of full scale; full scale itself is 32767.
    """
    whole = np.empty((len(windows), len(windows[0])), np.int16)
    scaled = np.empty(len(windows[0]), np.float32)  # one window at a time, which stays in the CPU cache
    for row, samples in zip(whole, windows, strict=True):
        np.multiply(samples, np.float32(PCM16_FULL_SCALE), out=scaled)
        # NaN is the maximum of a window that has one, and not within any limit.
        largest = scaled.max()
        if not (largest <= PCM16_FULL_SCALE and scaled.min() >= -PCM16_FULL_SCALE):
            return None
        np.rint(scaled, out=scaled)
        if largest > PCM16_FULL_SCALE - 1:
            np.minimum(scaled, np.float32(PCM16_FULL_SCALE - 1), out=scaled)
        row[:] = scaled
    return whole


def _noting(name: str, on_note: OnNote | None) -> OnNote:
    def note(what: str) -> None:
        _LOGGER.warning("%s: %s", name, what)
        if on_note is not None:
            on_note(what)

    return note


class _Check:
    """Checks a recording block by block."""

    def __init__(self, name: str, max_duration_s: float | None = None) -> None:
        self.name = name
        self._max_duration_s = max_duration_s
        self.n_samples = 0
        self.peak = 0.0

    def add(self, block: FloatArray) -> None:
        self.n_samples += block.size
        if not block.size:
            return
        # Resampling may add a sample.
        if self._max_duration_s is not None and self.n_samples - 1 > self._max_duration_s * SAMPLE_RATE_HZ:
            raise self._error("too_long", too_long(self._max_duration_s, "more"))
        peak = float(max(block.max(), -block.min()))  # NaN is the maximum and the minimum of a block that has one
        if not np.isfinite(peak):
            raise self._error("non_finite", "samples are not finite: expected numbers, got NaN or infinity")
        if peak > LARGEST_SAMPLE:
            raise self._error(
                "out_of_range",
                f"samples are out of range: expected -1..1 at full scale, got {peak:.4g}; "
                f"divide 16-bit numbers by 32768, or pass them as int16",
            )
        self.peak = max(self.peak, peak)

    def finish(self) -> None:
        if self.n_samples == 0:
            raise self._error("empty", "holds no samples")
        duration_s = self.n_samples / SAMPLE_RATE_HZ
        if duration_s < MIN_DURATION_S:
            raise self._error(
                "too_short", f"is too short: expected at least {MIN_DURATION_S} s, got {duration_s:.3f} s"
            )
        if self.peak < SILENCE_PEAK:
            raise self._error(
                "silent", f"is silent (its peak of {self.peak:.1e} is below {SILENCE_PEAK:.0e} of full scale)"
            )

    def _error(self, reason: str, what: str) -> InvalidAudioError:
        return InvalidAudioError(f"{self.name}: {what}", path=self.name, reason=reason)
