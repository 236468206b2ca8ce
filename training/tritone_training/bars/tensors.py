"""Tensors that the two-bar models share, and example values of them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone.sampling import uniform_noise
from tritone_training.declaration import TEMPERATURE_LIMITS, TOP_K_LIMITS, TOP_P_LIMITS, UNIFORM, Axis, Tensor

STEP: Final = Axis("step", SPAN_FRAMES)
VOICE: Final = Axis("voice", N_VOICES)

# The same for every training, so that clients and other models can rely on it.
N_LATENT: Final = 193  # the level, and 6 for each quarter of each voice

LARGEST_LATENT: Final = 100.0  # in standard deviations of the prior; encoded music stays below 10
LATENT: Final = Axis("latent", N_LATENT)
VOICES_TEXT: Final = (
    "two bars of 4/4 in sixteenths, four voices from the highest down; 0 rest, 1 hold, 2..89 strike 21..108"
)

# The sampled voices: whole numbers, and equal to PyTorch's or the export fails.
SAMPLED_VOICES: Final = Tensor("voices", "INT64", (STEP, VOICE), VOICES_TEXT, tolerance=0.0)

NOISE: Final = Tensor(
    "noise", "FP32", (STEP, VOICE), "uniform random numbers; equal noise gives equal notes", limits=UNIFORM
)

TEMPERATURE: Final = Tensor(
    "temperature",
    "FP32",
    (),
    "sampling temperature; below 1 is more conservative, above 1 more random",
    limits=TEMPERATURE_LIMITS,
)

TOP_K: Final = Tensor(
    "top_k", "INT64", (), "sample from the k most likely values of a voice only; 90 keeps all", limits=TOP_K_LIMITS
)

TOP_P: Final = Tensor(
    "top_p",
    "FP32",
    (),
    "sample from the most likely values whose probabilities add up to p; 1 keeps all",
    limits=TOP_P_LIMITS,
)

SAMPLING: Final = (NOISE, TEMPERATURE, TOP_K, TOP_P)


def sampling_example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return noise and sampling parameters for spans; the first row samples without restrictions."""
    random = np.random.default_rng(seed)
    temperature = np.concatenate([[1.0], random.uniform(0.5, 1.5, n_batch - 1)])
    top_p = np.concatenate([[1.0], random.uniform(0.5, 1.0, n_batch - 1)])
    return {
        "noise": uniform_noise(seed, n_batch, SPAN_FRAMES, N_VOICES),
        "temperature": temperature.astype(np.float32),
        "top_k": np.concatenate([[N_VOICE_VALUES], random.integers(1, N_VOICE_VALUES, n_batch - 1)]),
        "top_p": top_p.astype(np.float32),
    }
