"""Render single keys of a SoundFont: resampling, loops, a low-pass filter and the volume envelope.

Vibrato, envelopes of pitch and filter, and effects are not rendered.

Shapes: S samples of a tone, L samples of a SoundFont's sample.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.soundfont import SoundFont, Zone

FloatArray = npt.NDArray[np.float32]

_FULL_SCALE: Final = 32_768.0
_EDGE: Final = 512  # samples after which the filter has settled
_BLOCK: Final = 1 << 18  # samples computed at once, so that memory does not grow with the length of a tone
_DB_PER_NEPER: Final = 8.685889638
_RELEASED_DB: Final = 100.0  # attenuation at which a released tone ends
_RELEASES_S: Final = (0.05, 1.0)  # shortest and longest time for 100 dB


def tone(soundfont: SoundFont, program: int, key: int, duration_s: float, rate_hz: int) -> FloatArray:
    """Return the sound of a key while it is held.

    Args:
        soundfont: the instruments.
        program: 0 to 127.
        key: 0 to 127.
        duration_s: length.
        rate_hz: sampling rate of the result.

    Returns:
        (S,) float32, mono.
    """
    n_samples = round(duration_s * rate_hz)
    samples = np.zeros(n_samples, np.float32)
    for zone in soundfont.zones(program, key):
        source, loop = _source(zone)
        for start in range(0, n_samples, _BLOCK):
            at = np.arange(start, min(start + _BLOCK, n_samples), dtype=np.float64)
            samples[start : start + at.size] += _played(source, loop, at * (zone.rate_hz / rate_hz)) * _envelope(
                zone, at / rate_hz
            )
    return samples


def release(soundfont: SoundFont, program: int, key: int, rate_hz: int) -> FloatArray:
    """Return the factors (S,) float32, from 1 down, of a tone after its key is released."""
    zones = soundfont.zones(program, key)
    full_s = float(np.clip(zones[0].release_s if zones else 0.0, *_RELEASES_S))
    n_samples = round(full_s * rate_hz)
    decay_db = np.linspace(0.0, -_RELEASED_DB, n_samples, dtype=np.float32)
    factors: FloatArray = np.exp(decay_db / np.float32(_DB_PER_NEPER))
    return factors


def _source(zone: Zone) -> tuple[FloatArray, tuple[int, int] | None]:
    """Return the filtered sample and 3 more values for interpolation at its end, (L + 3,), and its loop."""
    samples = zone.samples.astype(np.float32) * np.float32(zone.gain / _FULL_SCALE)
    if zone.loop is None:
        return np.pad(_filtered(samples, zone), (0, 3)), None
    start, end = zone.loop
    repeated = samples[start:end]
    n_rounds = 2 + -(-2 * _EDGE // repeated.size)
    filtered = _filtered(np.concatenate([samples[:end], *[repeated] * n_rounds]), zone)
    # Loop a repetition in which the filter has settled, and which is not at the end.
    n_before = max(1, -(-_EDGE // repeated.size)) * repeated.size
    loop = start + n_before, end + n_before
    return np.concatenate([filtered[: loop[1]], filtered[loop[0] : loop[0] + 3]]), loop


def _filtered(samples: FloatArray, zone: Zone) -> FloatArray:
    """Apply the low-pass filter, as the magnitude of a Butterworth filter of second order."""
    nyquist_hz = zone.rate_hz / 2  # at the pitch of the key
    if zone.cutoff_hz >= nyquist_hz or not samples.size:
        return samples
    size = 1 << (samples.size + _EDGE - 1).bit_length()
    freqs_hz = np.linspace(0.0, nyquist_hz, size // 2 + 1)
    magnitude = 1.0 / np.sqrt(1.0 + (freqs_hz / zone.cutoff_hz) ** 4)
    filtered: FloatArray = np.fft.irfft(np.fft.rfft(samples, size) * magnitude, size)[: samples.size].astype(np.float32)
    return filtered


def _played(source: FloatArray, loop: tuple[int, int] | None, at: npt.NDArray[np.float64]) -> FloatArray:
    """Return a sample at fractional positions, by cubic interpolation (Catmull-Rom)."""
    if loop is not None:
        start, end = loop
        at = np.where(at < end, at, start + (at - start) % (end - start))
    else:
        at = np.minimum(at, source.size - 3.0)
    index = at.astype(np.int64)
    t = (at - index).astype(np.float32)
    before, here, next_, after = (source[np.maximum(index + shift, 0)] for shift in (-1, 0, 1, 2))
    slope, curve = next_ - before, 2 * before - 5 * here + 4 * next_ - after
    bend = after - before + 3 * (here - next_)
    played: FloatArray = here + np.float32(0.5) * t * (slope + t * (curve + t * bend))
    return played


def _envelope(zone: Zone, time_s: npt.NDArray[np.float64]) -> FloatArray:
    """Return the volume envelope: linear attack, hold, and a decay that is linear in decibels."""
    since_s = np.maximum(time_s - zone.attack_s - zone.hold_s, 0.0)
    level_db = np.maximum(-_RELEASED_DB * since_s / max(zone.decay_s, 1e-3), zone.sustain_db)
    level = np.exp(level_db / _DB_PER_NEPER)
    attack = np.minimum(time_s / max(zone.attack_s, 1e-4), 1.0)
    envelope: FloatArray = (level * attack).astype(np.float32)
    return envelope
