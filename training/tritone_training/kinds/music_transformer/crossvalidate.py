"""Cross-validation is not available: scores have splits, not folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """Not available.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(
        f"music_transformer learns from splits (train, valid, test), not from folds; train it with "
        f"`tritone train music_transformer --out {request.out}` and a few values of --seed, "
        f"and compare them with `tritone evaluate music_transformer --split valid`"
    )
