"""`music_gan`: two new bars of music from noise, in a given key and density."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tritone.sampling import uniform_noise
from tritone_training.bars.tensors import sampling_example_inputs
from tritone_training.kind import ModelKind
from tritone_training.kinds.music_gan.config import PRESETS, suggest
from tritone_training.kinds.music_gan.declaration import DECLARATION, N_LATENT_NOISE
from tritone_training.kinds.music_gan.evaluate import evaluate
from tritone_training.kinds.music_gan.export import exportable
from tritone_training.kinds.music_gan.train import prepare, train_prepared


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return requests with and without conditions; the first has none."""
    random = np.random.default_rng(seed)
    key, mode = random.integers(-1, 12, n_batch), random.integers(-1, 2, n_batch)
    density = random.uniform(0.5, 8, n_batch).astype(np.float32)
    for conditions in (key, mode, density):
        conditions[0] = -1
    return {
        "latent_noise": uniform_noise(seed, n_batch, N_LATENT_NOISE, stream=1),
        "truncation": random.uniform(0.5, 1, n_batch).astype(np.float32),
        "key": key,
        "mode": mode,
        "density": density,
        **sampling_example_inputs(n_batch, seed),
    }


KIND = ModelKind(
    name="music_gan",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=lambda request, _: prepare(request),
    trainer=train_prepared,
    evaluator=evaluate,
    score="likeness",
    suggest=suggest,
    options=frozenset({"data", "report", "warm_start"}),
    exporter=exportable,
    example_inputs=example_inputs,
)
