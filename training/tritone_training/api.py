"""The names of the training package that the command line and scripts use."""

from tritone_training.evaluation import CrossValidationResult, EvaluationResult, Table, TuningResult
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
    "CrossValidationResult",
    "DataError",
    "EvaluateRequest",
    "EvaluationResult",
    "HyperparameterError",
    "ListeningFiles",
    "ModelKind",
    "Table",
    "TrainRequest",
    "TrainingError",
    "TuningResult",
    "UnknownKindError",
    "UnsupportedOptionError",
    "get_kind",
    "kind_names",
]
