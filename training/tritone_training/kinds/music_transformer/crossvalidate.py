"""Scores come in portions, not in folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training._exceptions import TrainingError
from tritone_training.kind import TrainRequest


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """There is no such thing here.

    Raises:
        TrainingError: always, with what to do instead.
    """
    raise TrainingError(
        f"music_transformer learns from portions (train, valid, test), not from folds; train it with "
        f"`tritone train music_transformer --out {request.out}` and a few values of --seed, "
        f"and compare them with `tritone evaluate music_transformer --split valid`"
    )
