"""What the command line and scripts use of the training package."""

from tritone_training.exceptions import CheckpointError, DataError, TrainingError, UnknownKindError
from tritone_training.kind import EvaluateRequest, ListeningFiles, ModelKind, TrainRequest
from tritone_training.registry import get_kind, kind_names

__all__ = [
    "CheckpointError",
    "DataError",
    "EvaluateRequest",
    "ListeningFiles",
    "ModelKind",
    "TrainRequest",
    "TrainingError",
    "UnknownKindError",
    "get_kind",
    "kind_names",
]
