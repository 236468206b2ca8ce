"""Frozen front ends of `genre_cnn`: samples to log-mel bands, or to the features of a pretrained musicnn.

The spectrogram is computed with matrix products, so that it runs inside the exported graph on any host: ONNX Runtime
has no CUDA kernel for STFT, and its CPU kernels for DFT and STFT are slower. A product with all cosines and sines takes
1 M multiplications a frame of 1,024 samples; `FactoredSpectrum` takes 0.1 M and is 5 times as fast, `FoldedSpectrum`
takes half and is not restricted to the frequencies of an FFT (`python -m benchmarks.front_end`).

musicnn expects 16 kHz, frames of 512 and steps of 256 samples. Instead of resampling in the graph, the same frequencies
and durations are measured at 22,050 Hz: a window of 706 and a step of 353 samples are 32.02 and 16.01 ms. Tests compare
the tags with those of a resampled recording.

Shapes: B batch, W samples of a window, T frames, N samples of a frame, F frequencies of the transform, M mel bands, D
features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone.constants import SAMPLE_RATE_HZ
from tritone_training.pretrained.musicnn import N_MELS, N_PENULTIMATE, N_POOLED, N_TAGS, Musicnn


@dataclass(frozen=True)
class MelSettings:
    """Settings of a spectrogram; lengths in samples at 22,050 Hz.

    Attributes:
        n_bins: frequencies of the transform are `k * bin_hz`, k = 0..n_bins-1; they need not be those of an FFT.
        pad: zeros added on both sides of a window, for backbones that were trained with centred frames.
        scale: the spectrum is divided by this before squaring (a Hann window's sum for sinusoids of amplitude 1).
    """

    n_window: int
    n_hop: int
    n_bins: int
    bin_hz: float
    n_mels: int
    min_hz: float
    max_hz: float
    pad: int = 0
    scale: float = 1.0


SCRATCH: Final = MelSettings(
    n_window=1024,
    n_hop=512,
    n_bins=512,
    bin_hz=SAMPLE_RATE_HZ / 1024,
    n_mels=96,
    min_hz=30.0,
    max_hz=11_000.0,
)


class MelPower(nn.Module):
    """Power in mel bands, without trainable parameters: (B, W) samples -> (B, M, T)."""

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.spectrum: FactoredSpectrum | FoldedSpectrum
        self.spectrum = FactoredSpectrum(settings) if FactoredSpectrum.fits(settings) else FoldedSpectrum(settings)
        filters = mel_filters(settings)[:, self.spectrum.order].T
        self.register_buffer("filters", torch.from_numpy(filters.copy()), persistent=False)  # (F, M)
        self.filters: Tensor

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, M, T) with T = 1 + (W + 2 pad - n_window) // n_hop."""
        if self.settings.pad:
            audio = nn.functional.pad(audio, (self.settings.pad, self.settings.pad))
        return torch.matmul(self.spectrum(audio), self.filters).transpose(1, 2)


class FactoredSpectrum(nn.Module):
    """Power at the frequencies of an FFT of 1,024 samples, as two small matrix products: (B, W) -> (B, T, F).

    With n = 32 a + b and k = i + 32 j, the transform of a frame x is (Cooley & Tukey 1965)

        X[k] = sum over b of exp(-2 pi i b k / 1024) * Y[i, b],  Y[i, b] = sum over a of exp(-2 pi i a i / 32) * x[a, b]

    Y is one product with a matrix of 32 x 32, because Y[32 - i] is the conjugate of Y[i] for real x: i = 0 and i = 16
    are real, and 1 to 15 complex. The sum over b, with its factors, is one product with a matrix of 64 x 64 for each i.
    Y[0] and Y[16] share one, from which the frequencies above 512 are left out.

    Attributes:
        order: (512,), the frequency k of each value of the result.
    """

    n_window = 1024
    n_bins = 512

    @classmethod
    def fits(cls, settings: MelSettings) -> bool:
        """Return whether it computes what these settings describe."""
        return (
            settings.n_window == cls.n_window
            and settings.n_bins == cls.n_bins
            and settings.bin_hz == SAMPLE_RATE_HZ / cls.n_window
            and cls.n_window % settings.n_hop == 0
        )

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self._n_hop = settings.n_hop
        first, second, self.order = _factors()
        hann = (_hann(self.n_window) / settings.scale).reshape(32, 32)
        self.register_buffer("hann", torch.from_numpy(hann.astype(np.float32)), persistent=False)
        self.register_buffer("first", torch.from_numpy(first.astype(np.float32)), persistent=False)  # (32, a)
        self.register_buffer("second", torch.from_numpy(second.astype(np.float32)), persistent=False)  # (16, 64, 64)
        self.hann: Tensor
        self.first: Tensor
        self.second: Tensor

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, T, 512), in the order of `order`."""
        frames = _frames(audio, self.n_window, self._n_hop)  # (B, T, N)
        n_batch, n_frames = frames.shape[:2]
        sums = torch.matmul(self.first, frames.reshape(-1, 32, 32) * self.hann)  # (B T, 32, b)
        pairs = sums.reshape(-1, 16, 64).transpose(0, 1)  # (16, B T, 2 b)
        parts = torch.matmul(pairs, self.second)  # (16, B T, 64): real, then imaginary parts
        squares = parts * parts
        power = squares[:, :, :32] + squares[:, :, 32:]
        return power.transpose(0, 1).reshape(n_batch, n_frames, self.n_bins)


def _factors() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the matrices of `FactoredSpectrum`, (32, 32) and (16, 64, 64), and the order of its result, (512,)."""
    a = np.arange(32)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(17), a) / 32)  # (i, a)
    parts = [part for wave in waves[1:16] for part in (wave.real, wave.imag)]
    first = np.stack([waves[0].real, waves[16].real, *parts])
    b, n = np.arange(32), FactoredSpectrum.n_window
    second = np.zeros((16, 64, 64))
    k = np.arange(16)[:, None] + 32 * np.arange(32)  # (16, 32)
    k[0] = np.concatenate([32 * np.arange(16), 16 + 32 * np.arange(16)])
    for i in range(16):
        turns = np.exp(-2j * np.pi * np.outer(b, k[i]) / n)  # (b, j)
        if i == 0:  # two real inputs, with half of the frequencies each
            second[0, :32, :16], second[0, :32, 32:48] = turns[:, :16].real, turns[:, :16].imag
            second[0, 32:, 16:32], second[0, 32:, 48:] = turns[:, 16:].real, turns[:, 16:].imag
        else:
            second[i] = np.block([[turns.real, turns.imag], [-turns.imag, turns.real]])
    return first, second, np.minimum(k, n - k).ravel()  # the spectrum of real samples is symmetric


class FoldedSpectrum(nn.Module):
    """Power at any frequencies, from halves of frames: (B, W) -> (B, T, F).

    Around the middle of a frame, cosines are even and sines are odd, so that each needs a product with half a frame:
    the second half plus, or minus, the first half in reverse. The phase of the result is of no interest.

    Attributes:
        order: (F,), the frequency k of each value of the result.
    """

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        if settings.n_window != 2 * settings.n_hop:
            raise ValueError(f"expected a step of half a window, got {settings.n_hop} of {settings.n_window}")
        self._n_hop = settings.n_hop
        self.order: npt.NDArray[np.int64] = np.arange(settings.n_bins)
        n = np.arange(settings.n_hop)[:, None]  # from the middle on
        hann = _hann(settings.n_window)[settings.n_hop :, None] / settings.scale
        angle = 2 * np.pi * n * self.order * settings.bin_hz / SAMPLE_RATE_HZ
        self.register_buffer("cosines", torch.from_numpy((hann * np.cos(angle)).astype(np.float32)), persistent=False)
        self.register_buffer("sines", torch.from_numpy((hann * np.sin(angle)).astype(np.float32)), persistent=False)
        self.cosines: Tensor  # (N / 2, F)
        self.sines: Tensor

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, T, F)."""
        n_steps = audio.shape[1] // self._n_hop
        steps = audio[:, : n_steps * self._n_hop].reshape(-1, n_steps, self._n_hop)
        after = steps[:, 1:]
        # Sample N / 2 - n for n = 0, 1, ...; that for n = 0 is the middle itself, and counts once: it is in `after`.
        # The first sample of a frame has no partner and no weight.
        before = nn.functional.pad(torch.flip(steps[:, :-1], (2,))[:, :, :-1], (1, 0))
        real = torch.matmul(after + before, self.cosines)
        imaginary = torch.matmul(after - before, self.sines)
        return real * real + imaginary * imaginary


def _frames(audio: Tensor, n_window: int, n_hop: int) -> Tensor:
    """Return overlapping frames; `n_window` is a multiple of `n_hop`: (B, W) -> (B, T, N)."""
    n_steps = audio.shape[1] // n_hop
    steps = audio[:, : n_steps * n_hop].reshape(-1, n_steps, n_hop)
    overlap = n_window // n_hop
    return torch.cat([steps[:, first : n_steps - overlap + 1 + first] for first in range(overlap)], dim=2)


def _hann(n: int) -> npt.NDArray[np.float64]:
    window: npt.NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    return window


def mel_filters(settings: MelSettings) -> npt.NDArray[np.float32]:
    """Return triangular filters of unit area on Slaney's mel scale (Slaney 1998, Auditory Toolbox): (M, F)."""
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(settings.min_hz), _hz_to_mel(settings.max_hz), settings.n_mels + 2))
    bins_hz = np.arange(settings.n_bins) * settings.bin_hz
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: npt.NDArray[np.float32] = (triangles * (2.0 / (high - low))).astype(np.float32)
    return filters


_LINEAR_HZ_PER_MEL: Final = 200.0 / 3  # linear below 1 kHz, logarithmic above
_LOG_START_HZ: Final = 1000.0
_LOG_START_MEL: Final = _LOG_START_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP: Final = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_START_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_LOG_START_MEL + np.log(hz / _LOG_START_HZ) / _LOG_STEP)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mel * _LINEAR_HZ_PER_MEL
    logarithmic = _LOG_START_HZ * np.exp(_LOG_STEP * (mel - _LOG_START_MEL))
    return np.where(mel < _LOG_START_MEL, linear, logarithmic)


_N_WINDOW: Final = 706
MUSICNN_MEL: Final = MelSettings(
    n_window=_N_WINDOW,
    n_hop=353,
    n_bins=257,
    bin_hz=16_000 / 512,
    n_mels=N_MELS,
    min_hz=0.0,
    max_hz=8_000.0,
    pad=353,
    scale=_N_WINDOW / 512,  # the longer sum of the same sound is larger by this
)


class MusicnnFeatures(nn.Module):
    """Activations of musicnn before the tags, then its tags: (B, W) -> (B, 1, D)."""

    n_units = 1
    n_features = N_POOLED + N_PENULTIMATE + N_TAGS
    unit_samples = 33_075  # training draws windows every 1.5 s
    tag_slice = slice(N_POOLED + N_PENULTIMATE, N_POOLED + N_PENULTIMATE + N_TAGS)
    penultimate_slice = slice(N_POOLED, N_POOLED + N_PENULTIMATE)

    def __init__(self, network: Musicnn) -> None:
        super().__init__()
        self.power = MelPower(MUSICNN_MEL)
        self.network = network.eval()

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, 1, D)."""
        pooled, penultimate, tags = self.network(self.power(audio))
        return torch.cat([pooled, penultimate, tags], dim=1)[:, None]


class MelFeatures(nn.Module):
    """Log-mel bands, one unit for each frame: (B, W) -> (B, T, M)."""

    n_units = 1 + (66_150 - SCRATCH.n_window) // SCRATCH.n_hop  # 128
    n_features = SCRATCH.n_mels
    unit_samples = SCRATCH.n_hop

    def __init__(self) -> None:
        super().__init__()
        self.power = MelPower(SCRATCH)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, T, M)."""
        return log_power(self.power(audio)).transpose(1, 2)


def log_power(power: Tensor) -> Tensor:
    """Return log10 power with a floor below the noise of a quiet recording."""
    return torch.log10(power + 1e-4)
