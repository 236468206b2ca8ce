"""Class weights in the loss of `genre_cnn`, for imbalanced data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor

from tritone_training._exceptions import TrainingError

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


def label_weights(given: ClassWeights, learned_from: Sequence[str], labels: Sequence[str]) -> Tensor | None:
    """Return the weight of each label, (L,), or None if all count the same.

    `balanced` weighs a label by n / (L x its recordings), as scikit-learn does; labels that a mapping does not name
    weigh 1.

    Args:
        given: see `check_class_weights`.
        learned_from: label of each recording that is trained on.
        labels: the L labels in the order of the network's outputs.

    Raises:
        TrainingError: the mapping names a label that is not in the data.
    """
    if isinstance(given, str):
        if given == NONE:
            return None
        counts = Counter(learned_from)
        return torch.tensor([len(learned_from) / (len(labels) * max(counts[label], 1)) for label in labels])
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise TrainingError(
            f"class_weights names {unknown[0]!r}; expected labels of the data, which are: {', '.join(labels)}"
        )
    return torch.tensor([float(given.get(label, 1.0)) for label in labels])


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
