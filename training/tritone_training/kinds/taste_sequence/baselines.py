"""Baselines of next-item recommendation, fitted on the same histories as the network gets.

Shapes: U users, T items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import sparse

from tritone_training.exceptions import DataError
from tritone_training.kinds.taste_sequence.sequence_data import EventArrays

Scores = npt.NDArray[np.float32]
Baseline = Callable[[EventArrays, npt.NDArray[np.int64], int], Scores]
MOST_ITEMS: Final = 20_000  # tables of items by items are dense here
_EASE_L2: Final = 100.0
_MARKOV_SMOOTHING: Final = 20.0  # transitions of the popularity distribution that are added to those of each item
MOST_PLAYED: Final = "most_played"  # ranks the user's own items, which the others leave out


def popularity(histories: EventArrays, users: npt.NDArray[np.int64], n_items: int) -> Scores:
    """Return the number of listeners of each item (users, T)."""
    listeners = np.bincount(histories.item[histories.is_new], minlength=n_items)
    return np.tile(listeners.astype(np.float32), (len(users), 1))


def most_played(histories: EventArrays, users: npt.NDArray[np.int64], n_items: int) -> Scores:
    """Return how often each user played each item (users, T), -inf for items without plays."""
    plays = np.asarray(histories.listened(n_items)[users].todense(), np.float32)
    plays[plays == 0] = -np.inf
    return plays


def item_knn(histories: EventArrays, users: npt.NDArray[np.int64], n_items: int) -> Scores:
    """Return the cosine similarity of each item's listeners to those of the user's last item (users, T)."""
    listeners = _binary(histories, n_items)
    norms = np.sqrt(np.maximum(np.asarray(listeners.sum(0)).ravel(), 1))
    scaled = sparse.csr_matrix(listeners @ sparse.diags_array(1 / norms))
    last = _last_items(histories)[users]
    rows = np.asarray((scaled[:, np.maximum(last, 0)].T @ scaled).todense(), np.float32)
    rows[last < 0] = 0
    return rows + 1e-6 * popularity(histories, users, n_items)  # for items without a common listener


def markov(histories: EventArrays, users: npt.NDArray[np.int64], n_items: int) -> Scores:
    """Return the smoothed probability that each item follows the user's last item (users, T)."""
    events = np.flatnonzero(~histories.skipped)
    user = histories.user_of_events()[events]
    item = histories.item[events]
    same = user[1:] == user[:-1]
    counts = sparse.csr_matrix(
        (np.ones(int(same.sum()), np.float32), (item[:-1][same], item[1:][same])), shape=(n_items, n_items)
    )
    share = np.bincount(item, minlength=n_items) / max(len(item), 1)
    last = _last_items(histories)[users]
    rows = np.asarray(counts[np.maximum(last, 0)].todense(), np.float32)
    rows[last < 0] = 0
    scores: Scores = ((rows + _MARKOV_SMOOTHING * share) / (rows.sum(1, keepdims=True) + _MARKOV_SMOOTHING)).astype(
        np.float32
    )
    return scores


def ease(histories: EventArrays, users: npt.NDArray[np.int64], n_items: int) -> Scores:
    """Return the scores of EASE (Steck 2019, arXiv:1905.03375), which ignores order (users, T)."""
    listened = _binary(histories, n_items)
    gram = np.asarray((listened.T @ listened).todense(), np.float32)
    gram[np.diag_indices(n_items)] += np.float32(_EASE_L2)
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.asarray(listened[users] @ weights, np.float32)


BASELINES: Final[Mapping[str, Baseline]] = {
    "popularity": popularity,
    MOST_PLAYED: most_played,
    "item_knn": item_knn,
    "markov": markov,
    "ease": ease,
}


def check_size(n_items: int) -> None:
    """Check that tables of items by items fit into memory.

    Raises:
        DataError: the catalogue is too large.
    """
    if n_items > MOST_ITEMS:
        raise DataError(
            f"--baselines: expected at most {MOST_ITEMS:,} items, whose tables fit into memory, got {n_items:,}; leave "
            f"--baselines out"
        )


def _binary(histories: EventArrays, n_items: int) -> sparse.csr_matrix:
    listened = histories.listened(n_items)
    listened.data[:] = 1
    return listened


def _last_items(histories: EventArrays) -> npt.NDArray[np.int64]:
    """Return the last item that each user listened to (U,), -1 for none."""
    found = np.full(histories.n_users, -1, np.int64)
    for user, (start, end) in enumerate(histories.spans()):
        listened = np.flatnonzero(~histories.skipped[start:end])
        if len(listened):
            found[user] = histories.item[start + listened[-1]]
    return found
