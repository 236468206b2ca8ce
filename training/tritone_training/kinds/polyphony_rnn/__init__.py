"""`polyphony_rnn`: predicts the next frame of a piece, and continues pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tritone.music.grid import N_PITCHES
from tritone_training.kind import Companion, ModelKind
from tritone_training.kinds.polyphony_rnn.config import PRESETS, suggest
from tritone_training.kinds.polyphony_rnn.declaration import DECLARATION, KIND_NAME, SAMPLER
from tritone_training.kinds.polyphony_rnn.evaluate import evaluate
from tritone_training.kinds.polyphony_rnn.export import exportable
from tritone_training.kinds.polyphony_rnn.train import prepare, train_prepared

_N_FRAMES = 24


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


def example_sampler_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return prompts of 24 frames, noise for 16, and parameters that differ between rows."""
    random = np.random.default_rng(seed)
    return {
        "prompt": example_inputs(n_batch, seed)["frames"],
        "noise": random.random((n_batch, 16, N_PITCHES), np.float32),
        "temperature": random.uniform(0.7, 1.3, n_batch).astype(np.float32),
        "top_k": random.integers(3, N_PITCHES + 1, n_batch),
        "top_p": random.uniform(0.8, 1.0, n_batch).astype(np.float32),
    }


KIND = ModelKind(
    name=KIND_NAME,
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=prepare,
    trainer=train_prepared,
    evaluator=evaluate,
    score="log_likelihood_per_frame",
    suggest=suggest,
    options=frozenset({"data", "devices", "report", "warm_start"}),
    exporter=exportable,
    example_inputs=example_inputs,
    companions=(Companion(SAMPLER, example_sampler_inputs),),
)
