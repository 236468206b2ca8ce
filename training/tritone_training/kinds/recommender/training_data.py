"""The data of a training: the listening log and the embedded recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tritone_training.data.interactions import ListeningData, ReadingWorkers, load_listening
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.engines import Engine, check_engine, open_engine
from tritone_training.kinds.recommender.fitting.recording_embeddings import (
    RecordingEmbeddings,
    embed_recordings,
)
from tritone_training.progress import print_line


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data that is read once for all folds and trials.

    Attributes:
        reading: what the engine used that read the log; None if this process did.
    """

    listening: ListeningData
    sounds: RecordingEmbeddings | None
    reading: Mapping[str, Any] | None = None


def prepare(request: TrainRequest) -> TrainingData:
    """Read the log and embed the recordings.

    Raises:
        EngineError: the engine of the request cannot be used.
    """
    check_engine(request)
    reading: dict[str, Any] = {}
    listening, sounds = load_listening(request, _workers(request, reading)), embed_recordings(request)
    if sounds is not None:
        recordings = {"n_used": len(sounds.items), "n_in_log": len(set(sounds.items) & set(listening.train.items))}
        parts = {**listening.report["parts"], "recordings": recordings}
        listening = replace(listening, report={**listening.report, "parts": parts})
    return TrainingData(listening, sounds, reading or None)


def _workers(request: TrainRequest, used: dict[str, Any]) -> ReadingWorkers | None:
    """Return the workers that may read the log; None if this process has to.

    Args:
        used: what the engine used is added, if they read it.
    """
    # On one computer this process is faster: its database uses all cores, and sends nothing.
    if request.read == "driver" or (request.read is None and request.engine in (None, "local")):
        return None

    @contextmanager
    def opened() -> Iterator[Engine]:
        with open_engine(replace(request, progress=False)) as engine:
            print_line(f"engine: {engine.name}, {engine.n_workers} workers read the log", shown=request.progress)
            yield engine
            used.update(engine.describe())

    return ReadingWorkers(opened, is_required=request.read == "workers")
