"""The training package's errors."""

from __future__ import annotations

from tritone import TritoneError


class TrainingError(TritoneError):
    """Base class of the errors of training, data loading and evaluation."""


class HyperparameterError(TrainingError):
    """Hyper-parameters are unknown, of another type, or out of bounds.

    Attributes:
        fields: names of the invalid fields; an empty name stands for a combination of fields.
    """

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class UnsupportedOptionError(TrainingError):
    """The model kind does not take some of the given options.

    Attributes:
        options: their names.
    """

    def __init__(self, message: str, *, options: tuple[str, ...]) -> None:
        super().__init__(message)
        self.options = options


class DataError(TrainingError):
    """The data are missing, malformed or too few."""


class CheckpointError(TrainingError):
    """The checkpoint folder is missing, incomplete, or of another kind or version."""


class UnknownKindError(TrainingError):
    """No model kind of that name is registered."""


class PretrainedWeightsError(TrainingError):
    """Pretrained weights cannot be fetched or read, or differ from the expected ones."""


class EngineError(TrainingError):
    """An execution engine of a fit cannot be used, or lost its workers."""


class ProcessGroupError(TrainingError):
    """The processes of a training cannot continue together; the state of the last complete epoch is kept."""


class OtherProcessError(ProcessGroupError):
    """Another process of the same training failed; that process reports the cause."""
