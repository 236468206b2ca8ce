"""`music_vae` is not cross-validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.music_vae.declaration import KIND_NAME


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """Not available: scores have splits, not folds.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(
        f"{KIND_NAME} has no folds: scores come in splits; use `tritone train {KIND_NAME} --seed N` for several "
        f"seeds and `tritone evaluate {KIND_NAME} --split valid`"
    )
