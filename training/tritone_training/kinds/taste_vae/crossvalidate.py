"""Cross-validation of `taste_vae`, which is available only as part of `recommender`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.taste_vae.export import KIND_NAME


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """Raise an error that names the alternatives.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(
        f"{KIND_NAME} is cross-validated with the other base models: use `tritone crossvalidate recommender`, or "
        f"`tritone train {KIND_NAME} --seed N` for several seeds"
    )
