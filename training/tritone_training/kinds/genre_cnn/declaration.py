"""Inputs and outputs of `genre_cnn`, of its companion for 16-bit samples, and of the model that decodes files."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tritone.constants import (
    CLASSIFIER_PARAMETER,
    EMBEDDING_SIZE,
    EMOTIONS,
    FILE_MODEL_PARAMETER,
    LARGEST_SAMPLE,
    MAX_RECORDING_BYTES_PARAMETER,
    PCM16_MODEL_PARAMETER,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
)
from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor

KIND_NAME: Final = "genre_cnn"
PCM16_NAME: Final = "genre_cnn_pcm16"
FILE_NAME: Final = "genre_cnn_file"
FILE_MANIFEST: Final = "recordings.json"

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
        FILE_MODEL_PARAMETER: FILE_NAME,
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


_WINDOW: Final = Axis("window")
# Decodes a file, cuts it into windows and passes them to the classifier; one recording in a request.
FILE: Final = Declaration(
    name=FILE_NAME,
    summary=f"Decodes a recording that is sent as a file, and classifies it with {KIND_NAME}.",
    inputs=(
        Tensor("recording", "BYTES", (Axis("one", 1),), "the bytes of an Ogg, FLAC, MP3, WAV or other audio file"),
    ),
    outputs=(
        Tensor("probabilities", "FP32", (_WINDOW, Axis("label")), "of each window, one probability per label"),
        Tensor("mean_probabilities", "FP32", (Axis("label"),), "mean over the windows"),
        Tensor("emotions", "FP32", (_WINDOW, Axis("emotion", len(EMOTIONS))), f"of each window, as of {KIND_NAME}"),
        Tensor("mean_emotions", "FP32", (Axis("emotion", len(EMOTIONS)),), "mean over the windows"),
        Tensor("embedding", "FP32", (Axis("feature", EMBEDDING_SIZE),), "mean direction, L2-normalised"),
        Tensor("start_s", "FP32", (_WINDOW,), "start of each window of 3 s; the last one ends with the recording"),
        Tensor("duration_s", "FP32", (Axis("one", 1),), "length of the recording"),
        Tensor("notes", "BYTES", (Axis("one", 1),), "remarks on the recording, one in a line; empty if there are none"),
    ),
    serving=Serving(
        batching=Batching(max_batch_size=1, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=30_000_000, max_queue_size=64),
        # Two, so that a recording that takes long to decode does not hold up all others.
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(),
    ),
    parameters={
        CLASSIFIER_PARAMETER: KIND_NAME,
        MAX_RECORDING_BYTES_PARAMETER: str(32 << 20),
        "max_recording_s": "1200",
        "max_decode_s": "5",  # of processor time
        "sample_rate_hz": str(SAMPLE_RATE_HZ),
        "window_samples": str(WINDOW_SAMPLES),
    },
    backend="recordings",
    filename=FILE_MANIFEST,
)
FILE_TAGS: Final = (
    Tensor("tags", "FP32", (_WINDOW, Axis("tag")), "of each window, as of the classifier"),
    Tensor("mean_tags", "FP32", (Axis("tag"),), "mean over the windows"),
)
