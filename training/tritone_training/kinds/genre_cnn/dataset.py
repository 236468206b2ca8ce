"""Features of recordings, and the crops of them that training uses.

The front end is frozen, so the features of whole recordings are computed once. The features of a window are consecutive
units, so a random crop of a recording is a slice. Audio that cannot be used is found here, before the first epoch.

Shapes: N units of a recording, B batch, T units of a window, D features of a unit, M mel bands, L labels, S samples.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tritone.audio import FloatArray
from tritone.constants import EMOTIONS, WINDOW_SAMPLES
from tritone.exceptions import InvalidAudioError
from tritone_training.data.recordings import DataProblem, Recording, Remark, printable

FeatureArray = npt.NDArray[np.float16]
# Up to this much of a recording is kept for training, evenly spread: memory stays at 2 MB a recording.
_MAX_SAMPLES: Final = 22_050 * 240
_N_SEGMENTS: Final = 8


class Frontend(Protocol):
    """A frozen module (B, W) -> (B, T, D), with the distance between its units."""

    n_units: int
    n_features: int
    unit_samples: int

    def __call__(self, audio: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class RecordingFeatures:
    """The computed features of a data set.

    Attributes:
        by_name: recording name -> (N, D) float16, N >= T.
        problems: recordings that could not be read, or that are copies of another.
        fingerprint: sha256 over names, labels and decoded samples, for provenance.
        remarks: warnings about recordings that are used.
    """

    by_name: dict[str, FeatureArray]
    problems: tuple[DataProblem, ...]
    fingerprint: str
    remarks: tuple[Remark, ...] = ()


def compute_features(
    recordings: Sequence[Recording],
    frontend: Frontend,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RecordingFeatures:
    """Read every recording once and keep its features.

    The next recording is decoded while the front end works on this one.
    """
    by_name: dict[str, FeatureArray] = {}
    problems: list[DataProblem] = []
    remarks: list[Remark] = []
    digest = hashlib.sha256()
    first: dict[bytes, str] = {}
    with ThreadPoolExecutor(1) as reader, torch.inference_mode():
        pending = deque(reader.submit(read_samples, recording) for recording in recordings[:1])
        for index, recording in enumerate(recordings):
            pending.extend(reader.submit(read_samples, following) for following in recordings[index + 1 : index + 2])
            try:
                decoded = pending.popleft().result()
            except InvalidAudioError as error:
                problems.append(DataProblem.of_audio(recording, error))
            else:
                same = first.setdefault(decoded.digest, recording.name)
                if same == recording.name:
                    digest.update(f"{recording.name}\0{recording.label}\0".encode() + decoded.digest)
                    by_name[recording.name] = recording_features(decoded.samples, frontend)
                    remarks += (Remark(recording.name, printable(note)) for note in decoded.notes)
                else:
                    problems.append(_copy_of(same, recording.name))
            on_progress(index + 1, len(recordings))
    return RecordingFeatures(by_name, tuple(problems), digest.hexdigest(), tuple(remarks))


def _copy_of(first: str, name: str) -> DataProblem:
    # A copy on the other side of a split would be recognised, not evaluated.
    return DataProblem(name, "duplicate", f"{name}: holds the very samples of {first}, which is used")


@dataclass(frozen=True, eq=False)
class DecodedRecording:
    """The samples of a recording that are kept, and warnings about it."""

    samples: FloatArray  # (S,), S <= _MAX_SAMPLES
    digest: bytes  # sha256 over all samples of the recording
    notes: tuple[str, ...]


def read_samples(recording: Recording) -> DecodedRecording:
    """Read a recording of any length in bounded memory; one that is too long to keep is read once more."""
    digest = hashlib.sha256()
    n_samples = 0
    kept: list[FloatArray] = []
    notes: list[str] = []
    for block in recording.blocks(on_note=notes.append):
        digest.update(block.tobytes())
        if n_samples <= _MAX_SAMPLES:
            kept.append(block)
        n_samples += block.size
    if n_samples > _MAX_SAMPLES:
        kept = _segments(recording, n_samples)
    return DecodedRecording(np.concatenate(kept), digest.digest(), tuple(notes))


def _segments(recording: Recording, n_samples: int) -> list[FloatArray]:
    """Return equal segments spread over a long recording, _MAX_SAMPLES in all."""
    n_stretch = _MAX_SAMPLES // _N_SEGMENTS
    starts = np.linspace(0, n_samples - n_stretch, _N_SEGMENTS).astype(int)
    kept: list[FloatArray] = []
    position = 0
    for block in recording.blocks():
        for start in starts:
            low, high = max(start - position, 0), min(start + n_stretch - position, block.size)
            if low < high:
                kept.append(block[low:high].copy())  # not a view that keeps its whole window alive
        position += block.size
    return kept


def recording_features(samples: FloatArray, frontend: Frontend) -> FeatureArray:
    """Return the features of a recording: (S,) -> (N, D)."""
    if samples.size < WINDOW_SAMPLES:
        samples = np.resize(samples, WINDOW_SAMPLES)  # repeated, as iter_windows does
    if frontend.n_units == 1:
        starts = range(0, samples.size - WINDOW_SAMPLES + 1, frontend.unit_samples)
        windows = np.stack([samples[start : start + WINDOW_SAMPLES] for start in starts])
        parts = [frontend(torch.from_numpy(batch.copy()))[:, 0] for batch in _batches(windows, 16)]
        return torch.cat(parts).numpy().astype(np.float16)
    return frontend(torch.from_numpy(samples[None]))[0].numpy().astype(np.float16)


def _batches(windows: npt.NDArray[np.float32], size: int) -> Sequence[npt.NDArray[np.float32]]:
    return [windows[start : start + size] for start in range(0, len(windows), size)]


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
    """Return a data set of evenly spread crops; consecutive items belong to one recording."""
    return CropDataset(recordings, features, labels, n_units=n_units, n_crops=_VALIDATION_CROPS, random=False)


def by_recording(values: Tensor) -> Tensor:
    """Return the means over the crops of a validation data set: (n_recordings * crops, ...) -> (n_recordings, ...)."""
    return values.view(-1, _VALIDATION_CROPS, *values.shape[1:]).mean(1)


def augment_log_mel(features: Tensor, *, gain_db: float, mask_fraction: float) -> Tensor:
    """Augment log10 power (B, T, M): gain, a tilt of the spectrum, masked bands and frames.

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
    """Return a mask (B, n) that is true within one random span of each row."""
    length = torch.rand(n_batch, 1, device=device) * largest_fraction * n
    start = torch.rand(n_batch, 1, device=device) * (n - length)
    position = torch.arange(n, device=device)
    return (position >= start) & (position < start + length)


def mix_pairs(features: Tensor, targets: Tensor, emotions: Tensor, *, alpha: float, in_power: bool) -> Batch:
    """Mix windows of a batch in pairs, and their targets likewise (Zhang et al. 2018, arXiv:1710.09412).

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
