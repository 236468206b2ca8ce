"""Recordings in, windows out: decoding, mixing down, resampling and cutting, in bounded memory.

Training, evaluation and the SDK all cut recordings with `iter_windows`, so a model is asked exactly
what it was trained on.

Letters: S samples, C channels, N windows, W samples of a window (66,150).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from tritone_client._exceptions import InvalidAudioError
from tritone_client.constants import MIN_DURATION_S, SAMPLE_RATE_HZ, SILENCE_PEAK, WINDOW_SAMPLES

FloatArray: TypeAlias = npt.NDArray[np.float32]
Audio: TypeAlias = "str | Path | bytes | BinaryIO | tuple[npt.ArrayLike, int]"

BLOCK_S = 10.0  # decoded at a time: 1.7 MB of stereo 44.1 kHz, so a 30-minute file never lies in memory whole


@dataclass(frozen=True)
class Window:
    """One fixed-length cut of a recording.

    Attributes:
        start_s: where it begins in the recording.
        samples: (W,) float32 at 22,050 Hz, mono.
    """

    start_s: float
    samples: FloatArray


def iter_windows(audio: Audio) -> Iterator[Window]:
    """Cut a recording into consecutive windows of 3 s.

    The last window is aligned to the recording's end and so overlaps the one before it, which avoids
    padding; a recording shorter than one window is repeated until it fills it.

    Args:
        audio: a path, the bytes of a file, a binary file object, or `(samples, rate_hz)` with samples
            of shape (S,) or (S, C), floats in -1..1 or any integer type at its full scale.

    Yields:
        Windows in order of time, at least one.

    Raises:
        InvalidAudioError: see its `reason`. The whole recording is judged for silence and length, so
            these come after the last block was read; non-finite samples as soon as they are met.
    """
    name = describe(audio)
    n_total = 0
    peak = 0.0
    tail = np.zeros(0, np.float32)  # not yet part of a window
    last = np.zeros(0, np.float32)  # the last whole window, for aligning the final one to the end
    for block in _iter_mono_blocks(audio, name):
        if not np.isfinite(block).all():
            raise InvalidAudioError(
                f"{name}: holds samples that are not finite (NaN or infinite); "
                f"write the file again from its source",
                path=name,
                reason="non_finite",
            )
        n_total += block.size
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        tail = np.concatenate([tail, block])
        while tail.size >= WINDOW_SAMPLES:
            last, tail = tail[:WINDOW_SAMPLES], tail[WINDOW_SAMPLES:]
            yield Window((n_total - tail.size - WINDOW_SAMPLES) / SAMPLE_RATE_HZ, last)
    _check_whole(name, n_total, peak)
    if tail.size and last.size:
        yield Window((n_total - WINDOW_SAMPLES) / SAMPLE_RATE_HZ, np.concatenate([last[tail.size :], tail]))
    elif tail.size:
        yield Window(0.0, np.resize(tail, WINDOW_SAMPLES))


def load_mono(audio: Audio) -> FloatArray:
    """Read a whole recording as mono at 22,050 Hz.

    Returns:
        (S,) float32.

    Raises:
        InvalidAudioError: as `iter_windows`.
    """
    name = describe(audio)
    blocks = list(_iter_mono_blocks(audio, name))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not np.isfinite(samples).all():
        raise InvalidAudioError(f"{name}: holds samples that are not finite", path=name, reason="non_finite")
    _check_whole(name, samples.size, float(np.abs(samples).max(initial=0.0)))
    return samples


def describe(audio: Audio) -> str:
    """Name a recording for messages: its path, or a word for where it came from."""
    if isinstance(audio, str | Path):
        return str(audio)
    if isinstance(audio, bytes):
        return f"<{len(audio)} bytes>"
    if isinstance(audio, tuple):
        return "<samples>"
    return str(getattr(audio, "name", "<file object>"))


def _check_whole(name: str, n_samples: int, peak: float) -> None:
    if n_samples == 0:
        raise InvalidAudioError(f"{name}: holds no samples", path=name, reason="empty")
    duration_s = n_samples / SAMPLE_RATE_HZ
    if duration_s < MIN_DURATION_S:
        raise InvalidAudioError(
            f"{name}: lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s are needed",
            path=name,
            reason="too_short",
        )
    if peak < SILENCE_PEAK:
        raise InvalidAudioError(
            f"{name}: is silent (its peak of {peak:.1e} is below {SILENCE_PEAK:.0e} of full scale)",
            path=name,
            reason="silent",
        )


def _iter_mono_blocks(audio: Audio, name: str) -> Iterator[FloatArray]:
    """Decode block by block and bring each to mono at 22,050 Hz; yields (S,) arrays."""
    if isinstance(audio, tuple):
        samples, rate_hz = _checked_samples(audio, name)
        yield from _resampled(_blocks_of(samples, rate_hz), rate_hz)
        return
    with _opened(audio, name) as file:
        yield from _resampled(_decoded_blocks(file, name), file.samplerate)


def _resampled(blocks: Iterator[FloatArray], rate_hz: int) -> Iterator[FloatArray]:
    if rate_hz == SAMPLE_RATE_HZ:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for block in blocks:
        if not np.isfinite(block).all():  # before the filter smears one bad sample over its neighbours
            yield block
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _opened(audio: str | Path | bytes | BinaryIO, name: str) -> Iterator[soundfile.SoundFile]:
    source: str | BinaryIO
    if isinstance(audio, str | Path):
        path = Path(audio)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise InvalidAudioError(f"{name}: {what}", path=name, reason="missing")
        if path.stat().st_size == 0:
            raise InvalidAudioError(f"{name}: is an empty file", path=name, reason="empty")
        source = str(path)
    elif isinstance(audio, bytes):
        if not audio:
            raise InvalidAudioError(f"{name}: no bytes were given", path=name, reason="empty")
        source = io.BytesIO(audio)
    elif hasattr(audio, "read"):
        source = audio
    else:
        raise InvalidAudioError(
            f"a recording is a path, bytes, a binary file object or (samples, rate_hz), "
            f"not {type(audio).__name__}",
            path=name,
            reason="bad_shape",
        )
    try:
        file = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, TypeError, OSError) as error:
        raise InvalidAudioError(
            f"{name}: is not audio that libsndfile can read ({error}); "
            f"WAV, FLAC, Ogg, Opus, MP3, AIFF and their kin are",
            path=name,
            reason="unreadable",
        ) from error
    with file:
        yield file


def _decoded_blocks(file: soundfile.SoundFile, name: str) -> Iterator[FloatArray]:
    n_block = max(1, int(BLOCK_S * file.samplerate))
    while True:
        try:
            block = file.read(n_block, dtype="float32", always_2d=True)  # (S, C)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise InvalidAudioError(
                f"{name}: breaks off after {file.tell() / file.samplerate:.1f} s ({error})",
                path=name,
                reason="unreadable",
            ) from error
        if not len(block):
            return
        yield _mixed_down(block)


def _checked_samples(audio: tuple[npt.ArrayLike, int], name: str) -> tuple[npt.NDArray[np.generic], int]:
    if len(audio) != 2:
        raise InvalidAudioError(
            f"{name}: expected (samples, rate_hz), got {len(audio)} values", path=name, reason="bad_shape"
        )
    samples, rate_hz = np.asarray(audio[0]), audio[1]
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | np.integer) or not 100 <= rate_hz <= 1_000_000:
        raise InvalidAudioError(
            f"{name}: rate_hz is {rate_hz!r}; expected a whole number of samples a second, 100 to 1,000,000",
            path=name,
            reason="bad_shape",
        )
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise InvalidAudioError(
            f"{name}: samples have shape {samples.shape} and type {samples.dtype}; "
            f"expected numbers of shape (n_samples,) or (n_samples, n_channels)",
            path=name,
            reason="bad_shape",
        )
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= 64:
        raise InvalidAudioError(
            f"{name}: samples have shape {samples.shape}, which reads as {samples.shape[1]} channels; "
            f"time comes first: pass samples.T",
            path=name,
            reason="bad_shape",
        )
    return samples, int(rate_hz)


def _blocks_of(samples: npt.NDArray[np.generic], rate_hz: int) -> Iterator[FloatArray]:
    n_block = max(1, int(BLOCK_S * rate_hz))
    for start in range(0, len(samples), n_block):
        block = samples[start : start + n_block]
        if block.dtype.kind == "f":
            scaled = block.astype(np.float32)
        else:  # integers count from -2^(bits-1), unsigned ones from 0
            info = np.iinfo(cast("np.dtype[np.integer]", block.dtype))
            middle = 0.0 if block.dtype.kind == "i" else (info.max + 1) / 2
            scaled = ((block.astype(np.float64) - middle) / ((float(info.max) - info.min + 1) / 2)).astype(np.float32)
        yield _mixed_down(scaled if scaled.ndim == 2 else scaled[:, None])


def _mixed_down(block: FloatArray) -> FloatArray:
    """(S, C) -> (S,): the mean of the channels."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
