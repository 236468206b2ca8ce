"""Scoring of a batch by all base models and the ensemble.

Shapes: B requests, M base models, I items, T items that `taste_vae` knows (the first T).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models import LocalBaseModel
from tritone_serving.recommender.base_models.taste import RemoteBaseModel, TasteInputs
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.ensemble import Blend, Ensemble, Weights, log_scaled
from tritone_serving.recommender.requests import Floats, RecommendRequest


def arm_of(user: str | None, *, salt: str, shares: Mapping[str, float]) -> str:
    """Return the arm of an A/B test for a user, drawn by the salted hash of the raw user id.

    Args:
        user: None gets the first arm.
        salt: a different salt gives a different assignment.
        shares: arm -> share of users, relative to the sum of all shares.
    """
    names = list(shares)
    if user is None or len(names) == 1:
        return names[0]
    digest = hashlib.sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for name in names:
        point -= shares[name]
        if point < 0:
            return name
    return names[-1]


# Returns the scores (B, T) of taste_vae; calls its second argument once, which scores the other base models.
RemoteScorer = Callable[[TasteInputs, Callable[[], None]], Floats]
OnBaseModel = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one batch.

    Attributes:
        base_models: name -> raw scores (B, I).
        ensemble: (B, I).
        weights: weights of the base models, in the order of `base_models`.
        arms: (B,) arm of each request.
    """

    base_models: dict[str, Floats]
    ensemble: Floats
    weights: Weights
    arms: list[str]


class EnsembleScorer:
    """Scores batches with the base models and ensembles of one artifact.

    Attributes:
        base_models: by name, including the remote `taste_vae`.
        scales: unit of each base model's scores, see `ensemble.log_scaled`.
        n_listened: number of items with listeners, which come first.
    """

    def __init__(
        self,
        artifact: Artifact,
        base_models: Mapping[str, LocalBaseModel | RemoteBaseModel],
        on_base_model: OnBaseModel | None,
    ) -> None:
        manifest = artifact.manifest
        self.base_models = base_models
        self.scales = {name: float(each.get("scale", 0.0)) for name, each in manifest["base_models"].items()}
        self.n_listened = int(np.count_nonzero(artifact.arrays["popularity.shares"]))
        self._n_items = artifact.n_items
        self._on_base_model = on_base_model
        self._ensembles = {arm: Ensemble.from_manifest(each) for arm, each in manifest["ensembles"].items()}
        self._ab: Mapping[str, Any] = manifest.get("ab") or {"salt": "", "shares": {next(iter(self._ensembles)): 1.0}}

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with a share above 0."""
        return tuple(name for name, share in self._ab["shares"].items() if share > 0)

    def arm(self, request: RecommendRequest) -> str:
        """Return the arm of a request, drawn from its user id."""
        return arm_of(request.user, salt=self._ab["salt"], shares=self._ab["shares"])

    def score_base_models(self, batch: RequestBatch, taste: RemoteScorer | None) -> dict[str, Floats]:
        """Return the raw scores of all base models, name -> (B, I)."""
        scores: dict[str, Floats] = {}
        self._score(batch, taste, scores.__setitem__)
        return scores

    def score(
        self,
        requests: Sequence[RecommendRequest],
        batch: RequestBatch,
        taste: RemoteScorer | None,
        arm: str | None = None,
    ) -> Scored:
        """Score a batch; local base models are scored while `taste_vae` runs.

        Args:
            requests: the requests of the batch.
            batch: the same, resolved.
            taste: calls `taste_vae`; if None, that base model is left out.
            arm: arm for all requests; by default drawn from each user's id.
        """
        names = self._names(batch, taste)
        weights, arms = self._weights(requests, batch, names, arm)
        blend = Blend(weights, self.n_listened, self._n_items)
        scores: dict[str, Floats] = {}

        def add(name: str, raw: Floats) -> None:
            scores[name] = raw
            blend.add(names.index(name), log_scaled(raw, self.scales[name]))

        self._score(batch, taste, add)
        return Scored(scores, blend.total(), weights, arms)

    def _names(self, batch: RequestBatch, taste: RemoteScorer | None) -> tuple[str, ...]:
        """Return the names of the base models that score a batch, the remote one last."""
        remote = self._remote(batch, taste)
        local = [name for name, base_model in self.base_models.items() if not isinstance(base_model, RemoteBaseModel)]
        return (*local, *([] if remote is None else [remote.name]))

    def _remote(self, batch: RequestBatch, taste: RemoteScorer | None) -> RemoteBaseModel | None:
        """Return the remote base model, None if it is not available or can score none of the requests."""
        found = (base_model for base_model in self.base_models.values() if isinstance(base_model, RemoteBaseModel))
        return next((base_model for base_model in found if taste is not None and base_model.knows(batch).any()), None)

    def _score(self, batch: RequestBatch, taste: RemoteScorer | None, take: Callable[[str, Floats], None]) -> None:
        """Call `take` with the name and the scores of each base model as soon as they are computed."""
        done_s = 0.0

        def score_local() -> None:
            nonlocal done_s
            for name, base_model in self.base_models.items():
                if not isinstance(base_model, RemoteBaseModel):
                    start_s = time.perf_counter()
                    scores = base_model.score(batch)
                    self._report(name, start_s)
                    take(name, scores)
            done_s = time.perf_counter()

        remote = self._remote(batch, taste)
        if taste is None or remote is None:
            score_local()
            return
        scores = remote.ask(batch, taste, score_local)
        self._report(remote.name, done_s)
        take(remote.name, scores)

    def _report(self, name: str, start_s: float) -> None:
        if self._on_base_model is not None:
            self._on_base_model(name, time.perf_counter() - start_s)

    def _weights(
        self, requests: Sequence[RecommendRequest], batch: RequestBatch, base_models: tuple[str, ...], arm: str | None
    ) -> tuple[Weights, list[str]]:
        """Return the weights and the arm of each request."""
        arms = [arm or self.arm(request) for request in requests]
        weights = Weights.zeros(batch.n, len(base_models))
        for each in set(arms):
            is_arm = np.array([other == each for other in arms])
            weights.put(is_arm, self._ensembles[each].weights_of(base_models, batch))
        return weights, arms
