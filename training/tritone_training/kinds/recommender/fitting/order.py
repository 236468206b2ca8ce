"""Fitting of the base models of the order of listening, and the stored order of each user.

Shapes: U users, I items, N events of all users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.artifact import SEQUENCE, SEQUENCE_TIMES, rows_arrays
from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_by_work

if TYPE_CHECKING:  # the workers of an engine do without pandas
    from tritone_training.data.interactions import UserSequences
    from tritone_training.kinds.recommender.config import RecommenderConfig

MOST_STORED: Final = 100  # latest events of a user in the artifact
_MOST_STEPS: Final = 50_000_000  # pairs of events that are counted; a large log gets a shorter window
_STEPS_OF_TASK: Final = 4_000_000  # pairs of a part of the users


def stored_order(sequences: UserSequences, n_users: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the artifact with the latest events of each user."""
    counts = np.diff(sequences.starts(n_users))
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(sequences))
    latest = sequences.take(from_end <= MOST_STORED)
    rows = Rows(latest.starts(n_users), latest.item.astype(np.int32), latest.skipped.astype(np.float32))
    arrays = rows_arrays(SEQUENCE, rows)
    if latest.time is not None:
        arrays[SEQUENCE_TIMES] = np.maximum(latest.time, 0)
    return arrays


def transition_table(
    sequences: UserSequences, n_items: int, config: RecommenderConfig, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return how much more often an item follows another one than others of its popularity (I, I).

    A pair of listens counts less the more listens are between them, and in reverse order `transition_backward` times
    as much. Counts are divided by (all that follows the first) ** (1 - d) and (all that the second follows) ** d with
    d = `transition_damping`.
    """
    listens = sequences.take(~sequences.skipped)
    window = max(1, min(config.transition_window, _MOST_STEPS // max(len(listens), 1)))
    counts = _steps(listens, n_items, window, config.transition_gap_decay, engine=engine)
    counts = sparse.csr_matrix(counts + config.transition_backward * counts.T)
    return _shares(counts, config.transition_shrinkage, config.n_neighbours, config.transition_damping)


def markov_table(
    sequences: UserSequences, n_items: int, config: RecommenderConfig, engine: Engine = IN_PROCESS
) -> sparse.csr_matrix:
    """Return the probability of each next item, shrunk for rare items (I, I)."""
    listens = sequences.take(~sequences.skipped)
    return _shares(_steps(listens, n_items, 1, 1.0, engine=engine), config.transition_shrinkage, config.n_neighbours)


def _steps(listens: UserSequences, n_items: int, window: int, gap_decay: float, *, engine: Engine) -> sparse.csr_matrix:
    """Return the weighted number of times that one item came at most `window` listens before another (I, I).

    It is the sum over parts of the users, in double precision and in their order.
    """
    n_users = int(listens.user[-1]) + 1 if len(listens) else 0
    starts = listens.starts(n_users)

    def cut(users: slice) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        events = slice(int(starts[users.start]), int(starts[users.stop]))
        return listens.user[events], listens.item[events]

    total = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    parts = Parts(blocks_by_work(np.diff(starts) * window, _STEPS_OF_TASK), cut)
    with engine.share((n_items, window, gap_decay)) as settings:
        for each in engine.map(_steps_of, parts, settings):
            total += each
    return sparse.csr_matrix(total, dtype=np.float32)


def _steps_of(part: tuple[npt.NDArray[Any], npt.NDArray[Any]], settings: tuple[int, int, float]) -> sparse.csr_matrix:
    """Return the weighted counts (I, I) of some of the users, given by user and item of their listens in order."""
    user, item = part
    n_items, window, gap_decay = settings
    total = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    for gap in range(1, min(window, len(user) - 1) + 1):
        same = (user[gap:] == user[:-gap]) & (item[gap:] != item[:-gap])
        weights = np.full(int(same.sum()), gap_decay ** (gap - 1))
        total += sparse.csr_matrix((weights, (item[:-gap][same], item[gap:][same])), shape=total.shape)
    return sparse.csr_matrix(total)


def _shares(counts: sparse.csr_matrix, shrink: float, n_most: int, damping: float = 0.0) -> sparse.csr_matrix:
    """Return the counts divided by powers of the sums of their row and column, each row cut to its largest entries."""
    rows, columns = (np.asarray(counts.sum(axis)).ravel() + shrink for axis in (1, 0))
    shares = counts.astype(np.float32, copy=True)
    scale = np.repeat(rows ** (1 - damping), np.diff(shares.indptr)) * columns[shares.indices] ** damping
    shares.data /= np.maximum(scale, 1e-9).astype(np.float32)
    for row in np.flatnonzero(np.diff(shares.indptr) > n_most).tolist():
        values = shares.data[shares.indptr[row] : shares.indptr[row + 1]]
        values[np.argpartition(-values, n_most - 1)[n_most:]] = 0
    shares.eliminate_zeros()
    shares.sort_indices()
    return shares
