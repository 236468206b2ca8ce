"""Frozen front ends of `genre_cnn`: samples to log-mel bands, or to the features of a pretrained musicnn.

The spectrogram is computed with matrix products, so that it runs inside the exported graph on any host: ONNX Runtime
has no CUDA kernel for STFT, whereas a strided convolution with windowed cosines and sines is a matrix product
everywhere, and its result does not depend on an FFT library.

musicnn expects 16 kHz, frames of 512 and steps of 256 samples. Instead of resampling in the graph, the same frequencies
and durations are measured at 22,050 Hz: a window of 706 and a step of 353 samples are 32.02 and 16.01 ms. Tests compare
the tags with those of a resampled recording.

Shapes: B batch, W samples of a window, T frames, F frequencies of the transform, M mel bands, D features.
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
        self.register_buffer("basis", torch.from_numpy(_fourier_basis(settings)), persistent=False)  # (2F, 1, n_window)
        self.register_buffer("filters", torch.from_numpy(mel_filters(settings)), persistent=False)  # (M, F)
        self.basis: Tensor
        self.filters: Tensor

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, M, T) with T = 1 + (W + 2 pad - n_window) // n_hop."""
        if self.settings.pad:
            audio = nn.functional.pad(audio, (self.settings.pad, self.settings.pad))
        parts = nn.functional.conv1d(audio[:, None], self.basis, stride=self.settings.n_hop)  # (B, 2F, T)
        real, imaginary = parts.chunk(2, dim=1)
        return torch.matmul(self.filters, real * real + imaginary * imaginary)


def _fourier_basis(settings: MelSettings) -> npt.NDArray[np.float32]:
    """Return Hann-windowed cosines, then sines: (2F, 1, n_window)."""
    n = np.arange(settings.n_window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / settings.n_window)
    angle = 2 * np.pi * np.arange(settings.n_bins)[:, None] * settings.bin_hz * n / SAMPLE_RATE_HZ
    basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * hann / settings.scale
    single: npt.NDArray[np.float32] = basis[:, None].astype(np.float32)
    return single


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
