from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.training import sounds

from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_training.kinds.genre_cnn.frontend import (
    MUSICNN_MEL,
    SCRATCH,
    FactoredSpectrum,
    FoldedSpectrum,
    MelFeatures,
    MelPower,
    MelSettings,
    mel_filters,
)


def power_of(samples: sounds.Samples, settings: MelSettings) -> sounds.Array:
    """(S,) -> (T, F), by the definition of the Fourier transform in double precision."""
    padded = np.pad(samples.astype(np.float64), settings.pad)
    n_frames = 1 + (padded.size - settings.n_window) // settings.n_hop
    hann = np.hanning(settings.n_window + 1)[:-1]
    frames = np.stack([padded[t * settings.n_hop :][: settings.n_window] * hann for t in range(n_frames)])
    turns = np.outer(np.arange(settings.n_window), np.arange(settings.n_bins)) * settings.bin_hz / SAMPLE_RATE_HZ
    power: sounds.Array = np.abs(frames @ np.exp(-2j * np.pi * turns) / settings.scale) ** 2
    return power


SETTINGS = pytest.mark.parametrize("settings", [SCRATCH, MUSICNN_MEL], ids=["scratch", "musicnn"])


@SETTINGS
@pytest.mark.parametrize("sound", [sounds.hum, sounds.hiss])
@pytest.mark.parametrize("n_samples", [WINDOW_SAMPLES, 1_800, 9_999])
def test_power_is_that_of_the_fourier_transform(
    sound: Callable[[int], sounds.Samples], settings: MelSettings, n_samples: int
) -> None:
    samples = sound(1)[:n_samples]
    expected = mel_filters(settings).astype(np.float64) @ power_of(samples, settings).T
    found = MelPower(settings)(torch.from_numpy(samples[None]))[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.log10(found + 1e-4), np.log10(expected + 1e-4), atol=1e-4)
    strong = expected > expected.max() * 1e-6
    np.testing.assert_allclose(found[strong], expected[strong], rtol=1e-3)


@pytest.mark.parametrize("frequency", [0, 1, 15, 16, 17, 31, 32, 255, 256, 496, 511])
def test_each_frequency_has_its_place(frequency: int) -> None:
    spectrum = FactoredSpectrum(SCRATCH)
    assert sorted(spectrum.order) == list(range(SCRATCH.n_bins))
    wave = np.cos(2 * np.pi * frequency * np.arange(1024) / 1024 + 0.3).astype(np.float32)
    power = spectrum(torch.from_numpy(wave[None]))[0, 0].numpy()
    assert spectrum.order[power.argmax()] == frequency


def test_frequencies_between_those_of_an_fft_are_computed_without_it() -> None:
    assert isinstance(MelPower(SCRATCH).spectrum, FactoredSpectrum)
    assert isinstance(MelPower(MUSICNN_MEL).spectrum, FoldedSpectrum)


def test_steps_that_are_not_half_a_window_are_refused() -> None:
    settings = replace(MUSICNN_MEL, n_hop=100)
    with pytest.raises(ValueError, match="expected a step of half a window, got 100 of 706"):
        MelPower(settings)


def test_a_sine_of_amplitude_one_peaks_in_the_right_band() -> None:
    filters = mel_filters(SCRATCH)
    bins_hz = np.arange(SCRATCH.n_bins) * SCRATCH.bin_hz
    time_s = np.arange(WINDOW_SAMPLES) / SAMPLE_RATE_HZ
    for k in (20, 100, 300):
        pitch_hz = bins_hz[k]
        sine = np.sin(2 * np.pi * pitch_hz * time_s).astype(np.float32)
        mel = MelPower(SCRATCH)(torch.from_numpy(sine[None]))[0].mean(1).numpy()
        assert mel.argmax() == filters[:, k].argmax()
        # A Hann window puts half an amplitude times half the window on the bin itself, half of that beside it.
        quarter = (SCRATCH.n_window / 4 / SCRATCH.scale) ** 2
        expected = filters[:, k - 1 : k + 2] @ np.array([quarter / 4, quarter, quarter / 4])
        np.testing.assert_allclose(mel[mel.argmax()], expected.max(), rtol=0.01)


def test_mel_filters_have_slaneys_known_values() -> None:
    settings = MelSettings(n_window=2048, n_hop=512, n_bins=1025, bin_hz=10.0, n_mels=40, min_hz=0.0, max_hz=8000.0)
    filters = mel_filters(settings)
    # Slaney's scale: 200/3 Hz a mel up to 1 kHz = 15 mel, then a factor 6.4 in 27 mel; 8 kHz = 45.2456 mel.
    mels = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 42)
    hz = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    peaks_hz = filters.argmax(1) * 10.0
    assert np.abs(peaks_hz - hz[1:-1]).max() <= 5.0
    np.testing.assert_allclose(filters.sum(1) * 10.0, 1, rtol=0.03)  # unit area in Hz
    for row, (low, high) in zip(filters, zip(hz[:-2], hz[2:], strict=True), strict=True):
        inside = np.flatnonzero(row) * 10.0
        assert inside.min() > low
        assert inside.max() < high


def test_every_band_hears_something() -> None:
    assert (mel_filters(SCRATCH).sum(1) > 0).all()


def test_a_window_has_128_frames_as_the_settings_state() -> None:
    frontend = MelFeatures()
    answer = frontend(torch.zeros(2, WINDOW_SAMPLES))
    assert answer.shape == (2, frontend.n_units, frontend.n_features) == (2, 128, 96)
    assert frontend.unit_samples == SCRATCH.n_hop
    assert torch.isfinite(answer).all()  # silence has a floor


def test_nothing_in_it_learns_or_is_saved() -> None:
    frontend = MelFeatures()
    assert list(frontend.parameters()) == []
    assert frontend.state_dict() == {}
