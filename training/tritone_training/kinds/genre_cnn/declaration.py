"""Inputs and outputs of `genre_cnn` and of its companion for 16-bit samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tritone.constants import (
    EMBEDDING_SIZE,
    EMOTIONS,
    LARGEST_SAMPLE,
    PCM16_MODEL_PARAMETER,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
)
from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor

KIND_NAME: Final = "genre_cnn"
PCM16_NAME: Final = "genre_cnn_pcm16"

LABEL_FILE: Final = "labels.txt"
EMOTION_FILE: Final = "emotions.txt"
TAG_FILE: Final = "tags.txt"

AUDIO: Final = Tensor(
    "audio",
    "FP32",
    (Axis("sample", WINDOW_SAMPLES),),
    "3 s of mono PCM at 22,050 Hz, -1..1; a recording is a batch of such windows",
    # Floating-point mixes may exceed full scale; audio more than 36 dB above it was not scaled to -1..1.
    limits=Limits(minimum=-LARGEST_SAMPLE, maximum=LARGEST_SAMPLE),
)
PCM16_AUDIO: Final = replace(
    AUDIO, dtype="INT16", description=f"{AUDIO.description}, as 16-bit integers: full scale is 32768", limits=None
)
PROBABILITIES: Final = Tensor(
    "probabilities", "FP32", (Axis("label"),), "one probability per label, sums to 1", label_file=LABEL_FILE
)
EMOTION_FRACTIONS: Final = Tensor(
    "emotions",
    "FP32",
    (Axis("emotion", len(EMOTIONS)),),
    "fraction of listeners who would feel each emotion (GEMS-9); all -1 if not trained on emotions",
    label_file=EMOTION_FILE,
)
EMBEDDING: Final = Tensor("embedding", "FP32", (Axis("feature", EMBEDDING_SIZE),), "L2-normalised")
TAGS: Final = Tensor(
    "tags",
    "FP32",
    (Axis("tag"),),
    "activation 0..1 of each tag that the pretrained backbone knows",
    label_file=TAG_FILE,
)

DECLARATION: Final = Declaration(
    name=KIND_NAME,
    summary="Tags a recording with a genre and nine emotions, and embeds it.",
    inputs=(AUDIO,),
    outputs=(PROBABILITIES, EMOTION_FRACTIONS, EMBEDDING),
    serving=Serving(
        # On a CPU a batch of 8 windows takes nearly as long as 8 windows, so waiting for company gains nothing.
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        gpu_batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=500),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=256),
        # Two, which share the cores while both compute: one copies while the other computes, and with one alone
        # Triton's batcher stalls under a queue limit (lint says when). The spectrogram of 8 windows fits the caches; 32
        # at once take 1.3 times as long (`python -m benchmarks.front_end`).
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=0, max_rows_per_run=8),
    ),
    parameters={
        "sample_rate_hz": str(SAMPLE_RATE_HZ),
        "window_samples": str(WINDOW_SAMPLES),
        PCM16_MODEL_PARAMETER: PCM16_NAME,
    },
)
# The same network for callers that send half the bytes: a model of its own, because Triton fixes the type of an input.
PCM16: Final = replace(
    DECLARATION,
    name=PCM16_NAME,
    summary=f"{KIND_NAME} for samples as 16-bit integers.",
    inputs=(PCM16_AUDIO,),
    parameters={"sample_rate_hz": str(SAMPLE_RATE_HZ), "window_samples": str(WINDOW_SAMPLES)},
)


def with_tags(declaration: Declaration) -> Declaration:
    """Return the declaration for a backbone that brings tags of its own, which are served too."""
    return replace(declaration, outputs=(*declaration.outputs, TAGS))
