"""`music_vae`: two bars of music as a point in a latent space, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tritone.music.voices import FIRST_STRIKE, N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone_training.bars.tensors import N_LATENT, sampling_example_inputs
from tritone_training.kind import Companion, ModelKind
from tritone_training.kinds.music_vae.config import PRESETS, suggest
from tritone_training.kinds.music_vae.dataset import prepare
from tritone_training.kinds.music_vae.declaration import DECLARATION, DECODER
from tritone_training.kinds.music_vae.evaluate import QUALITY, evaluate
from tritone_training.kinds.music_vae.export import exportable
from tritone_training.kinds.music_vae.train import train_prepared

Inputs = dict[str, npt.NDArray[np.generic]]


def example_inputs(n_batch: int, seed: int) -> Inputs:
    """Return spans of four voices that strike, hold and rest: (n_batch, 32, 4) int64."""
    random = np.random.default_rng(seed)
    values = random.integers(FIRST_STRIKE, N_VOICE_VALUES, (n_batch, SPAN_FRAMES, N_VOICES))
    return {"voices": np.where(random.random(values.shape) < 0.3, values, random.integers(0, 2, values.shape))}


def decoder_example_inputs(n_batch: int, seed: int) -> Inputs:
    """Return samples of the prior, small moves, and parameters that differ between spans."""
    random = np.random.default_rng(seed)
    return {
        "latent": random.standard_normal((n_batch, N_LATENT)).astype(np.float32),
        "attributes": random.uniform(-1, 1, (n_batch, 3)).astype(np.float32),
        **sampling_example_inputs(n_batch, seed),
    }


KIND = ModelKind(
    name="music_vae",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=lambda request, _: prepare(request),
    trainer=train_prepared,
    evaluator=evaluate,
    score="reconstruction_accuracy",
    suggest=suggest,
    options=frozenset({"data", "devices", "report", "warm_start"}),
    exporter=exportable,
    example_inputs=example_inputs,
    companions=(Companion(DECODER, decoder_example_inputs),),
    quality=QUALITY,
)
