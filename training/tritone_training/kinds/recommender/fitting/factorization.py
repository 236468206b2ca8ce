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
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine, Shared
from tritone_training.kinds.recommender.engines.parts import blocks_by_work

_SWEEPS: Final = 10
_MOST_ENTRIES: Final = 250_000  # of a part of the rows, about a second; a row counts as _ROW_WORK more
_ROW_WORK: Final = 20
_INITIAL_NORM: Final = 0.1
OnProgress = Callable[[int, int], None]


def item_factors(
    listened: sparse.csr_matrix,
    *,
    size: int,
    unobserved: float,
    l2: float,
    on_progress: OnProgress,
    engine: Engine = IN_PROCESS,
) -> npt.NDArray[np.float32]:
    """Return the factors of the items (I, D), 0 for items without listeners.

    Args:
        listened: (U, I) 1 where a user listened to an item.
        size: D.
        unobserved: weight of each pair of user and item, listened to or not.
        l2: regularisation, see `FactorSolver`.
        on_progress: called with the number of finished sweeps and of all sweeps.
        engine: solves parts of the users and of the items.
    """
    by_user, by_item = Rows.from_csr(listened), Rows.from_csr(sparse.csr_matrix(listened.T))
    random = np.random.default_rng(0)
    items = random.standard_normal((listened.shape[1], size)).astype(np.float32) * np.float32(_INITIAL_NORM / size**0.5)
    with engine.share(by_user) as users_shared, engine.share(by_item) as items_shared:
        for sweep in range(_SWEEPS):
            users = _solved(FactorSolver.of(items, unobserved=unobserved, l2=l2), by_user, users_shared, engine)
            items = _solved(FactorSolver.of(users, unobserved=unobserved, l2=l2), by_item, items_shared, engine)
            on_progress(sweep + 1, _SWEEPS)
    return items


def _solved(solver: FactorSolver, rows: Rows, shared_rows: Shared[Rows], engine: Engine) -> npt.NDArray[np.float32]:
    """Return the factors of all rows (R, D)."""
    found = np.empty((rows.n_rows, solver.factors.shape[1]), np.float32)
    blocks = blocks_by_work(rows.counts + _ROW_WORK, _MOST_ENTRIES)
    with engine.share(solver) as shared:
        for block, factors in zip(blocks, engine.map(_solve_rows, blocks, shared_rows, shared), strict=True):
            found[block] = factors
    return found


def _solve_rows(block: slice, rows: Rows, solver: FactorSolver) -> npt.NDArray[np.float32]:
    return solver.solve(rows.take(np.arange(block.start, block.stop)))
