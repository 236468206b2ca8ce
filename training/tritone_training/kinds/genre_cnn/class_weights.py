"""Class weights in the loss of `genre_cnn`, for imbalanced data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

NONE: Final = "none"
BALANCED: Final = "balanced"
ClassWeights: TypeAlias = str | Mapping[str, float]


def check_class_weights(value: object) -> ClassWeights:
    """Return the value if it is `none`, `balanced` or a mapping from labels to positive numbers.

    Raises:
        ValueError: it is something else.
    """
    if value in (NONE, BALANCED):
        return str(value)
    weights = dict(value) if isinstance(value, Mapping) else {}
    if weights and all(isinstance(label, str) and _is_weight(weight) for label, weight in weights.items()):
        return {label: float(weight) for label, weight in weights.items()}
    raise ValueError(
        f"expected none, balanced, or a mapping from labels to numbers above 0 such as {{'jazz': 2.0}}, got {value!r}"
    )


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
