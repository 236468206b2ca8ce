"""Outputs of a recording from those of its windows.

Shapes: N windows, E embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def mean_direction(embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the unit vector in the direction of the mean of unit vectors: (N, E) -> (E,); zeros if the mean is 0."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    direction: npt.NDArray[np.float32] = (mean / length if length > 0 else mean).astype(np.float32)
    return direction
