"""Inputs and outputs of `music_gan`."""

from __future__ import annotations

from typing import Final

from tritone.constants import LARGEST_DENSITY
from tritone.music.voices import N_VOICES, SPAN_FRAMES
from tritone_training.bars.tensors import N_LATENT, SAMPLED_VOICES, SAMPLING
from tritone_training.declaration import (
    UNIFORM,
    Axis,
    Batching,
    Declaration,
    Instances,
    Limits,
    QueuePolicy,
    Serving,
    Tensor,
)

KIND_NAME: Final = "music_gan"

N_CHOICES: Final = 3  # the mode, the density and the style, where the caller leaves them open
N_LATENT_NOISE: Final = N_CHOICES + N_LATENT + N_LATENT % 2  # normal numbers come in pairs

DECLARATION: Final = Declaration(
    name=KIND_NAME,
    summary="Generates two bars of music from noise, optionally in a given key, mode and density.",
    inputs=(
        Tensor(
            "latent_noise",
            "FP32",
            (Axis("latent_noise", N_LATENT_NOISE),),
            "uniform random numbers; the first three choose the conditions that are left open, the others the music",
            limits=UNIFORM,
        ),
        Tensor(
            "truncation",
            "FP32",
            (),
            "scale of the latent noise; smaller values give more typical and less varied music",
            limits=Limits(minimum=0, exclusive_minimum=True, maximum=1),
        ),
        Tensor(
            "key",
            "INT64",
            (),
            "tonic, 0 (C) to 11 (B), to which the music is transposed; -1: any",
            limits=Limits(minimum=-1, maximum=11),
        ),
        Tensor("mode", "INT64", (), "0 major, 1 minor; -1 any", limits=Limits(minimum=-1, maximum=1)),
        Tensor(
            "density",
            "FP32",
            (),
            "note onsets per quarter, rounded to the nearest learned value; -1: any",
            limits=Limits(minimum=0, exclusive_minimum=True, maximum=LARGEST_DENSITY, also=(-1,)),
        ),
        *SAMPLING,
    ),
    outputs=(SAMPLED_VOICES,),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(4, 8, 16), max_queue_delay_microseconds=2_000),
        queue=QueuePolicy(default_timeout_microseconds=10_000_000, max_queue_size=256),
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
    ),
    parameters={"span_frames": str(SPAN_FRAMES), "n_voices": str(N_VOICES), "frames_per_quarter": "4"},
)
