"""Comparison of a refitted recommender with the previous one on listens that neither was fitted on.

Shapes: B users, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_training.data.interactions import Log, held_out_counts
from tritone_training.kinds.recommender.ensemble.offline import RemoteNetworks, score_in_chunks
from tritone_training.ranking_metrics import hits_of, per_user, top_items

METRIC: Final = "ndcg@10"
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Comparison:
    """NDCG@10 of two recommenders on the same listens.

    Attributes:
        before: of the previous one, which was given the new events as a history.
        after: of the refitted one.
        standard_error: of the mean difference over users.
        n_users: users with such listens.
        n_listens: number of the listens.
    """

    before: float
    after: float
    standard_error: float
    n_users: int
    n_listens: int

    def is_worse(self, max_loss: float) -> bool:
        """Return whether the refit loses more than `max_loss` (relative), beyond one standard error."""
        loss = self.before - self.after
        return loss > max_loss * self.before and loss > self.standard_error

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(
    before: tuple[Recommender, RemoteNetworks],
    after: tuple[Recommender, RemoteNetworks],
    train: Log,
    valid: Log,
    *,
    most_users: int,
    seed: int,
    on_progress: OnProgress,
) -> Comparison:
    """Rank all items for the users with held-out listens, and compare.

    Args:
        before: the previous recommender and its networks.
        after: the refitted one, fitted on `train`.
        train: what users listened to before.
        valid: the held-out listens.
        most_users: of more users, a sample is used.
        seed: of the sample.
        on_progress: called with the number of users ranked and of all.
    """
    counts = held_out_counts(valid, valid.users)
    users = np.flatnonzero(counts)
    if len(users) > most_users:
        users = np.sort(np.random.default_rng(seed).choice(users, most_users, replace=False))
    names = [valid.users[user] for user in users.tolist()]
    total = 2 * len(names)
    values = []
    for start, (recommender, networks) in ((0, before), (len(names), after)):
        chunks = _ndcg(recommender, networks, train, valid, names=names, n_held_out=counts[users])
        found = []
        for each in chunks:
            found.append(each)
            on_progress(start + sum(map(len, found)), total)
        values.append(np.concatenate(found))
    difference = values[1] - values[0]
    error = float(difference.std(ddof=1) / np.sqrt(len(names))) if len(names) > 1 else float("inf")
    return Comparison(float(values[0].mean()), float(values[1].mean()), error, len(names), int(counts[users].sum()))


def _ndcg(
    recommender: Recommender,
    networks: RemoteNetworks,
    train: Log,
    valid: Log,
    *,
    names: Sequence[str],
    n_held_out: npt.NDArray[np.int64],
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield NDCG@10 of the users, chunk by chunk; held-out items that the recommender does not know are missed."""
    items = {name: index for index, name in enumerate(recommender.item_ids)}
    rows = {name: row for row, name in enumerate(names)}
    consumed, wanted = train.matrix(rows, items), valid.matrix(rows, items)
    history = recommender.artifact.rows("history")
    requests = []
    for row, name in enumerate(names):
        listened = consumed.indices[consumed.indptr[row] : consumed.indptr[row + 1]]
        plays = consumed.data[consumed.indptr[row] : consumed.indptr[row + 1]]
        user = recommender.resolver.user(name)
        new = ~np.isin(listened, history.row(user)[0]) if user >= 0 else np.ones(len(listened), np.bool_)
        ids = [recommender.item_ids[item] for item in listened[new].tolist()]
        weights = plays[new] if ids else None
        requests.append(RecommendRequest(user=name if user >= 0 else None, history=ids, weights=weights))
    for chunk, _, ensemble in score_in_chunks(recommender, networks, requests):
        best = top_items(ensemble, consumed[chunk], k=10)
        yield per_user(hits_of(best, wanted[chunk]), n_held_out[chunk], cuts=(10,))[METRIC]
