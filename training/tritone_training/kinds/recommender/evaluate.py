"""Evaluation of a checkpoint on held-out listens, by the code that serves it.

Protocol: full ranking of the catalogue, without the items in the user's log; means over users with at least one
held-out listen; held-out items outside the catalogue count as missed.
Shapes: B users, I items, K largest cutoff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_training.checkpoint import SELECTION_FOLDER
from tritone_training.data.interactions import (
    Log,
    columns_of,
    files_of,
    held_out_counts,
    load_listening,
    load_log,
    load_sequences,
)
from tritone_training.evaluation import EvaluationResult
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.recommender import report
from tritone_training.kinds.recommender.checkpoint_folder import (
    KEY_FILENAME,
    REFIT,
    check_together,
    load_info,
)
from tritone_training.kinds.recommender.ensemble.offline import (
    RemoteNetworks,
    open_recommender,
    remote_scores,
    score_in_chunks,
)
from tritone_training.kinds.recommender.next_item import (
    ENSEMBLE,
    evaluate_next,
    next_item_queries,
    uses_order,
)
from tritone_training.kinds.recommender.next_item import tables as next_item_tables
from tritone_training.progress import progress_bar
from tritone_training.ranking_metrics import beyond_accuracy, hits_of, means, per_user, top_items


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate on the file `--test`, or on a split that training held out of the log.

    Raises:
        TrainingError: the options contradict each other.
        DataError: no user can be evaluated.
        CheckpointError: the checkpoint cannot be used.
    """
    info = load_info(request.checkpoint)
    key = files_of(request.data).key or request.checkpoint / KEY_FILENAME
    folder = request.checkpoint
    if REFIT in info and files_of(request.data).test is None:  # the fit on all listens has seen the held-out ones
        folder /= SELECTION_FOLDER
        info = load_info(folder)
    log, held_out, which, before = _data(request, int(info["seed"]))
    recommender, networks = open_recommender(folder, key)
    check_together(folder, info, recommender.artifact.manifest)
    people = evaluation_users(recommender, log, held_out)
    if REFIT in info:
        people = _with_stored_histories(recommender, people, request.checkpoint)
    with progress_bar("ranking", shown=request.progress) as on_progress:
        metrics = evaluate_ranking(recommender, networks, people, on_progress=on_progress)
    following = next_item_queries(recommender, before, held_out) if uses_order(recommender) else None
    tables = []
    if following is not None:
        with progress_bar("ranking next items", shown=request.progress) as on_progress:
            found = evaluate_next(recommender, networks, following, on_progress=on_progress)
        metrics = {**metrics, **found["next_item"][ENSEMBLE], "order": found}
        tables = next_item_tables(found)
    return EvaluationResult(
        request.checkpoint,
        log.source,
        metrics=metrics,
        details={
            "part": which,
            "cleaning": {"log": log.report, "held_out": held_out.report},
            **({"fit": FIT_WITHOUT_HELD_OUT} if folder != request.checkpoint else {}),
        },
        summary=[
            *([f"evaluated: {FIT_WITHOUT_HELD_OUT}"] if folder != request.checkpoint else []),
            *report.summarize(metrics, split=which),
            *tables,
        ],
        report=None if request.report is None else report.write(request.report, metrics, data=log.source, split=which),
    )


def _data(request: EvaluateRequest, seed: int) -> tuple[Log, Log, str, Log]:
    """Return the log of the fit, the held-out listens, their name, and all listens before them."""
    files = files_of(request.data)
    if files.test is not None:
        if files.interactions is None:
            raise TrainingError("--test FILE needs the log used in training: give --interactions LOG, too")
        if request.split is not None:
            raise TrainingError("give --test or --split, not both")
        columns = columns_of(files)
        log = load_log(files.interactions, columns)
        # Lines `user item` have no header that would tell them from a table.
        is_sequences = log.sequences is not None and log.time is None
        held_out = load_sequences(files.test) if is_sequences else load_log(files.test, columns)
        return log, held_out, files.test.name, log
    listening = load_listening(
        TrainRequest(out=request.checkpoint, data=request.data, seed=seed, progress=request.progress)
    )
    part = request.split or ("test" if listening.test is not None else "valid")
    held_out = listening.part(part)
    before = listening.train
    whole = listening.load_log() if part == "test" else None
    if whole is not None:
        before = whole.take(~np.isin(whole.pair_keys(), held_out.pair_keys()))
    return listening.train, held_out, part, before


def _with_stored_histories(recommender: Recommender, people: EvaluationUsers, folder: Path) -> EvaluationUsers:
    """Return the users with all listens of the fit as consumed, for a fit that used more than the training split.

    Raises:
        TrainingError: some of the held-out listens were used in the fit.
    """
    history = recommender.artifact.rows("history").to_csr(len(recommender.item_ids))
    users = np.array([recommender.resolver.user(name) for name in people.names], np.int64)
    pick = sparse.csr_matrix(
        (np.ones((users >= 0).sum(), np.float32), (np.flatnonzero(users >= 0), users[users >= 0])),
        shape=(len(users), history.shape[0]),
    )
    stored = sparse.csr_matrix(pick @ history)
    n_seen = people.wanted.multiply(stored > 0).nnz
    if n_seen:
        raise TrainingError(
            f"{folder}: was fitted on {n_seen} of the {people.wanted.nnz} held-out listens (--refit-on-all), so it "
            f"cannot be evaluated on them: expected listens that are in neither the log nor --valid; evaluate the fit "
            f"without them: --checkpoint {folder / SELECTION_FOLDER} --key {folder / KEY_FILENAME}"
        )
    return replace(people, consumed=sparse.csr_matrix(people.consumed.maximum(stored)))


FIT_WITHOUT_HELD_OUT: Final = (
    "the fit without the held-out listens (selection/); what is served was fitted on these too"
)
_SEGMENTS: Final = ((0, 0), (1, 4), (5, 9), (10, 19), (20, 49), (50, None))  # lengths of histories
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class EvaluationUsers:
    """Users to evaluate, with item indices of the artifact.

    Attributes:
        names: raw ids of users with held-out listens.
        consumed: (B, I) their listens in the log.
        wanted: (B, I) held-out listens to known items.
        n_held_out: (B,) number of held-out listens, including unknown items.
        listeners: (I,) number of listeners of each item in the log.
        n_users: number of users in the log.
        n_cold: number of held-out listens to items without listeners in the log, including unknown items.
    """

    names: list[str]
    consumed: sparse.csr_matrix
    wanted: sparse.csr_matrix
    n_held_out: npt.NDArray[np.int64]
    listeners: npt.NDArray[np.int64]
    n_users: int
    n_cold: int


@dataclass
class RecommendedItems:
    """Recommendations of one base model or the ensemble, collected in chunks."""

    best: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def whole(self) -> npt.NDArray[np.int64]:
        """Return the indices of all recommended items (B, K)."""
        return np.concatenate(self.best)


def evaluation_users(recommender: Recommender, log: Log, held_out: Log) -> EvaluationUsers:
    """Map a log and its held-out listens to item indices of the artifact.

    Raises:
        DataError: no user can be evaluated.
    """
    items = {name: index for index, name in enumerate(recommender.item_ids)}
    counts = held_out_counts(held_out, held_out.users)
    names = [name for name, count in zip(held_out.users, counts.tolist(), strict=True) if count]
    if not names:
        raise DataError(f"{held_out.source}: holds no listens to evaluate on")
    rows = {name: row for row, name in enumerate(names)}
    consumed, wanted = log.matrix(rows, items), held_out.matrix(rows, items)
    if not wanted.nnz:
        raise DataError(f"{held_out.source}: not one of its items is known to the recommender; are the columns right?")
    all_users = log.matrix(None, items)
    listeners = np.bincount(all_users.indices, minlength=len(items))
    n_not_cold = int((listeners[wanted.indices] > 0).sum())
    return EvaluationUsers(
        names,
        consumed,
        wanted,
        held_out_counts(held_out, names),
        listeners,
        len(np.unique(log.user)),
        int(len(held_out) - n_not_cold),
    )


def evaluate_ranking(
    recommender: Recommender, networks: RemoteNetworks, people: EvaluationUsers, *, on_progress: OnProgress
) -> dict[str, Any]:
    """Return the metrics of the base models and the ensemble, in total and by segment."""
    stored = [recommender.resolver.user(name) >= 0 for name in people.names]
    known = np.array(stored)
    tallies = _rank(recommender, networks, people, _requests(recommender, people, known), on_progress)
    hits = {name: hits_of(tally.whole(), people.wanted) for name, tally in tallies.items()}
    values = {name: per_user(each, people.n_held_out) for name, each in hits.items()}
    vectors = recommender.artifact.arrays.get("vectors")
    metrics = {
        name: {
            **means(each),
            **beyond_accuracy(tallies[name].whole(), people.listeners, people.n_users, vectors),
            "cold_items_recall@40": _cold_recall(hits[name], tallies[name].whole(), people),
        }
        for name, each in values.items()
    }
    return {
        "ensemble": metrics.pop("ensemble"),
        "base_models": metrics,
        "ensembles": recommender.artifact.manifest["ensembles"],
        "segments": _segments(people, values),
        "cold_users": _cold_users(recommender, networks, people, known=known, values=values, on_progress=on_progress),
        "cold_items": {
            "n_held_out": people.n_cold,
            "n_known": int((people.listeners[people.wanted.indices] == 0).sum()),
            "recall@40": _cold_recall(hits["ensemble"], tallies["ensemble"].whole(), people),
        },
        "n_users": len(people.names),
        "n_users_known": int(known.sum()),
        "n_items": len(recommender.item_ids),
        "n_held_out": int(people.n_held_out.sum()),
        "n_held_out_known": int(people.wanted.nnz),
    }


def _requests(
    recommender: Recommender, people: EvaluationUsers, known: npt.NDArray[np.bool_]
) -> list[RecommendRequest]:
    """Return requests by user id for stored users, and by history for others."""
    return [
        RecommendRequest(user=name) if stored else history_request(recommender, people, row)
        for row, (name, stored) in enumerate(zip(people.names, known.tolist(), strict=True))
    ]


def history_request(recommender: Recommender, people: EvaluationUsers, row: int) -> RecommendRequest:
    """Return a request with a user's history and without the user id."""
    span = slice(people.consumed.indptr[row], people.consumed.indptr[row + 1])
    items = people.consumed.indices[span].tolist()
    return RecommendRequest(history=[recommender.item_ids[item] for item in items], weights=people.consumed.data[span])


def _rank(
    recommender: Recommender,
    networks: RemoteNetworks,
    people: EvaluationUsers,
    requests: list[RecommendRequest],
    on_progress: OnProgress,
) -> dict[str, RecommendedItems]:
    tallies: dict[str, RecommendedItems] = {}
    for rows, base_models, ensemble in score_in_chunks(recommender, networks, requests):
        consumed = sparse.csr_matrix(people.consumed[rows])
        for name, scores in {**base_models, "ensemble": ensemble}.items():
            tallies.setdefault(name, RecommendedItems()).best.append(top_items(scores, consumed))
        on_progress(rows.stop, len(requests))
    return tallies


def _cold_recall(hits: npt.NDArray[np.bool_], best: npt.NDArray[np.int64], people: EvaluationUsers) -> float | None:
    """Return recall@40 of held-out listens to items without listeners in the log; None if there are none."""
    if not people.n_cold:
        return None
    found = hits & (people.listeners[np.maximum(best, 0)] == 0)
    return float(found.sum() / people.n_cold)


def _segments(
    people: EvaluationUsers, values: Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
) -> list[dict[str, Any]]:
    """Return the metrics of the ensemble by length of history, with those of the base models under `base_models`."""
    n_listened = np.diff(people.consumed.indptr)
    rows = []
    for least, most in _SEGMENTS:
        inside = (n_listened >= least) & (n_listened <= (most if most is not None else np.inf))
        if inside.any():
            label = "none" if most == 0 else f"{least}-{most}" if most else f"{least} or more"
            each = {name: means(dict(each_user), inside) for name, each_user in values.items()}
            ensemble = each.pop("ensemble")
            rows.append({"n_items_listened": label, "n_users": int(inside.sum()), **ensemble, "base_models": each})
    return rows


def _cold_users(
    recommender: Recommender,
    networks: RemoteNetworks,
    people: EvaluationUsers,
    *,
    known: npt.NDArray[np.bool_],
    values: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Return metrics of cold-start users: unknown users by their histories, and stored users by their friends only."""
    found: dict[str, Any] = {"by_history": None, "by_friends": None}
    if (~known).any():
        found["by_history"] = {"n": int((~known).sum()), **means(dict(values["ensemble"]), ~known)}
    rows = [row for row in np.flatnonzero(known).tolist() if _friends(recommender, people.names[row])]
    if not rows:
        return found
    some = EvaluationUsers(
        [people.names[row] for row in rows],
        sparse.csr_matrix(people.consumed[rows]),
        sparse.csr_matrix(people.wanted[rows]),
        people.n_held_out[rows],
        people.listeners,
        people.n_users,
        people.n_cold,
    )
    tallies = _rank_friends(recommender, networks, some, on_progress)
    by_friends = means(per_user(hits_of(tallies["ensemble"], some.wanted), some.n_held_out))
    popular = means(per_user(hits_of(tallies["popularity"], some.wanted), some.n_held_out))
    found["by_friends"] = {
        "n": len(rows),
        **by_friends,
        "popularity_ndcg@10": popular["ndcg@10"],
        "times_popularity": by_friends["ndcg@10"] / max(popular["ndcg@10"], 1e-9),
    }
    return found


def _friends(recommender: Recommender, name: str) -> int:
    return len(recommender.resolver.friends_of(name))


def _rank_friends(
    recommender: Recommender, networks: RemoteNetworks, people: EvaluationUsers, on_progress: OnProgress
) -> dict[str, npt.NDArray[np.int64]]:
    """Rank items for users of whom only the friends are given; items in their logs are masked as in the protocol."""
    best: dict[str, list[npt.NDArray[np.int64]]] = {}
    for start in range(0, len(people.names), 64):
        names = people.names[start : start + 64]
        resolved = recommender.resolve_friends(
            [recommender.resolver.friends_of(name) for name in names],
            [recommender.resolver.user(name) for name in names],
        )
        scored = recommender.score(resolved, remote_scores=remote_scores(resolved.remote_inputs, networks))
        consumed = sparse.csr_matrix(people.consumed[start : start + 64])
        for name, scores in (("popularity", scored.base_models["popularity"]), ("ensemble", scored.ensemble)):
            best.setdefault(name, []).append(top_items(np.array(scores), consumed))
        on_progress(start + len(names), len(people.names))
    return {name: np.concatenate(each) for name, each in best.items()}
