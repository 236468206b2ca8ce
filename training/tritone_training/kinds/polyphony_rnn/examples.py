"""Example inputs of `polyphony_rnn` and its sampler."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import N_PITCHES
from tritone_training.data.piece_conditions import MOST_VOICES, N_DENSITIES, N_KEYS_AND_MODES

_N_FRAMES: Final = 24
_N_NEW_FRAMES: Final = 16


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return chords that hold and change: (n_batch, 24, 88) uint8 of 0, 1 and 2."""
    random = np.random.default_rng(seed)
    frames = np.zeros((n_batch, _N_FRAMES, N_PITCHES), np.uint8)
    for piece in frames:
        start = 0
        while start < _N_FRAMES:
            end = start + int(random.integers(1, 5))
            chord = 20 + np.cumsum(random.integers(3, 9, 4))
            piece[start:end, chord] = 1
            piece[start, chord] = 2
            start = end
    return {"frames": frames}


def unsteered_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return prompts of 24 frames, noise for 16, and parameters that differ between rows."""
    random = np.random.default_rng(seed)
    return {
        "prompt": example_inputs(n_batch, seed)["frames"],
        "noise": random.random((n_batch, _N_NEW_FRAMES, N_PITCHES), np.float32),
        "temperature": random.uniform(0.7, 1.3, n_batch).astype(np.float32),
        "top_k": random.integers(3, N_PITCHES + 1, n_batch),
        "top_p": random.uniform(0.8, 1.0, n_batch).astype(np.float32),
    }


def example_sampler_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return the same with conditions that differ between rows; every third row is without a prompt."""
    random = np.random.default_rng(seed)
    inputs = unsteered_inputs(n_batch, seed)
    inputs["prompt"][::3] = 0
    return {
        "prompt": inputs.pop("prompt"),
        "meter": np.tile(np.array([8, 2], np.int64), (n_batch, 1)),
        "style": np.zeros(n_batch, np.int64),
        "key": random.integers(0, N_KEYS_AND_MODES + 1, n_batch),
        "density": random.integers(0, N_DENSITIES + 1, n_batch),
        "n_voices": random.integers(0, MOST_VOICES + 1, n_batch),
        "end": random.integers(0, 2, n_batch) * (_N_FRAMES + _N_NEW_FRAMES),
        "repeats": random.integers(-1, _N_NEW_FRAMES, (n_batch, _N_NEW_FRAMES)),
        **inputs,
    }
