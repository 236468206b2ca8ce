"""Windows for training: random crops of cached features, with augmentation fit for music.

Shapes: B batch, T units of a window, D features of a unit, M mel bands, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tritone.constants import EMOTIONS
from tritone_training.data.recordings import Recording
from tritone_training.kinds.genre_cnn.features import FeatureArray

Batch = tuple[Tensor, Tensor, Tensor]  # features (B, T, D), label (B,), emotions (B, 9) with NaN where unknown
_VALIDATION_CROPS: Final = 6


class CropDataset(Dataset[Batch]):
    """Crops of recordings; item i is a crop of recording i // crops.

    Args:
        random: crops start anywhere (training) instead of evenly spread (validation).
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        features: Mapping[str, FeatureArray],
        labels: Sequence[str],
        *,
        n_units: int,
        n_crops: int,
        random: bool,
    ) -> None:
        self._features = [features[recording.name] for recording in recordings]
        self._labels = torch.tensor([labels.index(recording.label) for recording in recordings])
        unknown = (float("nan"),) * len(EMOTIONS)
        self._emotions = torch.tensor([recording.emotions or unknown for recording in recordings])
        self._n_units = n_units
        self._n_crops = n_crops
        self._random = random

    def __len__(self) -> int:
        return len(self._features) * self._n_crops

    def __getitem__(self, index: int) -> Batch:
        recording, crop = divmod(index, self._n_crops)
        features = self._features[recording]
        n_starts = len(features) - self._n_units + 1
        if self._random:
            start = int(torch.randint(n_starts, ()))
        else:
            start = int((crop + 0.5) / self._n_crops * n_starts)
        window = features[start : start + self._n_units].astype(np.float32)
        return torch.from_numpy(window), self._labels[recording], self._emotions[recording]


def validation_dataset(
    recordings: Sequence[Recording],
    features: Mapping[str, FeatureArray],
    labels: Sequence[str],
    *,
    n_units: int,
) -> CropDataset:
    """Evenly spread crops, the same every time; consecutive items belong to one recording."""
    return CropDataset(recordings, features, labels, n_units=n_units, n_crops=_VALIDATION_CROPS, random=False)


def by_recording(values: Tensor) -> Tensor:
    """(n_recordings * crops, ...) of a validation data set -> (n_recordings, ...), the mean over crops."""
    return values.view(-1, _VALIDATION_CROPS, *values.shape[1:]).mean(1)


def augment_log_mel(features: Tensor, *, gain_db: float, mask_fraction: float) -> Tensor:
    """(B, T, M) log10 power: louder or softer, a tilt of the spectrum, masked bands and frames.

    Masking after Park et al. 2019 (SpecAugment, arXiv:1904.08779); the mask is the window's own mean, so it
    reads as nothing in particular rather than as silence.
    """
    n_batch, n_times, n_bands = features.shape
    device = features.device
    gain = (torch.rand(n_batch, 1, 1, device=device) * 2 - 1) * gain_db / 10  # log10 power
    tilt = (torch.rand(n_batch, 1, 1, device=device) * 2 - 1) * gain_db / 10
    tilt = tilt * torch.linspace(-1, 1, n_bands, device=device)
    features = features + gain + tilt
    if mask_fraction <= 0:
        return features
    mean = features.mean((1, 2), keepdim=True)
    frames = _spans(n_batch, n_times, mask_fraction, device)[:, :, None]
    bands = _spans(n_batch, n_bands, mask_fraction, device)[:, None, :]
    return torch.where(frames | bands, mean, features)


def _spans(n_batch: int, n: int, largest_fraction: float, device: torch.device) -> Tensor:
    """(B, n) true within one random span a row."""
    length = torch.rand(n_batch, 1, device=device) * largest_fraction * n
    start = torch.rand(n_batch, 1, device=device) * (n - length)
    position = torch.arange(n, device=device)
    return (position >= start) & (position < start + length)


def mix_pairs(features: Tensor, targets: Tensor, emotions: Tensor, *, alpha: float, in_power: bool) -> Batch:
    """Mix each window with another of its batch, and their answers alike (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        in_power: features are log10 power and are mixed as sounds are: their powers add.
        targets: (B, L) one-hot or soft labels.
    """
    share = torch.distributions.Beta(alpha, alpha).sample((len(features), 1)).to(features.device)
    share = torch.maximum(share, 1 - share)  # each window stays the larger part of itself
    partner = torch.randperm(len(features), device=features.device)
    wide = share[:, :, None]
    if in_power:
        power = wide * _ten_to(features) + (1 - wide) * _ten_to(features[partner])
        mixed = torch.log10(power)
    else:
        mixed = wide * features + (1 - wide) * features[partner]
    return (
        mixed,
        share * targets + (1 - share) * targets[partner],
        share * emotions + (1 - share) * emotions[partner],
    )


def _ten_to(exponent: Tensor) -> Tensor:
    return torch.exp(exponent * math.log(10))  # several times faster than a power with a scalar base
