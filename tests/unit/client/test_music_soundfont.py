"""The SoundFont: its structure, and the tones of its keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritone.music.soundfont import SoundFont, find_soundfont, load_soundfont
from tritone.music.tones import release, tone

RATE_HZ = 22_050
# Bells, guitar harmonics, timpani, the whistle and effects have no clear pitch, or another one; accordions have two.
PITCHED = [*range(9), *range(10, 14), *range(15, 21), *range(24, 31), *range(32, 47), *range(48, 55), *range(56, 64)]
PITCHED += [65, 66, 71, 73]


def cents_off(samples: np.ndarray[Any, Any], pitch: int) -> float:
    part = samples[RATE_HZ // 10 : RATE_HZ * 9 // 10]
    power = np.abs(np.fft.rfft(part * np.hanning(part.size), 8 * RATE_HZ)) ** 2
    wanted_hz = 440.0 * 2 ** ((pitch - 69) / 12)
    near = slice(round(wanted_hz * 0.944 * 8), round(wanted_hz * 1.059 * 8))
    return float(1200 * np.log2((near.start + int(power[near].argmax())) / 8 / wanted_hz))


@pytest.mark.parametrize("program", PITCHED)
def test_pitched_instruments_are_in_tune(program: int) -> None:
    for pitch in (48, 61, 74, 86):
        assert abs(cents_off(tone(load_soundfont(), program, pitch, 1.0, RATE_HZ), pitch)) < 40, pitch


@pytest.mark.parametrize("program", range(0, 128, 3))
def test_every_program_sounds_on_every_key(program: int) -> None:
    for key in (0, 21, 33, 64, 85, 108, 127):
        samples = tone(load_soundfont(), program, key, 0.1, RATE_HZ)
        assert samples.shape == (2_205,)
        assert samples.dtype == np.float32
        assert np.isfinite(samples).all()
        assert load_soundfont().zones(program, key)


def test_a_held_key_goes_on_and_a_struck_string_dies_away() -> None:
    def level(program: int, at_s: float) -> float:
        samples = tone(load_soundfont(), program, 60, 6.0, RATE_HZ)
        return float(np.sqrt(np.mean(samples[round(at_s * RATE_HZ) :][:4_410] ** 2)))

    assert level(19, 5.5) > 0.5 * level(19, 1.0)  # an organ
    assert level(24, 5.5) < 0.3 * level(24, 0.2)  # a guitar


def test_a_tone_is_the_beginning_of_a_longer_one() -> None:
    long = tone(load_soundfont(), 0, 60, 13.0, RATE_HZ)  # of two blocks
    np.testing.assert_allclose(tone(load_soundfont(), 0, 60, 2.0, RATE_HZ), long[: 2 * RATE_HZ], atol=1e-6)
    steps = np.abs(np.diff(long))
    block = 1 << 18
    assert steps[block - 3 : block + 3].max() <= steps.max()


def test_a_release_falls_from_1() -> None:
    for program in (0, 19, 24, 73):
        factors = release(load_soundfont(), program, 60, RATE_HZ)
        assert factors[0] == 1
        assert (np.diff(factors) <= 0).all()
        assert factors[-1] < 1e-4
        assert 0.05 * RATE_HZ <= factors.size <= RATE_HZ


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF\0\0\0\0sfbk", b"MThd" + bytes(60)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="SoundFont"):
        SoundFont(data)


def test_a_damaged_file_is_refused() -> None:
    data = find_soundfont().read_bytes()
    with pytest.raises(ValueError, match="SoundFont"):
        SoundFont(data[: len(data) // 2])
