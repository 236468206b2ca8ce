"""Class weights in the loss of `genre_cnn`, for imbalanced data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

from tritone_training.exceptions import TrainingError

NONE: Final = "none"
BALANCED: Final = "balanced"
ClassWeights: TypeAlias = str | Mapping[str, float]


def check_class_weights(value: object) -> None:
    """Check that a value is `none`, `balanced` or a mapping from labels to positive numbers.

    Raises:
        TrainingError: it is something else.
    """
    if value in (NONE, BALANCED):
        return
    weights: Mapping[object, object] = value if isinstance(value, Mapping) else {}
    if weights and all(isinstance(label, str) and _is_weight(weight) for label, weight in weights.items()):
        return
    raise TrainingError(
        f"class_weights is {value!r}; expected none, balanced, or a mapping from labels to numbers above 0 such as "
        f"{{'jazz': 2.0}}"
    )


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
