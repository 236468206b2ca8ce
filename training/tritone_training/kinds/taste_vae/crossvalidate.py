"""`taste_vae` is cross-validated as a base model of the recommender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.taste_vae.build import KIND_NAME


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """Say what to use instead.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(
        f"{KIND_NAME} is evaluated beside the other base models: use `tritone crossvalidate recommender`, or "
        f"`tritone train {KIND_NAME} --seed N` for several seeds"
    )
