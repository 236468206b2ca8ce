"""Inputs and outputs of `polyphony_rnn` and its sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tritone.music.grid import LOWEST_PITCH, MAX_FRAMES, N_PITCHES
from tritone_training.declaration import (
    GRID,
    TEMPERATURE_LIMITS,
    TOP_K_LIMITS,
    TOP_P_LIMITS,
    UNIFORM,
    Axis,
    Batching,
    Declaration,
    Instances,
    QueuePolicy,
    Serving,
    Tensor,
)
from tritone_training.steering_tensors import steering_parameters, steering_tensors

KIND_NAME: Final = "polyphony_rnn"

# Frames of the embedded corpus and of MIDI files are eighths. At sixteenths most frames repeat the one before,
# and so would what is sampled. Files with a grid of their own (.mat, .json) keep it.
FRAMES_PER_QUARTER: Final = 2

_PITCH: Final = Axis("pitch", N_PITCHES)
# With the default preset one thread takes 1.8 s for 16,384 frames of one piece, and less for the same number of frames
# in several pieces. The sampler's prompt is additional.
_FRAME: Final = Axis("frame", max_size=MAX_FRAMES, max_total=MAX_FRAMES)
_PROMPT_FRAME: Final = Axis("prompt_frame", max_size=4_096, max_total=8_192)

FRAMES: Final = Tensor(
    "frames",
    "UINT8",
    (_FRAME, _PITCH),
    "one row per frame, MIDI pitches 21..108; 0 is silent, 1 and 2 sound",
    limits=GRID,
)
NLL: Final = Tensor(
    "nll",
    "FP32",
    (Axis("frame"),),
    "negative log-likelihood of each frame given those before it, in nats, notes taken independently",
    tolerance=1e-3,
)
PROBABILITIES: Final = Tensor(
    "probabilities", "FP32", (Axis("frame"), _PITCH), "probability that a pitch sounds in the next frame"
)
PROMPT: Final = Tensor(
    "prompt",
    "UINT8",
    (_PROMPT_FRAME, _PITCH),
    "the frames to continue, as `frames`; silence alone to compose from scratch",
    limits=GRID,
)
NOISE: Final = Tensor(
    "noise",
    "FP32",
    (_FRAME, _PITCH),
    "uniform random numbers, a row for each frame to generate; equal noise gives equal notes",
    limits=UNIFORM,
)
TEMPERATURE: Final = Tensor(
    "temperature",
    "FP32",
    (),
    "sampling temperature; below 1 is more conservative, above 1 more random",
    limits=TEMPERATURE_LIMITS,
)
TOP_K: Final = Tensor(
    "top_k",
    "INT64",
    (),
    "the next note of a frame is one of the k most probable; 89 allows all",
    limits=TOP_K_LIMITS,
)
TOP_P: Final = Tensor(
    "top_p",
    "FP32",
    (),
    "the next note of a frame is one of the most probable that together have this probability",
    limits=TOP_P_LIMITS,
)
WRITTEN: Final = Tensor(
    "frames", "UINT8", (Axis("frame"), _PITCH), "the frames after the prompt; 0 silent, 1 held, 2 struck", tolerance=0.0
)

_PARAMETERS: Final = {"frames_per_quarter": str(FRAMES_PER_QUARTER), "lowest_pitch": str(LOWEST_PITCH)}

DECLARATION: Final = Declaration(
    name=KIND_NAME,
    summary="Predicts each frame of a piece from those before it: its likelihood, and the notes expected next.",
    inputs=(FRAMES,),
    outputs=(NLL, PROBABILITIES),
    serving=Serving(
        batching=Batching(max_batch_size=32, preferred_batch_sizes=(4, 8, 16), max_queue_delay_microseconds=1_000),
        queue=QueuePolicy(default_timeout_microseconds=60_000_000, max_queue_size=128),
        # A loop of small steps: more threads, or a GPU, would wait for each other most of the time. Two copies, because
        # Triton 2.51 holds up requests that are sent together where a model has limits and one instance.
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
    ),
    parameters=_PARAMETERS,
)
SAMPLER: Final = Declaration(
    name="polyphony_rnn_sampler",
    summary="Composes or continues a piece, in one call, by as many frames as `noise` has rows.",
    inputs=(PROMPT, *steering_tensors(_FRAME), NOISE, TEMPERATURE, TOP_K, TOP_P),
    outputs=(WRITTEN,),
    serving=DECLARATION.serving,
    parameters={**_PARAMETERS, **steering_parameters(styles=())},
)
# Of a checkpoint of an earlier version.
UNSTEERED_SAMPLER: Final = replace(SAMPLER, inputs=(PROMPT, NOISE, TEMPERATURE, TOP_K, TOP_P), parameters=_PARAMETERS)
