"""The names of the training package that the command line and scripts use."""

from tritone_training.exceptions import (
    CheckpointError,
    DataError,
    HyperparameterError,
    TrainingError,
    UnknownKindError,
    UnsupportedOptionError,
)
from tritone_training.kind import EvaluateRequest, ListeningFiles, ModelKind, TrainRequest
from tritone_training.registry import get_kind, kind_names

__all__ = [
    "CheckpointError",
    "DataError",
    "EvaluateRequest",
    "HyperparameterError",
    "ListeningFiles",
    "ModelKind",
    "TrainRequest",
    "TrainingError",
    "UnknownKindError",
    "UnsupportedOptionError",
    "get_kind",
    "kind_names",
]
