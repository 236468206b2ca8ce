"""Selection of the similarity metric of user-kNN and of the ensemble's weights on the validation split.

Weights for short and empty histories are fitted on the same users with most of their history hidden. Weights for items
without listeners are fitted on held-out listens to such items if there are enough. Otherwise they are fitted on a fifth
of the other items, which are scored by content only, as if they had no listeners.
Shapes: B users, I items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_serving.recommender.base_models.user_based import UserKnn
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.ensemble import BIAS, SEGMENTS, SESSION
from tritone_serving.recommender.rows import Rows
from tritone_training.data.interactions import ListeningData, Log, held_out_counts
from tritone_training.exceptions import DataError
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine, Shared
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_of
from tritone_training.kinds.recommender.ensemble.cross_fitting import (
    cross_fitted,
    ensemble_or_best_base_model,
    metrics_of,
)
from tritone_training.kinds.recommender.ensemble.offline import AT_ONCE, RemoteNetworks, remote_scores
from tritone_training.kinds.recommender.ensemble.sessions import (
    SessionQueries,
    fit_without_order,
    session_queries,
    without_events,
)
from tritone_training.kinds.recommender.ensemble.weight_fitting import (
    MAY_BE_NEGATIVE,
    Candidates,
    Collector,
    EnsembleWeights,
    HiddenItems,
    fit_cold_item_weights,
    fit_weights,
    is_cold,
    ranking_metrics,
    scales_of,
)
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset

UNORDERED: Final = "unordered"  # arm without the base models of the order of listening
METRICS: Final = ("cosine", "pearson", "euclidean")
_BATCHES_BY_TASK: Final = 8  # a worker unpacks the recommender for each task
_LONGEST_SHORT: Final = 5  # items of a history that is cut
_METRIC_USERS: Final = 500  # users on whom the metric is selected
_LEAST_COLD_LISTENS: Final = 30  # held-out listens to cold items needed to fit their weights
# Weights of base models that cannot be fitted, because logs do not contain requests with a recording or a mood.
_FIXED_WEIGHTS: Final[Mapping[str, float]] = {"sound": 2.0, "mood": 0.5}
NOTHING_LEARNED: Final = {"a": {"warm_from": 1, "weights": {segment: {} for segment in SEGMENTS}}}
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class SelectedEnsemble:
    """Metric and weights selected on the validation split.

    Attributes:
        metric: similarity metric of user-kNN.
        scales: base model -> unit of its scores.
        ensembles: arm -> ensemble as in the manifest.
        metrics: metrics of the ensemble and the base models on the validation split.
        how: how these metrics were measured.
    """

    metric: str
    scales: Mapping[str, float]
    ensembles: Mapping[str, Mapping[str, Any]]
    metrics: dict[str, Any]
    how: str


def select_ensemble(
    recommender: Recommender,
    networks: RemoteNetworks,
    listening: ListeningData,
    dataset: InteractionDataset,
    config: RecommenderConfig,
    *,
    seed: int,
    on_progress: OnProgress,
    engine: Engine = IN_PROCESS,
) -> SelectedEnsemble:
    """Fit the ensemble on the users with held-out listens, who are scored in parts by the engine.

    Raises:
        DataError: there are none.
    """
    rng = np.random.default_rng(seed)
    counts = held_out_counts(listening.valid, dataset.users)
    users = np.flatnonzero(counts)
    if not len(users):
        raise DataError(f"{listening.valid.source}: no user of the log has held-out listens; give another --valid")
    # Sorted by id, because the order of pseudonyms depends on the key and equal seeds should draw equal samples.
    users = users[np.argsort(np.array(dataset.users)[users])]
    if len(users) > config.most_validation_users:
        users = users[np.sort(rng.choice(len(users), config.most_validation_users, replace=False))]
    indices = {name: index for index, name in enumerate(dataset.items)}
    wanted = listening.valid.matrix({dataset.users[user]: row for row, user in enumerate(users.tolist())}, indices)
    consumed = sparse.csr_matrix(dataset.plays[users])
    request_times_s = _request_times_s(listening.valid)
    requests = [
        RecommendRequest(user=name, at_s=request_times_s.get(name))
        for name in (dataset.users[user] for user in users.tolist())
    ]
    batches = [recommender.resolver.batch(requests[a : a + AT_ONCE])[0] for a in range(0, len(users), AT_ONCE)]
    metric = _metric(recommender, batches[: -(-_METRIC_USERS // AT_ONCE)], consumed, wanted, counts[users])
    base_models = recommender.scorer.base_models
    if "user_knn" in base_models:
        base_models = {**base_models, "user_knn": _with_metric(base_models["user_knn"], metric)}
    recommender = Recommender(recommender.artifact, recommender.resolver, base_models)
    sessions = session_queries(recommender, listening.valid, [dataset.users[user] for user in users.tolist()])
    total, done = 3 * len(batches) + -(-len(sessions) // AT_ONCE), 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    hidden = HiddenItems.draw(recommender, seed)
    with engine.share(_ValidationInputs(recommender, networks, consumed, wanted, counts[users], hidden)) as shared:
        validation = _ValidationData(recommender, networks, batches, hidden, count, engine, shared)
        fitted = _fit_segments(validation, sessions, rng)
    return SelectedEnsemble(
        metric,
        {name: fitted.scales.get(name, 0.0) for name in recommender.scorer.base_models},
        fitted.ensembles(config.warm_from, tuple(recommender.scorer.base_models)),
        {
            **fitted.metrics,
            "n": len(users),
            "cold_items": {segment: how for segment, (_, how) in fitted.cold.items()},
        },
        "`ensemble` is measured on the listens its weights were fitted on; `cross_fitted` fits them on one half of the "
        "users and evaluates on the other",
    )


@dataclass(frozen=True, eq=False)
class _ValidationInputs:
    """Data that every task of the validation reads.

    Attributes:
        recommender: with the selected metric.
        networks: of the remote base models.
        consumed: (B, I) listens of the training split.
        wanted: (B, I) held-out listens.
        n_held_out: (B,) number of held-out listens, including unknown items.
        hidden: items that are scored as if nobody listened to them.
    """

    recommender: Recommender
    networks: RemoteNetworks
    consumed: sparse.csr_matrix
    wanted: sparse.csr_matrix
    n_held_out: npt.NDArray[np.int64]
    hidden: HiddenItems | None


@dataclass(frozen=True, eq=False)
class _ValidationData:
    """Requests of the users with held-out listens, and the engine that scores them.

    Attributes:
        recommender: with the selected metric.
        networks: of the remote base models.
        batches: requests of the users.
        hidden: items that are scored as if nobody listened to them.
        on_batch: called after each batch.
        engine: scores parts of the batches.
        shared: what it scores them with.
    """

    recommender: Recommender
    networks: RemoteNetworks
    batches: Sequence[RequestBatch]
    hidden: HiddenItems | None
    on_batch: Callable[[], None]
    engine: Engine
    shared: Shared[_ValidationInputs]

    def collect(self, change: Callable[[RequestBatch], RequestBatch]) -> tuple[Candidates, Candidates | None]:
        """Return the candidates for changed requests, and those among which the hidden items are cold."""
        # Changed here and in order, since a change may be drawn.
        parts = Parts(
            blocks_of(len(self.batches), _BATCHES_BY_TASK),
            lambda some: [(n * AT_ONCE, change(self.batches[n])) for n in range(some.start, some.stop)],
        )
        collected: list[Candidates] = []
        hidden: list[Candidates] = []
        for some, (found, of_hidden) in zip(parts.blocks, self.engine.map(_collect, parts, self.shared), strict=True):
            collected.append(found)
            if of_hidden is not None:
                hidden.append(of_hidden)
            for _ in range(some.start, some.stop):
                self.on_batch()
        return Candidates.joined(collected), Candidates.joined(hidden) if hidden else None


def _collect(
    batches: Sequence[tuple[int, RequestBatch]], data: _ValidationInputs
) -> tuple[Candidates, Candidates | None]:
    """Return the candidates of some batches, given with the numbers of their first users."""
    collector = Collector(data.consumed, data.wanted, data.n_held_out, is_cold(data.recommender))
    of_hidden = None if data.hidden is None else data.hidden.collector(data.consumed, data.wanted, data.n_held_out)
    scorer = data.recommender.scorer
    for first, batch in batches:
        rows = slice(first, first + batch.n)
        scores = scorer.score_base_models(batch, remote_scores(scorer.remote_inputs(batch), data.networks))
        collector.add(rows, scores)
        if data.hidden is not None and of_hidden is not None:
            of_hidden.add(rows, data.hidden.scores(scores))
    return collector.finish(), None if of_hidden is None else of_hidden.finish()


@dataclass(frozen=True, eq=False)
class _FittedSegments:
    """Weights by segment.

    Attributes:
        scales: base model -> unit of its scores.
        learned: weights of all base models.
        unordered: weights without the base models of the order of listening; empty if there are none of these.
        cold: weights for cold items, and a description of the data they were fitted on.
        metrics: on the validation split.
    """

    scales: Mapping[str, float]
    learned: Mapping[str, EnsembleWeights]
    unordered: Mapping[str, Mapping[str, float]]
    cold: Mapping[str, tuple[Mapping[str, float], str]]
    metrics: dict[str, Any]

    def ensembles(self, warm_from: int, base_models: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the ensembles of the manifest by arm."""
        weights = {segment: dict(each.listened) for segment, each in self.learned.items()}
        weights["cold"]["popularity"] = max(weights["cold"].get("popularity", 0.0), 0.1)
        minimum = {
            segment: {name: weight * share for name, weight in _FIXED_WEIGHTS.items() if name in base_models}
            for segment, share in (("cold", 1.0), ("short", 0.25), ("warm", 0.25), (SESSION, 0.25))
            if segment in weights
        }
        even = {s: {name: 1.0 if w > 0 else 0.0 for name, w in each.items()} for s, each in weights.items()}
        cold = {segment: dict(found) for segment, (found, _) in self.cold.items()}
        common = {"warm_from": warm_from, "minimum_weights": minimum}
        found = {
            "a": {**common, "weights": weights, "cold_items": cold, "how": "learned on validation"},
            "b": {**common, "weights": even, "how": "equal weights, for comparison"},
        }
        if self.unordered:
            unordered = {segment: dict(each) for segment, each in self.unordered.items()}
            unordered["cold"]["popularity"] = max(unordered["cold"].get("popularity", 0.0), 0.1)
            found[UNORDERED] = {
                **common,
                "weights": unordered,
                "cold_items": {
                    segment: {name: w for name, w in each.items() if name in (*unordered[segment], BIAS)}
                    for segment, each in cold.items()
                },
                "how": "learned on validation without the base models of the order of listening, for comparison",
            }
        return found


def _fit_segments(validation: _ValidationData, sessions: SessionQueries, rng: np.random.Generator) -> _FittedSegments:
    """Fit the weights of all segments; `unordered` and sessions only if there are queries of sessions."""
    recommender, hidden = validation.recommender, validation.hidden
    warm, of_hidden = validation.collect(lambda batch: batch)
    scales = scales_of(warm)
    crossed = cross_fitted(warm, scales)
    learned = {"warm": ensemble_or_best_base_model(warm, fit_weights(warm, tuple(warm.features), scales), crossed)}
    metrics = {**metrics_of(warm, learned["warm"], scales), "cross_fitted": crossed}
    unordered = {"warm": fit_without_order(recommender, warm, scales)} if len(sessions) else {}
    least = least_popularity(recommender.artifact.arrays)
    cold: dict[str, tuple[Mapping[str, float], str]] = {}
    cold["warm"] = _cold_item_weights(learned["warm"], warm, of_hidden, hidden, scales, least_known=least)
    del warm, of_hidden
    for segment, change, may_be_negative in (
        ("short", lambda batch: _shortened(batch, rng), MAY_BE_NEGATIVE),
        # Users without any history get popular items, so the weight of popularity must be above 0.
        ("cold", lambda batch: _without_history(batch, recommender), (BIAS,)),
    ):
        candidates, of_hidden = validation.collect(change)
        learned[segment] = fit_weights(candidates, tuple(candidates.features), scales, may_be_negative)
        if segment == "short":
            learned[segment] = ensemble_or_best_base_model(
                candidates, learned[segment], cross_fitted(candidates, scales)
            )
        if unordered:
            unordered[segment] = fit_without_order(recommender, candidates, scales, may_be_negative)
        cold[segment] = _cold_item_weights(learned[segment], candidates, of_hidden, hidden, scales, least_known=least)
        del candidates, of_hidden
    if len(sessions):
        found = sessions.fit(recommender, validation.networks, scales, rng, on_batch=validation.on_batch)
        learned[SESSION], unordered[SESSION] = found.learned, found.unordered
        cold[SESSION] = (cold["warm"][0], "as warm")
        metrics["sessions"] = found.metrics
    return _FittedSegments(scales, learned, unordered, cold, metrics)


def with_bounded_bias(
    ensembles: Mapping[str, Mapping[str, Any]], *, least_before: float, least_known: float
) -> dict[str, dict[str, Any]]:
    """Return ensembles for base models fitted on more listens than those that the weights were selected on.

    In a larger log the least popular item has a lower popularity, and so has the limit of the bias of new items, see
    `_cold_item_weights`.

    Args:
        ensembles: arm -> ensemble as in the manifest.
        least_before: popularity of the least popular item in the log of the selection.
        least_known: the same in the larger log.
    """
    found = {}
    for arm, described in ensembles.items():
        cold = {segment: dict(table) for segment, table in described.get("cold_items", {}).items()}
        for segment, table in cold.items():
            popularity = described["weights"][segment].get("popularity", 0.0)
            if table.get(BIAS, 0.0) <= _largest_bias(popularity, least_before):
                table[BIAS] = min(table.get(BIAS, 0.0), _largest_bias(popularity, least_known))
        found[arm] = {**described, **({"cold_items": cold} if cold else {})}
    return found


def _largest_bias(popularity: float, least_known: float) -> float:
    return math.floor(popularity * least_known * 1e4) / 1e4  # weights have four digits


def _request_times_s(held_out: Log) -> dict[str, float]:
    """Return the time of each user's first held-out listen, by raw id; empty if the log has no times."""
    if held_out.time is None:
        return {}
    first = np.full(len(held_out.users), np.inf)
    np.minimum.at(first, held_out.user, held_out.time)
    return {name: float(at_s) for name, at_s in zip(held_out.users, first, strict=True) if 0 < at_s < np.inf}


def least_popularity(arrays: Mapping[str, npt.NDArray[Any]]) -> float:
    """Return the popularity of the least popular item with listeners, from the arrays of an artifact."""
    shares = arrays["popularity.shares"]
    return float(shares[shares > 0].min(initial=1.0)) if shares.any() else 0.0


def _cold_item_weights(
    learned: EnsembleWeights,
    candidates: Candidates,
    of_hidden: Candidates | None,
    hidden: HiddenItems | None,
    scales: Mapping[str, float],
    *,
    least_known: float,
) -> tuple[dict[str, float], str]:
    """Return the weights for cold items, and a description of the data they were fitted on.

    Hidden items are as popular as others, unlike new items, so a bias fitted on them would rank every new item above
    popular items. It is therefore limited to the contribution of popularity for the least popular item.
    """
    n_shown = int((candidates.wanted & candidates.cold).sum())
    orders = any(weight > 0 for name, weight in learned.cold.items() if name != BIAS)
    if hidden is None or of_hidden is None or (n_shown >= _LEAST_COLD_LISTENS and orders):
        return dict(learned.cold), f"{n_shown} held-out listens to cold items"
    found = fit_cold_item_weights(of_hidden, hidden.content, learned.listened, scales)
    if found is None:
        return dict(learned.cold), f"{n_shown} held-out listens to cold items"
    found[BIAS] = min(found[BIAS], _largest_bias(learned.listened.get("popularity", 0.0), least_known))
    n_hidden = int((of_hidden.wanted & of_hidden.cold).sum())
    return {**dict.fromkeys(learned.cold, 0.0), **found}, f"{n_hidden} held-out listens to items that were hidden"


def _metric(
    recommender: Recommender,
    batches: Sequence[RequestBatch],
    consumed: sparse.csr_matrix,
    wanted: sparse.csr_matrix,
    counts: npt.NDArray[np.int64],
) -> str:
    """Return the similarity metric of user-kNN with the best NDCG@10 + recall@40 / 2."""
    base_model = recommender.scorer.base_models.get("user_knn")
    if base_model is None:
        return METRICS[0]
    n = sum(batch.n for batch in batches)
    found = {}
    for metric in METRICS:
        collector = Collector(consumed[:n], wanted[:n], counts[:n], is_cold(recommender))
        for number, batch in enumerate(batches):
            rows = slice(number * AT_ONCE, number * AT_ONCE + batch.n)
            collector.add(rows, {"user_knn": _with_metric(base_model, metric).score(batch)})
        candidates = collector.finish()
        metrics = ranking_metrics(candidates, candidates.features["user_knn"])
        found[metric] = metrics["ndcg@10"] + metrics["recall@40"] / 2
    return max(found, key=lambda name: found[name])


def _with_metric(base_model: Any, metric: str) -> UserKnn:
    if not isinstance(base_model, UserKnn):
        raise TypeError(f"user_knn is a {type(base_model).__name__}")
    return replace(base_model, metric=metric)


def _shortened(batch: RequestBatch, rng: np.random.Generator) -> RequestBatch:
    """Return the batch with each history reduced to 1 to 5 random items."""
    columns, values = [], []
    for row in range(batch.n):
        items, weights = batch.history.row(row)
        n = min(int(rng.integers(1, _LONGEST_SHORT + 1)), len(items))
        kept = np.sort(rng.permutation(len(items))[:n])
        columns.append(items[kept])
        values.append(weights[kept])
    rows = Rows.from_lists(columns, values)
    sequences = batch.sequences
    if sequences is not None:
        left = [np.isin(sequences.items[row], items) for row, items in enumerate(columns)]
        sequences = without_events(sequences, np.array(left, np.bool_).reshape(sequences.items.shape))
    return replace(batch, history=rows, consumed=rows, sequences=sequences, memo={})


def _without_history(batch: RequestBatch, recommender: Recommender) -> RequestBatch:
    """Return the batch with empty histories; friends are kept."""
    nothing = Rows.from_lists([np.zeros(0, np.int64)] * batch.n, [np.zeros(0, np.float32)] * batch.n)
    history, borrowed = recommender.resolver.borrow(nothing, batch.friends)
    sequences = batch.sequences
    if sequences is not None:
        sequences = without_events(sequences, np.zeros(sequences.items.shape, np.bool_))
    return replace(batch, history=history, consumed=nothing, borrowed=borrowed, sequences=sequences, memo={})
