"""Evaluation on what listeners listened to next: the next item, and the items of the next day.

Protocol: each request is the ordered history of a listener, with times where they are known, and no user id. All items
are ranked except those of the history. The target is the next item that is new to the listener. If several items of a
listener are held out, each of the first 10 new ones is a target, with all that the listener played before it as the
history. For the next day, the targets are all new items within 24 hours of the first one. Held-out items outside the
catalogue count as missed.
Shapes: B requests, I items, K largest cutoff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_serving.recommender.base_models.remote import RemoteBaseModel
from tritone_serving.recommender.remote_kinds import ORDERED_KINDS
from tritone_training.data.interactions import Log
from tritone_training.evaluation import SummaryTable
from tritone_training.kinds.recommender.ensemble.model_selection import UNORDERED
from tritone_training.kinds.recommender.ensemble.offline import AT_ONCE, RemoteNetworks, remote_scores
from tritone_training.kinds.recommender.ensemble.sessions import with_histories_of
from tritone_training.ranking_metrics import hits_of, means, per_user, top_items

CUTS: Final = (5, 10, 20)
DAY_S: Final = 86_400.0
ENSEMBLE: Final = "ensemble"
WITHOUT_ORDER: Final = "ensemble without order"
LAST_ITEM: Final = "item_knn (last item)"
_MOST_TARGETS: Final = 10  # of one listener
MOST_PLAYED: Final = "most played"
_NAMES: Final = {"hr": "hit_rate", "ndcg": "ndcg"}
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class NextItemQueries:
    """Ordered histories of listeners and what followed.

    Attributes:
        requests: (B,) the histories.
        is_first: (B,) whether the request is the first one of a listener.
        consumed: (B, I) number of plays of each item in the history.
        next_item: (B, I) 1 at the next new item; empty rows if it is unknown.
        next_day: (B, I) 1 at the new items of the next day; None if the held-out listens have no times.
        n_next_day: (B,) number of new items of the next day, including unknown ones.
    """

    requests: Sequence[RecommendRequest]
    is_first: npt.NDArray[np.bool_]
    consumed: sparse.csr_matrix
    next_item: sparse.csr_matrix
    next_day: sparse.csr_matrix | None
    n_next_day: npt.NDArray[np.int64]


def uses_order(recommender: Recommender) -> bool:
    """Return whether any base model uses the order of listening."""
    return any(each.get("kind") in ORDERED_KINDS for each in recommender.artifact.manifest["base_models"].values())


def next_item_queries(recommender: Recommender, history: Log, held_out: Log) -> NextItemQueries | None:
    """Return the histories of listeners with a new held-out item; None if a log has no order or there are none.

    Args:
        recommender: its items are ranked.
        history: listens before the held-out ones.
        held_out: listens in order.
    """
    if history.sequences is None or held_out.sequences is None:
        return None
    items = {name: index for index, name in enumerate(recommender.item_ids)}
    rows = {name: row for row, name in enumerate(history.users)}
    pairs: dict[str, set[str]] = {name: set() for name in held_out.users}
    for user, item in zip(history.user.tolist(), history.item.tolist(), strict=True):
        if history.users[user] in pairs:
            pairs[history.users[user]].add(history.items[item])
    requests: list[RecommendRequest] = []
    targets: list[list[str]] = []
    days: list[list[str]] = []
    is_first: list[bool] = []
    for name, following in _ordered(held_out):
        new = [(item, at_s) for item, at_s in following if item not in pairs[name]]
        if name not in rows or not new:
            continue
        at_s = new[0][1]
        before = _before(history, rows[name], at_s)
        if not before:
            continue
        day = list({item: None for item, each_s in new if each_s < at_s + DAY_S})
        n_before = len(requests)
        for item, each_s in following:
            if item not in pairs[name] and len(requests) - n_before < _MOST_TARGETS:
                requests.append(
                    RecommendRequest(
                        history=[each for each, _ in before],
                        times=[at for _, at in before],
                        at_s=each_s if each_s > 0 else None,
                    )
                )
                targets.append([item])
                days.append(day)
                is_first.append(len(requests) == n_before + 1)
            pairs[name].add(item)
            before = [*before, (item, each_s)]
    if not requests:
        return None
    names = [[*request.history] for request in requests]
    has_times = held_out.sequences.time is not None
    return NextItemQueries(
        requests,
        np.array(is_first, np.bool_),
        _matrix(names, items),
        _matrix(targets, items),
        _matrix(days, items) if has_times else None,
        np.array([len(day) for day in days], np.int64),
    )


def _ordered(log: Log) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Yield each user's raw id and their listens in order, with times in seconds since 1970, 0 if unknown."""
    assert log.sequences is not None  # noqa: S101 - checked by the caller
    listens = log.sequences.take(~log.sequences.skipped)
    starts = listens.starts(len(log.users))
    for row, name in enumerate(log.users):
        span = slice(int(starts[row]), int(starts[row + 1]))
        times = np.zeros(span.stop - span.start) if listens.time is None else listens.time[span]
        yield name, [(log.items[i], float(t)) for i, t in zip(listens.item[span], times, strict=True)]


def _before(log: Log, row: int, at_s: float) -> list[tuple[str, float]]:
    """Return a user's listens before a time, in order; all if the time is 0."""
    assert log.sequences is not None  # noqa: S101 - checked by the caller
    start, stop = np.searchsorted(log.sequences.user, [row, row + 1]).tolist()
    found = []
    for index in range(start, stop):
        time_s = 0.0 if log.sequences.time is None else float(log.sequences.time[index])
        if not log.sequences.skipped[index] and not (0 < at_s <= time_s):
            found.append((log.items[log.sequences.item[index]], time_s))
    return found


def _matrix(names: Sequence[Sequence[str]], items: Mapping[str, int]) -> sparse.csr_matrix:
    pairs = [(row, items[name]) for row, each in enumerate(names) for name in each if name in items]
    rows, columns = (np.array([pair[axis] for pair in pairs], np.int64) for axis in (0, 1))
    return sparse.csr_matrix((np.ones(len(pairs), np.float32), (rows, columns)), shape=(len(names), len(items)))


def evaluate_next(
    recommender: Recommender, networks: RemoteNetworks, people: NextItemQueries, *, on_progress: OnProgress
) -> dict[str, Any]:
    """Return hr@k and ndcg@k of the next item, and ndcg@k and recall@k of the next day, by model.

    The models are the ensemble, the same base models without those of the order (weights of their own), each base
    model, item-kNN on the last item, and the listener's most played items, which are not left out of that ranking.
    """
    best: dict[str, list[npt.NDArray[np.int64]]] = {}
    for rows, name, scores in _scores(recommender, networks, people):
        consumed = sparse.csr_matrix(people.consumed[rows])
        masked = sparse.csr_matrix(consumed.shape, dtype=np.float32) if name == MOST_PLAYED else consumed
        best.setdefault(name, []).append(top_items(np.array(scores), masked, CUTS[-1]))
        if name == ENSEMBLE:
            on_progress(rows.stop, len(people.requests))
    tops = {name: np.concatenate(each) for name, each in best.items()}
    ones = np.ones(len(people.requests), np.int64)
    found: dict[str, Any] = {
        "next_item": {name: _next_item(hits_of(each, people.next_item), ones) for name, each in tops.items()},
        "n_users": int(people.is_first.sum()),
        "n_queries": len(people.requests),
        "n_unknown_items": int((np.diff(people.next_item.indptr) == 0).sum()),
    }
    if people.next_day is not None:
        found["next_day"] = {}
        for name, each in tops.items():
            values = means(per_user(hits_of(each, people.next_day), people.n_next_day, CUTS), people.is_first)
            found["next_day"][name] = {f"{m}@{k}": values[f"{m}@{k}"] for m in ("ndcg", "recall") for k in CUTS}
    return found


def _next_item(hits: npt.NDArray[np.bool_], ones: npt.NDArray[np.int64]) -> dict[str, float]:
    values = means(per_user(hits, ones, CUTS))
    return {f"{short}@{k}": values[f"{name}@{k}"] for short, name in _NAMES.items() for k in CUTS}


def _scores(
    recommender: Recommender, networks: RemoteNetworks, people: NextItemQueries
) -> Iterator[tuple[slice, str, npt.NDArray[np.float32]]]:
    """Yield the rows of users, the name of a model, and its scores (b, I)."""
    item_knn = recommender.scorer.base_models.get("item_knn")
    if isinstance(item_knn, RemoteBaseModel):  # narrows the type: item_knn is a local base model
        item_knn = None
    for start in range(0, len(people.requests), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(people.requests)))
        resolved = recommender.resolve(people.requests[rows], use_precomputed=False)
        remote = remote_scores(resolved.remote_inputs, networks)
        scored = recommender.score(resolved, remote_scores=remote)
        yield rows, ENSEMBLE, scored.ensemble
        nothing = np.zeros_like(scored.ensemble)
        for name in recommender.scorer.base_models:
            yield rows, name, scored.base_models.get(name, nothing)
        if UNORDERED in recommender.artifact.manifest["ensembles"]:
            other = recommender.resolve(people.requests[rows], arm=UNORDERED, use_precomputed=False)
            yield rows, WITHOUT_ORDER, recommender.score(other, remote_scores=remote).ensemble
        if item_knn is not None and resolved.batch.sequences is not None:
            is_last = resolved.batch.sequences.distances < 1
            last = with_histories_of(resolved.batch, is_last, np.ones(resolved.batch.n, np.bool_))
            yield rows, LAST_ITEM, item_knn.score(last)
        plays = people.consumed[rows].toarray().astype(np.float32)
        yield rows, MOST_PLAYED, np.where(plays > 0, plays, np.float32(-np.inf))


def tables(found: Mapping[str, Any]) -> list[SummaryTable]:
    """Return the metrics of `evaluate_next` as tables, the best model first."""
    made = []
    for key, title, order in (("next_item", "next item", "ndcg@10"), ("next_day", "next day", "ndcg@10")):
        if key in found:
            rows = sorted(found[key].items(), key=lambda entry: -entry[1][order])
            n_queries = f", {found['n_queries']} in all" if key == "next_item" else ""
            heading = f"{title} of {found['n_users']} listeners{n_queries}"
            made.append(
                SummaryTable(
                    heading, [{"model": name, **{k: f"{v:.4f}" for k, v in row.items()}} for name, row in rows]
                )
            )
    return made
