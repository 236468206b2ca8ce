"""The training package's errors."""

from __future__ import annotations

from tritone import TritoneError


class TrainingError(TritoneError):
    """Root of what training, data loading and evaluation raise on purpose."""


class DataError(TrainingError):
    """The data cannot be used as asked: missing, malformed, or too little of it is left."""


class CheckpointError(TrainingError):
    """The checkpoint folder is missing, incomplete, or of another kind or version."""


class UnknownKindError(TrainingError):
    """No model kind of that name is registered."""


class MissingExtraError(TrainingError):
    """A feature needs packages that an extra installs."""


class PretrainedWeightsError(TrainingError):
    """Pretrained weights cannot be fetched or read, or are not what they should be."""
