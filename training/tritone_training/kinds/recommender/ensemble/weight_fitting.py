"""Fit the weights of the base models on the validation split.

The model is a multinomial logit over candidates: the probability that a held-out listen is item i is softmax(sum of
weight x log(1 + score / scale)). The problem is convex and has one weight per base model, so it hardly overfits. Base
models whose weight would be negative are left out, except those by popularity, whose negative weight demotes popular
items.

Weights for cold items are fitted on a fifth of the other items, scored as if they had no listeners: scores by tags and
sound do not depend on listening, and the scores of all other base models are set to 0.
Shapes: Q candidates of all users, M base models, B users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender
from tritone_serving.recommender.base_models.content import Sound, Tags
from tritone_serving.recommender.ensemble import BIAS, log_scaled
from tritone_training.ranking_metrics import per_user

Floats = npt.NDArray[np.float32]
_COLD_WEIGHT: Final = 0.04  # of the share of found cold items in the objective
MAINSTREAM: Final = "mainstream"  # scores by popularity, with either sign; adds no candidates
_CANDIDATES: Final = 120  # per base model and user
_L2: Final = 1e-3
MAY_BE_NEGATIVE: Final = ("popularity", MAINSTREAM, BIAS)
# Weight of tags and sound for cold items if the fit gives none: orders these items, but is below the usual weight of a
# collaborative base model.
PRIOR: Final = 0.1
SOFTNESS: Final = 0.1  # a base model's scale is this share of its mean score among its best 40 items


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best items of every base model for each user, and which of them were held out.

    Attributes:
        users: (Q,) index of the user, ascending.
        items: (Q,) index of the item.
        wanted: (Q,) bool, whether the item was held out.
        cold: (Q,) bool, whether the item has no listeners.
        features: base model -> (Q,) raw scores.
        tops: base model -> (B,) mean of its 40 best scores.
        n_held_out: (B,) number of held-out listens, including unknown items.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.bool_]
    cold: npt.NDArray[np.bool_]
    features: Mapping[str, Floats]
    tops: Mapping[str, Floats]
    n_held_out: npt.NDArray[np.int64]

    def of_users(self, users: npt.NDArray[np.bool_]) -> Candidates:
        """Return the candidates of the selected users (B,); the others count as users without held-out listens."""
        kept = users[self.users]
        return Candidates(
            self.users[kept],
            self.items[kept],
            self.wanted[kept],
            self.cold[kept],
            {name: each[kept] for name, each in self.features.items()},
            self.tops,
            np.where(users, self.n_held_out, 0),
        )

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """Return the candidates of parts of the same users, in ascending order of users.

        Args:
            parts: at least one; `tops` has only the users of the part.
        """
        return cls(
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.wanted for part in parts]),
            np.concatenate([part.cold for part in parts]),
            {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
            {name: np.concatenate([part.tops[name] for part in parts]) for name in parts[0].tops},
            parts[0].n_held_out,
        )


class Collector:
    """Collects candidates in chunks, so that only the scores of one chunk are in memory."""

    def __init__(
        self,
        consumed: sparse.csr_matrix,
        wanted: sparse.csr_matrix,
        n_held_out: npt.NDArray[np.int64],
        is_cold: npt.NDArray[np.bool_],
    ) -> None:
        """Start without candidates.

        Args:
            consumed: (B, I) listens of each user in the training split.
            wanted: (B, I) held-out listens.
            n_held_out: (B,) number of held-out listens, including unknown items.
            is_cold: (I,) items that have no listeners or are scored as if they had none.
        """
        self._is_cold = is_cold
        self._cold_items = np.flatnonzero(is_cold)
        self._consumed, self._wanted, self._n_held_out = consumed, wanted, n_held_out
        self._users: list[npt.NDArray[np.int64]] = []
        self._items: list[npt.NDArray[np.int64]] = []
        self._features: dict[str, list[Floats]] = {}
        self._tops: dict[str, list[float]] = {}

    def add(self, rows: slice, scores: Mapping[str, Floats]) -> None:
        """Add the scores (B, I) of the users in `rows`."""
        for local, user in enumerate(range(rows.start, rows.stop)):
            consumed = self._consumed.indices[self._consumed.indptr[user] : self._consumed.indptr[user + 1]]
            chosen: list[npt.NDArray[np.int64]] = []
            for name, each in scores.items():
                row = each[local].copy()
                row[consumed] = -np.inf
                n = min(_CANDIDATES, len(row) - 1)
                best = np.argpartition(-row, n)[:n]
                best = best[row[best] > -np.inf]
                if name != MAINSTREAM:
                    chosen.append(best)
                cold = row[self._cold_items]
                if (cold[cold > -np.inf] != 0).any():
                    m = min(_CANDIDATES // 4, len(cold) - 1)
                    some = np.argpartition(-cold, m)[:m]
                    chosen.append(self._cold_items[some[cold[some] > -np.inf]])
                top = np.sort(row[best])[-40:]
                self._tops.setdefault(name, []).append(float(np.maximum(top, 0).mean()) if len(top) else 0.0)
            items = np.unique(np.concatenate(chosen))
            self._users.append(np.full(len(items), user))
            self._items.append(items)
            for name, each in scores.items():
                self._features.setdefault(name, []).append(each[local, items])

    def finish(self) -> Candidates:
        """Return all candidates."""
        users, items = np.concatenate(self._users), np.concatenate(self._items)
        n_items = self._wanted.shape[1]
        held_out = np.repeat(np.arange(self._wanted.shape[0]), np.diff(self._wanted.indptr)) * n_items
        return Candidates(
            users,
            items,
            np.isin(users * n_items + items, held_out + self._wanted.indices),
            self._is_cold[items],
            {name: np.concatenate(each) for name, each in self._features.items()},
            {name: np.array(each, np.float32) for name, each in self._tops.items()},
            self._n_held_out,
        )


def is_cold(recommender: Recommender) -> npt.NDArray[np.bool_]:
    """Return which items have no listeners (I,)."""
    return np.arange(recommender.artifact.n_items) >= recommender.scorer.n_listened


def scales_of(candidates: Candidates) -> dict[str, float]:
    """Return the unit of each base model's scores; 0 for those that are used unscaled."""
    return {
        name: 0.0
        if name in MAY_BE_NEGATIVE
        else max(SOFTNESS * float(tops[tops > 0].mean() if tops.any() else 1), 1e-9)
        for name, tops in candidates.tops.items()
    }


@dataclass(frozen=True, eq=False)
class EnsembleWeights:
    """Fitted weights, base model -> weight, for items with listeners and for cold items."""

    listened: dict[str, float]
    cold: dict[str, float]


@dataclass(frozen=True, eq=False)
class WeightProblem:
    """The features of the logit model.

    Attributes:
        candidates: the Q candidates.
        columns: (base model or `BIAS`, whether for cold items) -> (Q,).
        fixed: (Q,) added to the weighted sum of the columns.
    """

    candidates: Candidates
    columns: Mapping[tuple[str, bool], Floats]
    fixed: npt.NDArray[np.float64] | float = 0.0

    def total(self, weights: Mapping[tuple[str, bool], float]) -> npt.NDArray[np.float64]:
        """Return the score of each candidate (Q,)."""
        total = np.zeros(len(self.candidates.items)) + self.fixed
        for key, weight in weights.items():
            if weight:
                total += weight * self.columns[key]
        return total


def problem_of(candidates: Candidates, base_models: Sequence[str], scales: Mapping[str, float]) -> WeightProblem:
    """Build the features; base models whose scores are all 0 for a kind of item get no column for it."""
    columns: dict[tuple[str, bool], Floats] = {}
    cold = candidates.cold
    for name in base_models:
        scaled = log_scaled(candidates.features[name], scales[name])
        for kind in (False, True):
            column = np.where(cold == kind, scaled, 0).astype(np.float32)
            if column.any():
                columns[name, kind] = column
    if cold.any():
        columns[BIAS, True] = cold.astype(np.float32)
    return WeightProblem(candidates, columns)


def fit_weights(
    candidates: Candidates,
    base_models: Sequence[str],
    scales: Mapping[str, float],
    may_be_negative: Sequence[str] = MAY_BE_NEGATIVE,
) -> EnsembleWeights:
    """Return the maximum-likelihood weights, refined by `polish`; weights that would be negative are 0.

    Args:
        candidates: the Q candidates.
        base_models: names of the base models.
        scales: unit of each base model's scores.
        may_be_negative: base models (or `BIAS`) whose weights may be negative.
    """
    problem = problem_of(candidates, base_models, scales)
    weights = polish(problem, most_likely(problem, may_be_negative))
    return EnsembleWeights(
        {name: weights.get((name, False), 0.0) for name in base_models},
        {name: weights.get((name, True), 0.0) for name in (*base_models, BIAS)},
    )


def fit_cold_item_weights(
    candidates: Candidates, content: Sequence[str], consumed: Mapping[str, float], scales: Mapping[str, float]
) -> dict[str, float] | None:
    """Return the weights for cold items, from candidates some of which are scored as if they had no listeners.

    The weights for the other items stay as they are, so that the two kinds remain comparable.

    Args:
        candidates: the Q candidates.
        content: base models that can score items without listeners.
        consumed: base model -> weight for items with listeners.
        scales: unit of each base model's scores.

    Returns:
        base model -> weight, `BIAS` included; None if there are no held-out listens to those items.
    """
    if not (candidates.wanted & candidates.cold).any():
        return None
    whole = problem_of(candidates, tuple(candidates.features), scales)
    fixed = np.zeros(len(candidates.items))
    for (name, is_cold), column in whole.columns.items():
        if not is_cold:
            fixed += consumed.get(name, 0.0) * column
    columns = {key: column for key, column in whole.columns.items() if key[1] and key[0] in (*content, BIAS)}
    problem = WeightProblem(candidates, columns, fixed)
    weights = polish(problem, most_likely(problem, (BIAS,)))
    found = {name: weights.get((name, True), 0.0) for name in (*content, BIAS)}
    if not any(found[name] > 0 for name in content):
        # Cold items have to be ordered even if content does not predict listening.
        found |= {name: PRIOR for name, is_cold in columns if name != BIAS and is_cold}
    return found


def most_likely(problem: WeightProblem, may_be_negative: Sequence[str]) -> dict[tuple[str, bool], float]:
    """Return the maximum-likelihood weights of the columns; columns whose weight would be negative are left out.

    Args:
        problem: the features.
        may_be_negative: names of columns whose weights may be negative.
    """
    active = list(problem.columns)
    while True:
        features = np.stack([problem.columns[key] for key in active], 1).astype(np.float64)
        found = dict(zip(active, _logit(features, problem.candidates, problem.fixed).tolist(), strict=True))
        bad = {key: weight for key, weight in found.items() if weight < 0 and key[0] not in may_be_negative}
        if not bad or len(active) == 1:
            return found
        active.remove(min(bad, key=lambda key: bad[key]))


def _logit(
    features: npt.NDArray[np.float64], candidates: Candidates, fixed: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float64]:
    """Fit the weights (M,) by Newton's method with backtracking; features (Q, M) are scaled to unit variance."""
    _, first, owner = np.unique(candidates.users, return_index=True, return_inverse=True)
    n_wanted = np.bincount(owner, candidates.wanted)
    spread = features.std(0) + 1e-9
    scaled = features / spread
    ridge = _L2 * max(candidates.wanted.sum(), 1)
    weights = np.zeros(scaled.shape[1])

    def loss(each: npt.NDArray[np.float64]) -> float:
        scores = scaled @ each + fixed
        most = np.maximum.reduceat(scores, first)
        logs = np.log(np.add.reduceat(np.exp(scores - most[owner]), first)) + most
        return float((n_wanted * logs).sum() - scores[candidates.wanted].sum() + ridge / 2 * each @ each)

    for _ in range(40):
        scores = scaled @ weights + fixed
        e = np.exp(scores - np.maximum.reduceat(scores, first)[owner])
        share = e / np.add.reduceat(e, first)[owner]
        pull = share * n_wanted[owner]
        gradient = scaled.T @ (candidates.wanted - pull) - ridge * weights
        mean = np.add.reduceat(scaled * share[:, None], first, axis=0)
        curve = (scaled * pull[:, None]).T @ scaled - (mean * n_wanted[:, None]).T @ mean
        step = np.linalg.solve(curve + ridge * np.eye(len(weights)), gradient)
        size, before = 1.0, loss(weights)
        while loss(weights + size * step) > before and size > 1e-4:
            size /= 2
        weights += size * step
        if np.abs(size * step).max() < 1e-4:
            break
    return np.asarray(weights / spread)


def polish(problem: WeightProblem, weights: Mapping[tuple[str, bool], float]) -> dict[tuple[str, bool], float]:
    """Refine weights by coordinate search on `goal`, which differs from the likelihood."""
    current = dict(weights)
    total = problem.total(current)
    best = goal(problem.candidates, total)
    for step in (0.3, 0.1):
        for key, column in problem.columns.items():
            for change in (step, -step) if key in current else ():
                moved = total + change * current[key] * column
                found = goal(problem.candidates, moved)
                if found > best + 1e-6:
                    best, total = found, moved
                    current[key] *= 1 + change
                    break
    return {key: round(value, 4) for key, value in current.items()}


def goal(candidates: Candidates, scores: npt.NDArray[np.floating[Any]]) -> float:
    """Return the objective: NDCG@10 + recall@40 / 2, plus a small weight on the recall of cold items."""
    return objective(ranking_metrics(candidates, scores))


def objective(metrics: Mapping[str, float]) -> float:
    """Return the objective from the result of `ranking_metrics`."""
    return metrics["ndcg@10"] + metrics["recall@40"] / 2 + _COLD_WEIGHT * metrics["cold_items_share@40"]


def ranking_metrics(candidates: Candidates, scores: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
    """Return the means over users with held-out listens of the metrics of scores (Q,)."""
    hits = hits_of_users(candidates, ranks := ranks_of(candidates, scores))
    evaluated = candidates.n_held_out > 0
    values = per_user(hits[evaluated], candidates.n_held_out[evaluated], (10, 40))
    cold = candidates.wanted & candidates.cold
    share = int((cold & (ranks < hits.shape[1])).sum()) / max(int(cold.sum()), 1)
    return {**{name: float(each.mean()) for name, each in values.items()}, "cold_items_share@40": share}


def ranks_of(candidates: Candidates, scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Return the rank of each candidate among those of its user, from 0 (Q,); ties go to the lower index."""
    order = np.lexsort((candidates.items, -scores, candidates.users))
    users = candidates.users[order]
    starts = np.searchsorted(users, np.arange(len(candidates.n_held_out)))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - starts[users]
    return ranks


def hits_of_users(candidates: Candidates, ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether each user's 40 best candidates were held out (B, 40)."""
    hits = np.zeros((len(candidates.n_held_out), 40), np.bool_)
    near = ranks < hits.shape[1]
    hits[candidates.users[near], ranks[near]] = candidates.wanted[near]
    return hits


_HIDDEN_SHARE: Final = 0.2  # of the items with tags or sound


@dataclass(frozen=True, eq=False)
class HiddenItems:
    """Items that are treated as cold to fit the weights for cold items.

    Attributes:
        is_hidden: (I,) bool.
        content: names of the base models that can score items by content.
    """

    is_hidden: npt.NDArray[np.bool_]
    content: Sequence[str]

    @classmethod
    def draw(cls, recommender: Recommender, seed: int) -> HiddenItems | None:
        """Draw a fifth of the items with content; None if there are no cold items with content to rank."""
        n_listened = recommender.scorer.n_listened
        has_content = np.zeros(recommender.artifact.n_items, np.bool_)
        content = []
        for name, base_model in recommender.scorer.base_models.items():
            if isinstance(base_model, Tags):
                knows = base_model.by_item.counts > 0
            elif isinstance(base_model, Sound):
                knows = np.asarray(base_model.embeddings).any(1)
            else:
                continue
            content.append(name)
            has_content |= knows
        possible = np.flatnonzero(has_content[:n_listened])
        if not has_content[n_listened:].any() or len(possible) < 2:
            return None
        n = max(1, round(_HIDDEN_SHARE * len(possible)))
        # Sorted by id and drawn by a separate generator, so that equal seeds draw equal items.
        possible = possible[np.argsort(np.array(recommender.item_ids)[possible])]
        chosen = np.random.default_rng([seed, n_listened]).choice(possible, n, replace=False)
        is_hidden = np.zeros(n_listened, np.bool_)
        is_hidden[chosen] = True
        return cls(is_hidden, content)

    def collector(
        self, consumed: sparse.csr_matrix, wanted: sparse.csr_matrix, n_held_out: npt.NDArray[np.int64]
    ) -> Collector:
        """Return a collector of candidates among the items with listeners."""
        n = len(self.is_hidden)
        return Collector(consumed[:, :n], wanted[:, :n], n_held_out, self.is_hidden)

    def scores(self, base_models: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return the scores (B, I) of every base model as if the hidden items had no listeners."""
        n = len(self.is_hidden)
        found = {name: np.array(each[:, :n]) for name, each in base_models.items()}
        for name, each in found.items():
            if name not in self.content:
                each[:, self.is_hidden] = 0
        return found
