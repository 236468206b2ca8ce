"""Features of whole recordings, computed once: the front end never changes while the body learns.

A window's features are a run of consecutive units, so a random crop of a recording costs a slice.
Audio that cannot be used shows here, before the first epoch.

Shapes: N units of a recording, T units of a window, D features of a unit, S samples.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tritone.audio import FloatArray
from tritone.constants import WINDOW_SAMPLES
from tritone.exceptions import InvalidAudioError
from tritone_training.data.recordings import Problem, Recording, Remark, printable

FeatureArray = npt.NDArray[np.float16]
# Up to this much of a recording is kept for training, evenly spread: memory stays at 2 MB a recording.
_MAX_SAMPLES: Final = 22_050 * 240
_N_STRETCHES: Final = 8


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
        problems: recordings that could not be read, or that are copies of another.
        fingerprint: sha256 over names, labels and decoded samples, for provenance.
        remarks: on recordings that are used.
    """

    by_name: dict[str, FeatureArray]
    problems: tuple[Problem, ...]
    fingerprint: str
    remarks: tuple[Remark, ...] = ()


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
    remarks: list[Remark] = []
    digest = hashlib.sha256()
    first: dict[bytes, str] = {}
    with ThreadPoolExecutor(1) as reader, torch.inference_mode():
        pending = deque(reader.submit(_heard, recording) for recording in recordings[:1])
        for index, recording in enumerate(recordings):
            pending.extend(reader.submit(_heard, following) for following in recordings[index + 1 : index + 2])
            try:
                heard = pending.popleft().result()
            except InvalidAudioError as error:
                problems.append(Problem.of_audio(recording, error))
            else:
                same = first.setdefault(heard.digest, recording.name)
                if same == recording.name:
                    digest.update(f"{recording.name}\0{recording.label}\0".encode() + heard.digest)
                    by_name[recording.name] = recording_features(heard.samples, frontend)
                    remarks += (Remark(recording.name, printable(note)) for note in heard.notes)
                else:
                    problems.append(_copy_of(same, recording.name))
            on_progress(index + 1, len(recordings))
    return Features(by_name, tuple(problems), digest.hexdigest(), tuple(remarks))


def _copy_of(first: str, name: str) -> Problem:
    # A copy on the other side of a split would be recognised, not judged.
    return Problem(name, "duplicate", f"{name}: holds the very samples of {first}, which is used")


@dataclass(frozen=True, eq=False)
class _Heard:
    samples: FloatArray  # (S,), S <= _MAX_SAMPLES
    digest: bytes  # sha256 over all samples of the recording
    notes: tuple[str, ...]


def _heard(recording: Recording) -> _Heard:
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
        kept = _stretches(recording, n_samples)
    return _Heard(np.concatenate(kept), digest.digest(), tuple(notes))


def _stretches(recording: Recording, n_samples: int) -> list[FloatArray]:
    """Equal stretches from all over a long recording, _MAX_SAMPLES in all."""
    n_stretch = _MAX_SAMPLES // _N_STRETCHES
    starts = np.linspace(0, n_samples - n_stretch, _N_STRETCHES).astype(int)
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
    """(S,) -> (N, D)."""
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
