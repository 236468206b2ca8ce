"""Inputs and outputs of `music_vae` (encoder) and `music_vae_decoder`."""

from __future__ import annotations

from typing import Final

from tritone.constants import LARGEST_AMOUNT
from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone_training.bars.tensors import (
    LARGEST_LATENT,
    LATENT,
    SAMPLED_VOICES,
    SAMPLING,
    STEP,
    VOICE,
    VOICES_TEXT,
)
from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor
from tritone_training.musicality import ATTRIBUTES

KIND_NAME: Final = "music_vae"

VOICES: Final = Tensor(
    "voices", "INT64", (STEP, VOICE), VOICES_TEXT, limits=Limits(minimum=0, maximum=N_VOICE_VALUES - 1)
)

DECLARATION: Final = Declaration(
    name=KIND_NAME,
    summary="Encodes two bars of music as a point in a latent space.",
    inputs=(VOICES,),
    outputs=(
        Tensor("mean", "FP32", (LATENT,), "mean of the posterior; the `latent` of `music_vae_decoder`"),
        Tensor("log_variance", "FP32", (LATENT,), "natural logarithm of the variance of the posterior, approximately"),
    ),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=500),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=256),
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
    ),
    parameters={"span_frames": str(SPAN_FRAMES), "n_voices": str(N_VOICES), "frames_per_quarter": "4"},
)

DECODER: Final = Declaration(
    name="music_vae_decoder",
    summary="Decodes a point in the latent space of music_vae, moved along attributes, to two bars of music.",
    inputs=(
        Tensor(
            "latent",
            "FP32",
            (LATENT,),
            "a `mean` of music_vae, a point between several, or standard normal numbers",
            limits=Limits(minimum=-LARGEST_LATENT, maximum=LARGEST_LATENT),
        ),
        Tensor(
            "attributes",
            "FP32",
            (Axis("attribute", len(ATTRIBUTES)),),
            f"change of {', '.join(ATTRIBUTES)}, in standard deviations of the training set; 0 changes nothing",
            limits=Limits(minimum=-LARGEST_AMOUNT, maximum=LARGEST_AMOUNT),
        ),
        *SAMPLING,
    ),
    outputs=(SAMPLED_VOICES,),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(4, 8, 16), max_queue_delay_microseconds=2_000),
        queue=QueuePolicy(default_timeout_microseconds=10_000_000, max_queue_size=256),
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
    ),
    parameters={
        **DECLARATION.parameters,
        "attributes": ",".join(ATTRIBUTES),
        # Samples from nothing; chosen on validation. The other operations take the most likely notes by default.
        "default_temperature": "0.25",
        "sample_candidates": "8",
    },
)
