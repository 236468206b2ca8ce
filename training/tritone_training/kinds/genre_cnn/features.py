"""Features of whole recordings, computed once: the front end never changes while the body learns.

A window's features are a run of consecutive units, so a random crop of a recording costs a slice.
Audio that cannot be used shows here, before the first epoch.

Letters: N units of a recording, T units of a window, D features of a unit, S samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from tritone_client._exceptions import InvalidAudioError
from tritone_client.audio import FloatArray
from tritone_client.constants import WINDOW_SAMPLES
from tritone_training.data.recordings import Problem, Recording

FeatureArray = npt.NDArray[np.float16]
# Up to this much of a recording is kept for training, evenly spread: memory stays at 2 MB a recording.
_MAX_SAMPLES = 22_050 * 240


class Frontend(Protocol):
    """A frozen module (B, W) -> (B, T, D), and how far apart its units lie."""

    n_units: int
    n_features: int
    unit_samples: int

    def __call__(self, audio: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Features:
    """What was computed of a data set.

    Attributes:
        by_name: recording name -> (N, D) float16, N >= T.
        problems: recordings that could not be read.
        fingerprint: sha256 over names, labels and decoded samples, for provenance.
    """

    by_name: dict[str, FeatureArray]
    problems: tuple[Problem, ...]
    fingerprint: str


def compute_features(
    recordings: Sequence[Recording],
    frontend: Frontend,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Read every recording once and keep its features.

    The next recording is decoded while the front end works on this one.
    """
    by_name: dict[str, FeatureArray] = {}
    problems: list[Problem] = []
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as reader, torch.inference_mode():
        pending = reader.submit(recordings[0].load) if recordings else None
        for index, recording in enumerate(recordings):
            current: Future[FloatArray] | None = pending
            pending = reader.submit(recordings[index + 1].load) if index + 1 < len(recordings) else None
            try:
                samples = current.result() if current else recording.load()
            except InvalidAudioError as error:
                problems.append(Problem(recording.name, error.reason, str(error)))
            else:
                digest.update(f"{recording.name}\0{recording.label}\0".encode())
                digest.update(samples.tobytes())
                by_name[recording.name] = recording_features(samples, frontend)
            on_progress(index + 1, len(recordings))
    return Features(by_name, tuple(problems), digest.hexdigest())


def recording_features(samples: FloatArray, frontend: Frontend) -> FeatureArray:
    """(S,) -> (N, D), in pieces of a bounded size."""
    if samples.size < WINDOW_SAMPLES:
        samples = np.resize(samples, WINDOW_SAMPLES)  # repeated, as iter_windows does
    samples = samples[:_MAX_SAMPLES] if samples.size <= _MAX_SAMPLES else _spread(samples)
    if frontend.n_units == 1:
        starts = range(0, samples.size - WINDOW_SAMPLES + 1, frontend.unit_samples)
        windows = np.stack([samples[start : start + WINDOW_SAMPLES] for start in starts])
        parts = [frontend(torch.from_numpy(batch.copy()))[:, 0] for batch in _batches(windows, 16)]
        return torch.cat(parts).numpy().astype(np.float16)
    return frontend(torch.from_numpy(samples[None]))[0].numpy().astype(np.float16)


def _spread(samples: FloatArray) -> FloatArray:
    """Eight equal stretches from all over a long recording, _MAX_SAMPLES in all."""
    n_stretch = _MAX_SAMPLES // 8
    starts = np.linspace(0, samples.size - n_stretch, 8).astype(int)
    return np.concatenate([samples[start : start + n_stretch] for start in starts])


def _batches(windows: npt.NDArray[np.float32], size: int) -> Sequence[npt.NDArray[np.float32]]:
    return [windows[start : start + size] for start in range(0, len(windows), size)]
