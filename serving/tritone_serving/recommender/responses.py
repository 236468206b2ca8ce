"""Responses to requests for recommendations, from the scores of items or from precomputed rankings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.catalogue import Catalogue
from tritone_serving.recommender.exceptions import InvalidRequestError
from tritone_serving.recommender.ranking import PrecomputedRankings, Ranked, is_plain, rank
from tritone_serving.recommender.reasons import Explainer
from tritone_serving.recommender.requests import (
    Ints,
    RecommendRequest,
    RecommendResponse,
    ScoreReason,
    Source,
    UnknownInputs,
)
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.scorer import EnsembleScorer, Scored

_NEVER: Final = np.float32(-np.inf)


class ResponseBuilder:
    """Builds the responses to requests from one artifact."""

    def __init__(
        self, artifact: Artifact, resolver: Resolver, scorer: EnsembleScorer, catalogue: Catalogue, *, min_friends: int
    ) -> None:
        """Read what ranks items.

        Args:
            artifact: the opened artifact.
            resolver: finds its items and users.
            scorer: its base models and ensembles.
            catalogue: texts of its items.
            min_friends: smallest number of friends whose shared listening may be named in reasons.
        """
        self._resolver = resolver
        self._scorer = scorer
        self._item_ids = catalogue.item_ids
        self._explainer = Explainer(scorer, resolver, catalogue, min_friends=min_friends)
        self._rankings = PrecomputedRankings.open(artifact)
        self._popularity = artifact.arrays["popularity.shares"]
        self._vectors = artifact.arrays.get("vectors")
        self._has_moods = "items.moods" in artifact.arrays

    def precomputed(self, request: RecommendRequest, user: int, arm: str | None) -> RecommendResponse | None:
        """Return the precomputed response to a plain request for a stored user, None if there is none.

        Args:
            request: the request.
            user: row of its user, -1 if unknown.
            arm: arm of the A/B test; None for that of the user.
        """
        if user < 0 or not self._rankings.by_arm or not is_plain(request):
            return None
        try:
            request.check()
        except InvalidRequestError:
            return None  # reported with the errors of the other requests
        arm = arm or self._scorer.arm(request)
        exclude, unknown = self._resolver.items(request.exclude)
        ranked = self._rankings.find(request, user, arm, exclude)
        if ranked is None:
            return None
        return RecommendResponse(
            items=self._item_ids.at(ranked.items.tolist()),
            scores=ranked.scores,
            source="user",
            reasons=(),
            unknown=UnknownInputs(exclude=unknown),
            arm=arm,
            n_consumed=self._resolver.n_stored(user),
        )

    def scored(
        self, requests: Sequence[RecommendRequest], batch: RequestBatch, scored: Scored
    ) -> Iterator[RecommendResponse]:
        """Yield the response to each request.

        Args:
            requests: (B,) the requests.
            batch: the same as arrays.
            scored: their scores, which are changed.
        """
        for row, request in enumerate(requests):
            scores = scored.ensemble[row]
            if scored.items is None:  # else they are not among the candidates
                scores[self.excluded(batch, row, request)] = _NEVER
            ranked = rank(
                scores,
                request.k,
                diversity=request.diversity,
                novelty=request.novelty,
                popularity=self._popularity,
                vectors=self._vectors,
                scored=scored.items,
            )
            yield RecommendResponse(
                items=self._item_ids.at(ranked.items.tolist()),
                scores=ranked.scores,
                source=self._source(request, batch, row),
                reasons=self._reasons(request, batch, row, ranked, scored),
                unknown=batch.unknown[row],
                arm=scored.arms[row],
                n_consumed=int(batch.consumed.counts[row]) if request.filter_listened else 0,
                mood=batch.moods[row],
            )

    def excluded(self, batch: RequestBatch, row: int, request: RecommendRequest) -> Ints:
        """Return the items that must not be recommended: rejected, excluded, and those listened to before."""
        history, weights = batch.history.row(row)
        excluded = [history[weights < 0].astype(np.int64)]
        if request.exclude:
            excluded.append(np.array(self._resolver.items(request.exclude)[0], np.int64))
        if request.filter_listened:
            excluded.append(batch.consumed.row(row)[0].astype(np.int64))
        return np.concatenate(excluded)

    def _reasons(
        self, request: RecommendRequest, batch: RequestBatch, row: int, ranked: Ranked, scored: Scored
    ) -> tuple[tuple[ScoreReason, ...], ...]:
        if not request.explain:
            return ()
        return self._explainer.reasons_of(
            batch, row, ranked=ranked, scored=scored, is_trusted=request.caller.is_trusted
        )

    def _source(self, request: RecommendRequest, batch: RequestBatch, row: int) -> Source:
        if batch.n_history[row]:
            return "user" if batch.is_known[row] else "history"
        if len(batch.friends.row(row)[0]):
            return "friends"
        if batch.embeddings is not None and batch.embeddings[row].any():
            return "audio"
        if request.mood is not None and self._has_moods:
            return "mood"
        return "popularity"


def without_events(response: RecommendResponse | InvalidRequestError) -> RecommendResponse | InvalidRequestError:
    """Return a response that says that recorded events could not be read."""
    if isinstance(response, InvalidRequestError):
        return response
    return replace(response, unknown=replace(response.unknown, events=True))
