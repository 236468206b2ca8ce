"""Metrics of ensembles on users that their weights were not fitted on, and the comparison with single base models.

Shapes: Q queries (users, or requests of users).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.kinds.recommender.ensemble.weight_fitting import (
    Candidates,
    EnsembleWeights,
    fit_weights,
    objective,
    problem_of,
    ranking_metrics,
)


def metrics_of(candidates: Candidates, learned: EnsembleWeights, scales: Mapping[str, float]) -> dict[str, Any]:
    """Return the metrics of the ensemble and of each base model on the candidates."""
    problem = problem_of(candidates, tuple(candidates.features), scales)
    weights = {key: (learned.cold if key[1] else learned.listened).get(key[0], 0.0) for key in problem.columns}
    return {
        "ensemble": ranking_metrics(candidates, problem.total(weights)),
        "base_models": {name: ranking_metrics(candidates, scores) for name, scores in candidates.features.items()},
    }


def cross_fitted(
    candidates: Candidates, scales: Mapping[str, float], users: npt.NDArray[np.int64] | None = None
) -> dict[str, float]:
    """Return the metrics of two-fold cross-fitting of the weights, over even and odd users.

    Args:
        candidates: of all users or queries.
        scales: unit of each base model's scores.
        users: number of the user of each query; None if each user has one.
    """
    found = []
    numbers = np.arange(len(candidates.n_held_out)) if users is None else users
    for side in (0, 1):
        fit, rest = (candidates.of_users(numbers % 2 == half) for half in (side, 1 - side))
        if not fit.wanted.any() or not (rest.n_held_out > 0).any():
            return {}
        found.append(metrics_of(rest, fit_weights(fit, tuple(fit.features), scales), scales)["ensemble"])
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


_NEEDS_MORE_THAN_A_HISTORY: Final = ("social", "sound", "mood")


def ensemble_or_best_base_model(
    candidates: Candidates, learned: EnsembleWeights, crossed: Mapping[str, float]
) -> EnsembleWeights:
    """Return the weights, or those of the best single base model if that is better than the ensemble.

    Base models that need more than a history cannot be chosen: without friends or a recording, all scores would be 0.

    Args:
        candidates: of a segment.
        learned: weights fitted on the candidates.
        crossed: metrics of the ensemble by cross-fitting; empty if there are too few users.
    """
    if not crossed:
        return learned
    alone = {
        name: objective(ranking_metrics(candidates, scores))
        for name, scores in candidates.features.items()
        if name not in _NEEDS_MORE_THAN_A_HISTORY
    }
    best = max(alone, key=lambda name: alone[name], default=None)
    if best is None or alone[best] <= objective(crossed):
        return learned
    return EnsembleWeights({name: float(name == best) for name in learned.listened}, learned.cold)
