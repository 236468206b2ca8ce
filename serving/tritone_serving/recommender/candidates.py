"""Candidate generation: which items of a large catalogue are scored for a request.

Each base model returns its highest-scoring items, most of them from an index: the rows of its table for the items of
the history, the listening of similar users and friends, the most popular items, the nearest neighbours in sound. The
union is scored exactly, by the same base models and ensemble as the whole catalogue. Scores of the returned items are
unchanged; an item that no base model returns is missed, so recall is below 1. Requests with too few candidates are
scored for all items.
Shapes: I items, n candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tritone_serving.recommender.base_models.base import best_of
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.ranking import pool_size
from tritone_serving.recommender.requests import Ints, RecommendRequest
from tritone_serving.recommender.scorer import EnsembleScorer, LocalScores, RemoteScores, Scored

MIN_PER_MODEL: Final = 100
MAX_PER_MODEL: Final = 1_000_000
_MIN_RATIO: Final = 2  # of candidates to needed items; below it, all items are scored


@dataclass(frozen=True)
class CandidateSettings:
    """When candidates are scored in place of all items.

    Attributes:
        min_items: minimum number of items for candidate scoring.
        per_model: number of items that each base model returns.
    """

    min_items: int = 500_000
    per_model: int = 2_000


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """Scores of the candidates of a batch by the local base models.

    Attributes:
        batches: (B,) each request as a batch of its own.
        scores: (B,) of each request's candidates, or of all items.
    """

    batches: Sequence[RequestBatch]
    scores: Sequence[LocalScores]


class CandidateScorer:
    """Scores candidates by the base models and ensembles of one artifact."""

    def __init__(self, scorer: EnsembleScorer, settings: CandidateSettings) -> None:
        self._scorer = scorer
        self._n = settings.per_model

    def score_local(
        self,
        batch: RequestBatch,
        requests: Sequence[RecommendRequest],
        arms: Sequence[str],
        excluded: Callable[[RequestBatch, int, RecommendRequest], Ints],
    ) -> CandidateScores:
        """Score the candidates of each request by the local base models.

        Args:
            batch: the requests, resolved.
            requests: (B,) the requests.
            arms: (B,) arm of each.
            excluded: returns the items that must not be recommended for a request, given its batch and row.
        """
        batches = [batch.only(row) for row in range(batch.n)]
        scores = []
        for single, request, arm in zip(batches, requests, arms, strict=True):
            removed = excluded(single, 0, request)
            items = self._union(self._scorer.proposals(single, [arm], self._n + len(removed)), without=[removed])
            is_sufficient = self._is_sufficient(items, request)
            scores.append(self._scorer.score_local(single, [arm], items=items if is_sufficient else None))
        return CandidateScores(batches, scores)

    def combine(
        self, row: int, local: CandidateScores, arm: str, excluded: Ints, remote_scores: RemoteScores
    ) -> Scored:
        """Add the remote base models to the scores of one request, and the items that they propose.

        Args:
            row: index of the request.
            local: result of `score_local`.
            arm: arm of the request.
            excluded: items that must not be recommended.
            remote_scores: outputs of the remote base models for the whole batch.
        """
        single, scores = local.batches[row], local.scores[row]
        outputs = {name: each[row : row + 1] for name, each in remote_scores.items() if each is not None}
        scored = self._scorer.combine(single, [arm], scores, outputs)
        names = self._scorer.weighted(single, [arm], tuple(outputs))
        if scores.items is None or not names:
            return scored
        proposals = [best_of(outputs[name][0], self._n + len(excluded)) for name in names]
        additional = self._union(proposals, without=[scores.items, excluded])
        if not len(additional):
            return scored
        return scored.joined(
            self._scorer.combine(single, [arm], self._scorer.score_local(single, [arm], items=additional), outputs)
        )

    def _union(self, proposals: Sequence[Ints], *, without: Sequence[Ints]) -> Ints:
        """Return the items of some proposals, ascending."""
        chosen = np.zeros(self._scorer.n_items, np.bool_)
        for items in proposals:
            chosen[items] = True
        for items in without:
            chosen[items] = False
        return np.flatnonzero(chosen)

    @staticmethod
    def _is_sufficient(items: Ints, request: RecommendRequest) -> bool:
        n_needed = pool_size(request.k) if request.diversity or request.novelty else request.k
        return len(items) >= _MIN_RATIO * n_needed
