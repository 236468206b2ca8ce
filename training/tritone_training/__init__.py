"""Data sets, training and evaluation of Tritone's models.

```python
from tritone_training import load, train

checkpoint = train("genre_cnn", data="my_music", out="runs/mine", preset="demo")
print(checkpoint.metrics["test"]["accuracy"])
model = load(checkpoint)
print(model.classify("song.mp3").label)
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritone_training.data.interactions.files import ListeningFiles
    from tritone_training.evaluation import CrossValidationResult, EvaluationResult, SummaryTable, TuningResult
    from tritone_training.exceptions import (
        CheckpointError,
        DataError,
        HyperparameterError,
        PretrainedWeightsError,
        TrainingError,
        UnknownKindError,
        UnsupportedOptionError,
    )
    from tritone_training.kind import EvaluateRequest, ModelKind, TrainRequest
    from tritone_training.listening_test import (
        HarmonizationTestResult,
        ListeningTestResult,
        harmonization_test,
        listening_test_of_files,
        listening_test_of_model,
    )
    from tritone_training.local_model import LocalModel, load
    from tritone_training.python_api import train
    from tritone_training.registry import get_kind, kind_names
    from tritone_training.trained_checkpoint import TrainedCheckpoint

# Module of each public name. Imported when first used, because `tritone --help` and publishing do not need PyTorch.
_MODULES = {
    "CheckpointError": "exceptions",
    "CrossValidationResult": "evaluation",
    "DataError": "exceptions",
    "EvaluateRequest": "kind",
    "EvaluationResult": "evaluation",
    "HarmonizationTestResult": "listening_test",
    "HyperparameterError": "exceptions",
    "ListeningFiles": "data.interactions.files",
    "ListeningTestResult": "listening_test",
    "LocalModel": "local_model",
    "ModelKind": "kind",
    "PretrainedWeightsError": "exceptions",
    "SummaryTable": "evaluation",
    "TrainRequest": "kind",
    "TrainedCheckpoint": "trained_checkpoint",
    "TrainingError": "exceptions",
    "TuningResult": "evaluation",
    "UnknownKindError": "exceptions",
    "UnsupportedOptionError": "exceptions",
    "get_kind": "registry",
    "harmonization_test": "listening_test",
    "kind_names": "registry",
    "listening_test_of_files": "listening_test",
    "listening_test_of_model": "listening_test",
    "load": "local_model",
    "train": "python_api",
}

__all__ = [
    "CheckpointError",
    "CrossValidationResult",
    "DataError",
    "EvaluateRequest",
    "EvaluationResult",
    "HarmonizationTestResult",
    "HyperparameterError",
    "ListeningFiles",
    "ListeningTestResult",
    "LocalModel",
    "ModelKind",
    "PretrainedWeightsError",
    "SummaryTable",
    "TrainRequest",
    "TrainedCheckpoint",
    "TrainingError",
    "TuningResult",
    "UnknownKindError",
    "UnsupportedOptionError",
    "get_kind",
    "harmonization_test",
    "kind_names",
    "listening_test_of_files",
    "listening_test_of_model",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
