"""Fit of the matrix factorization by alternating least squares.

Shapes: U users, I items, D factors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.base_models.factorization import FactorSolver
from tritone_serving.recommender.rows import Rows

_SWEEPS: Final = 10
_INITIAL_NORM: Final = 0.1
OnProgress = Callable[[int, int], None]


def item_factors(
    listened: sparse.csr_matrix, *, size: int, unobserved: float, l2: float, on_progress: OnProgress
) -> npt.NDArray[np.float32]:
    """Return the factors of the items (I, D), 0 for items without listeners.

    Args:
        listened: (U, I) 1 where a user listened to an item.
        size: D.
        unobserved: weight of each pair of user and item, listened to or not.
        l2: regularisation, see `FactorSolver`.
        on_progress: called with the number of finished sweeps and of all sweeps.
    """
    by_user, by_item = Rows.from_csr(listened), Rows.from_csr(sparse.csr_matrix(listened.T))
    random = np.random.default_rng(0)
    items = random.standard_normal((listened.shape[1], size)).astype(np.float32) * np.float32(_INITIAL_NORM / size**0.5)
    for sweep in range(_SWEEPS):
        users = FactorSolver.of(items, unobserved=unobserved, l2=l2).solve(by_user)
        items = FactorSolver.of(users, unobserved=unobserved, l2=l2).solve(by_item)
        on_progress(sweep + 1, _SWEEPS)
    return items
