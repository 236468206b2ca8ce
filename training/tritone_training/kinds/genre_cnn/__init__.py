"""`genre_cnn`: a recording's genre, emotions and embedding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_training.kind import Companion, ModelKind
from tritone_training.kinds.genre_cnn.config import PRESETS, PRETRAINED_CHANGES, suggest
from tritone_training.kinds.genre_cnn.declaration import DECLARATION, FILE, PCM16
from tritone_training.kinds.genre_cnn.evaluate import PCM16_QUALITY, QUALITY, evaluate, pcm16
from tritone_training.kinds.genre_cnn.export import exportable, pretrained_exportable
from tritone_training.kinds.genre_cnn.train import crossvalidate, prepare, train_prepared


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return windows of chords over noise: (n_batch, 66150) float32, peaks below 1."""
    random = np.random.default_rng(seed)
    time_s = np.arange(WINDOW_SAMPLES) / SAMPLE_RATE_HZ
    windows = []
    for _ in range(n_batch):
        pitches_hz = 110 * 2 ** (random.integers(0, 36, 4) / 12)
        chord = np.sin(2 * np.pi * pitches_hz[:, None] * time_s).sum(0) * np.exp(-time_s * random.uniform(0, 2))
        windows.append(0.15 * chord + 0.02 * random.standard_normal(WINDOW_SAMPLES))
    return {"audio": np.stack(windows).astype(np.float32)}


def pcm16_example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return the windows of `example_inputs` as 16-bit integers: (n_batch, 66150) int16."""
    return {"audio": pcm16(example_inputs(n_batch, seed)["audio"])}


KIND = ModelKind(
    name="genre_cnn",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    pretrained_changes=PRETRAINED_CHANGES,
    reader=prepare,
    trainer=lambda request, config, data: train_prepared(request, config, data).summary,
    evaluator=evaluate,
    cross_validator=crossvalidate,
    score="accuracy",
    suggest=suggest,
    options=frozenset({"data", "devices", "report", "fold", "pretrained", "warm_start"}),
    exporter=exportable,
    pretrained_exporter=pretrained_exportable,
    example_inputs=example_inputs,
    companions=(Companion(PCM16, pcm16_example_inputs, PCM16_QUALITY),),
    data_models=(FILE,),
    quality=QUALITY,
)
