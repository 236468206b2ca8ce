"""Sessions for the selection of weights: what users listened to next, given all that they listened to before.

Shapes: Q queries, B queries of a batch, I items, L events of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.event_sequences import PADDING, UNKNOWN_AGE, SequenceBatch
from tritone_serving.recommender.remote_kinds import ORDERED_KINDS
from tritone_serving.recommender.rows import Rows
from tritone_training.data.interactions import Log
from tritone_training.kinds.recommender.ensemble.cross_fitting import (
    cross_fitted,
    ensemble_or_best_base_model,
    metrics_of,
)
from tritone_training.kinds.recommender.ensemble.offline import AT_ONCE, RemoteNetworks, remote_scores
from tritone_training.kinds.recommender.ensemble.weight_fitting import (
    MAY_BE_NEGATIVE,
    Candidates,
    Collector,
    EnsembleWeights,
    fit_weights,
    is_cold,
)

_MOST_QUERIES: Final = 10  # of one user
_MOST_IN_ALL: Final = 8_000
_LONGEST_SESSION: Final = 20  # listens of a history that is cut


@dataclass(frozen=True, eq=False)
class SessionQueries:
    """Histories and the item that followed each.

    Attributes:
        requests: (Q,) of stored users, with what they listened to between the training split and the target.
        users: (Q,) number of the user of each query, ascending.
        targets: (Q,) index of the next item.
    """

    requests: Sequence[RecommendRequest]
    users: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.requests)

    def wanted(self, n_items: int) -> sparse.csr_matrix:
        """Return 1 at the target of each query (Q, I)."""
        return sparse.csr_matrix(
            (np.ones(len(self), np.float32), (np.arange(len(self)), self.targets)), shape=(len(self), n_items)
        )

    def fit(
        self,
        recommender: Recommender,
        networks: RemoteNetworks,
        scales: Mapping[str, float],
        rng: np.random.Generator,
        *,
        on_batch: Callable[[], None],
    ) -> FittedSessions:
        """Fit the ensemble's weights for sessions.

        Args:
            recommender: its base models score the queries.
            networks: of the remote base models.
            scales: unit of each base model's scores.
            rng: draws which histories are cut.
            on_batch: called after each batch.
        """
        n_items = recommender.artifact.n_items
        starts = range(0, len(self), AT_ONCE)
        batches = [recommender.resolver.batch(self.requests[start : start + AT_ONCE])[0] for start in starts]
        listened = sparse.csr_matrix(sparse.vstack([each.consumed.to_csr(n_items) for each in batches]))
        collector = Collector(listened, self.wanted(n_items), np.ones(len(self), np.int64), is_cold(recommender))
        for start, batch in zip(starts, batches, strict=True):
            changed = as_sessions(batch, rng)
            remote = remote_scores(recommender.scorer.remote_inputs(changed), networks)
            collector.add(slice(start, start + batch.n), recommender.scorer.score_base_models(changed, remote))
            on_batch()
        candidates = collector.finish()
        crossed = cross_fitted(candidates, scales, self.users)
        learned = ensemble_or_best_base_model(
            candidates, fit_weights(candidates, tuple(candidates.features), scales), crossed
        )
        return FittedSessions(
            learned,
            fit_without_order(recommender, candidates, scales),
            {**metrics_of(candidates, learned, scales), "cross_fitted": crossed, "n": len(self)},
        )


@dataclass(frozen=True, eq=False)
class FittedSessions:
    """Weights for sessions.

    Attributes:
        learned: weights of all base models.
        unordered: weights for items with listeners, without the base models of the order of listening.
        metrics: of the ensemble and the base models on the queries.
    """

    learned: EnsembleWeights
    unordered: dict[str, float]
    metrics: dict[str, Any]


def fit_without_order(
    recommender: Recommender,
    candidates: Candidates,
    scales: Mapping[str, float],
    may_be_negative: Sequence[str] = MAY_BE_NEGATIVE,
) -> dict[str, float]:
    """Return the weights for items with listeners, fitted without the base models of the order of listening."""
    described = recommender.artifact.manifest["base_models"]
    names = tuple(name for name in candidates.features if described[name].get("kind") not in ORDERED_KINDS)
    return fit_weights(candidates, names, scales, may_be_negative).listened


def session_queries(recommender: Recommender, held_out: Log, users: Sequence[str]) -> SessionQueries:
    """Return up to 10 queries for each user, fewer if there are over 800 users, in order of time.

    Held-out items that are not known are left out.

    Args:
        recommender: without base models of the order of listening there are no queries.
        held_out: held-out listens with their order.
        users: raw ids of the users to query.
    """
    items = {name: index for index, name in enumerate(recommender.item_ids)}
    if not any(each.get("kind") in ORDERED_KINDS for each in recommender.artifact.manifest["base_models"].values()):
        users = ()
    most = max(1, min(_MOST_QUERIES, _MOST_IN_ALL // max(len(users), 1)))
    requests: list[RecommendRequest] = []
    numbers: list[int] = []
    targets: list[int] = []
    if held_out.sequences is not None:
        listens = held_out.sequences.take(~held_out.sequences.skipped)
        starts = listens.starts(len(held_out.users))
        rows = {name: row for row, name in enumerate(held_out.users)}
        for number, name in enumerate(users):
            row = rows.get(name)
            if row is None:
                continue
            span = slice(int(starts[row]), int(starts[row + 1]))
            names = [held_out.items[item] for item in listens.item[span].tolist()]
            times = [0.0] * len(names) if listens.time is None else listens.time[span].tolist()
            seen: dict[str, float] = {}
            for item, at_s in zip(names, times, strict=True):
                if item in seen or item not in items:
                    continue
                if len(seen) == most:
                    break
                requests.append(
                    RecommendRequest(
                        user=name, history=list(seen), times=list(seen.values()), at_s=at_s if at_s > 0 else None
                    )
                )
                numbers.append(number)
                targets.append(items[item])
                seen[item] = at_s
    return SessionQueries(requests, np.array(numbers, np.int64), np.array(targets, np.int64))


def as_sessions(batch: RequestBatch, rng: np.random.Generator) -> RequestBatch:
    """Return the batch with half of the histories reduced to their latest 1 to 20 listens."""
    if batch.sequences is None:
        return batch
    keeps = np.where(
        rng.random(batch.n) < 0.5, rng.integers(1, _LONGEST_SESSION + 1, batch.n), batch.sequences.items.size
    )
    kept = (batch.sequences.items != PADDING) & (batch.sequences.distances < keeps[:, None])
    return with_histories_of(batch, kept, keeps < batch.sequences.items.size)


def with_histories_of(batch: RequestBatch, kept: npt.NDArray[np.bool_], cut: npt.NDArray[np.bool_]) -> RequestBatch:
    """Return the batch with some events left out of the sequences, and histories of the items that are left.

    Args:
        batch: with sequences.
        kept: (B, L) which events to keep.
        cut: (B,) which histories to change.
    """
    sequences = batch.sequences
    assert sequences is not None  # noqa: S101 - see `batch`
    kept = kept | ~cut[:, None]
    columns, values, consumed = [], [], []
    for row in range(batch.n):
        items, weights = batch.history.row(row)
        listened = batch.consumed.row(row)[0]
        if cut[row]:
            left = sequences.items[row, kept[row]]
            inside = np.isin(items, left)
            items, weights = items[inside], weights[inside]
            listened = listened[np.isin(listened, left)]
        columns.append(items)
        values.append(weights)
        consumed.append(listened)
    ones = [np.ones(len(each), np.float32) for each in consumed]
    return replace(
        batch,
        history=Rows.from_lists(columns, values),
        consumed=Rows.from_lists(consumed, ones),
        sequences=without_events(sequences, kept),
        memo={},
    )


def without_events(sequences: SequenceBatch, kept: npt.NDArray[np.bool_]) -> SequenceBatch:
    """Return sequences without some of their events (B, L)."""
    kept = np.logical_and(kept, sequences.items != PADDING)
    order = np.argsort(~kept, axis=1, kind="stable")
    left = np.asarray(np.take_along_axis(kept, order, 1), np.bool_)
    items, ages, skipped = (
        np.take_along_axis(each, order, 1) for each in (sequences.items, sequences.ages, sequences.skipped)
    )
    return SequenceBatch(
        np.where(left, items, PADDING), np.where(left, ages, np.float32(UNKNOWN_AGE)), np.logical_and(skipped, left)
    )
