"""Scoring of a batch by all base models and the ensemble.

Shapes: B requests, M base models, I items, T items that a remote base model knows (the first T).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models import LocalBaseModel
from tritone_serving.recommender.base_models.remote import RemoteBaseModel, RemoteInputs
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.ensemble import Blend, Ensemble, Weights, log_scaled
from tritone_serving.recommender.exceptions import InvalidRequestError
from tritone_serving.recommender.requests import Floats, Ints, RecommendRequest, RecommendResponse


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


# Name of a remote base model -> log-probabilities (B, T) by its network; None if it did not answer.
RemoteScores = Mapping[str, Floats | None]
OnBaseModel = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class ResolvedRequests:
    """Requests with their users and items looked up.

    Attributes:
        requests: the B requests that must be scored.
        batch: the same as arrays.
        arms: (B,) arm of each request.
        remote_inputs: inputs of the remote base models that can score at least one request, by name.
        responses: for each request of the call, a precomputed response, or the reason why the request is invalid; None
            if it must be scored.
        is_without_events: whether recorded events of the users could not be read.
    """

    requests: Sequence[RecommendRequest]
    batch: RequestBatch
    arms: Sequence[str]
    remote_inputs: Mapping[str, RemoteInputs]
    responses: Sequence[RecommendResponse | InvalidRequestError | None]
    is_without_events: bool = False


@dataclass(frozen=True, eq=False)
class LocalScores:
    """Scores of one batch by the local base models.

    Attributes:
        base_models: name -> raw scores (B, I), or (B, n) of some items.
        blend: their weighted sum, to which the remote base models are added.
        items: (n,) the scored items, ascending; None for all.
    """

    base_models: dict[str, Floats]
    blend: Blend
    items: Ints | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one batch.

    Attributes:
        base_models: name -> raw scores (B, I), or (B, n) of some items; remote base models are missing if they did not
            answer.
        ensemble: (B, I) or (B, n).
        weights: weights of the base models, in the order of `base_models`.
        arms: (B,) arm of each request.
        items: (n,) the scored items, ascending; None for all.
    """

    base_models: dict[str, Floats]
    ensemble: Floats
    weights: Weights
    arms: Sequence[str]
    items: Ints | None = None

    def positions(self, items: Ints) -> Ints:
        """Return where the scores of some of the scored items are."""
        return items if self.items is None else np.searchsorted(self.items, items)

    def joined(self, other: Scored) -> Scored:
        """Return the scores of the same requests for the items of both, which must have none in common."""
        if self.items is None or other.items is None:
            raise ValueError("cannot join scores: expected scores of some items, got scores of all")
        items = np.concatenate([self.items, other.items])
        order = np.argsort(items)

        def join(one: Floats, two: Floats) -> Floats:
            return np.concatenate([one, two], axis=1)[:, order]

        base_models = {name: join(each, other.base_models[name]) for name, each in self.base_models.items()}
        return Scored(base_models, join(self.ensemble, other.ensemble), self.weights, self.arms, items[order])


class EnsembleScorer:
    """Scores batches with the base models and ensembles of one artifact. It calls no other model.

    Attributes:
        base_models: by name, including the remote `taste_vae`.
        scales: unit of each base model's scores, see `ensemble.log_scaled`.
        n_listened: number of items with listeners, which come first.
        n_items: I.
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
        self._local = {name: each for name, each in base_models.items() if not isinstance(each, RemoteBaseModel)}
        self._remote = {name: each for name, each in base_models.items() if isinstance(each, RemoteBaseModel)}
        self.n_items = artifact.n_items
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

    def remote_inputs(self, batch: RequestBatch) -> dict[str, RemoteInputs]:
        """Return the inputs of the remote base models that can score at least one request, by name."""
        return {name: each.inputs(batch) for name, each in self._remote.items() if each.knows(batch).any()}

    def score_base_models(self, batch: RequestBatch, remote_scores: RemoteScores) -> dict[str, Floats]:
        """Return the raw scores of all base models, name -> (B, I); without remote ones that did not answer."""
        return {**dict(self._score_local(batch, tuple(self._local))), **self._score_remote(batch, remote_scores)}

    def weighted(self, batch: RequestBatch, arms: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
        """Return the base models that have a weight other than 0 for at least one request.

        Args:
            arms: (B,) arm of each request.
            names: base models.
        """
        return _weighted(self._weights(batch, arms, tuple(names)), names)

    def score_local(
        self, batch: RequestBatch, arms: Sequence[str], *, every: bool = False, items: Ints | None = None
    ) -> LocalScores:
        """Score a batch by the local base models, which takes most of the time; see `combine`.

        Args:
            batch: the requests; a single one if `items` are given.
            arms: (B,) arm of each request.
            every: score by all base models, also by those that have no weight for any request.
            items: (n,) score only these items, ascending.
        """
        names = tuple(self._local)
        weights = self._weights(batch, arms, names)
        blend = (
            Blend(batch.n, self.n_listened, self.n_items)
            if items is None
            else Blend(batch.n, int(np.searchsorted(items, self.n_listened)), len(items))
        )
        found = LocalScores({}, blend, items)
        for name, scores in self._score_local(batch, names if every else _weighted(weights, names), items):
            found.base_models[name] = scores
            found.blend.add(log_scaled(scores, self.scales[name]), weights, names.index(name))
        return found

    def combine(
        self, batch: RequestBatch, arms: Sequence[str], local: LocalScores, remote_scores: RemoteScores
    ) -> Scored:
        """Add the remote base models to the local ones.

        Args:
            arms: (B,) arm of each request.
            local: result of `score_local` for the same batch; its blend is changed.
            remote_scores: outputs of the remote base models for `remote_inputs(batch)`.

        Raises:
            ValueError: the outputs are of a wrong shape.
        """
        remote = self._score_remote(batch, remote_scores, local.items)
        base_models = {**local.base_models, **remote}
        weights = self._weights(batch, arms, tuple(base_models))
        for column, (name, scores) in enumerate(remote.items(), start=len(local.base_models)):
            local.blend.add(log_scaled(scores, self.scales[name]), weights, column)
        return Scored(base_models, local.blend.total(weights.bias), weights, arms, local.items)

    def score_cold(self, batch: RequestBatch, arms: Sequence[str], first: int) -> Floats:
        """Return the ensemble's scores of the items from `first` on, which have no listeners (B, I - first).

        Only the local base models that have a weight for such items are scored.

        Args:
            arms: (B,) arm of each request.
            first: index of the first of these items.
        """
        weights = self._weights(batch, arms, tuple(self._local))
        total = np.repeat(weights.bias[:, None], self.n_items - first, axis=1)
        for column, (name, base_model) in enumerate(self._local.items()):
            if weights.cold[:, column].any():
                scores = log_scaled(base_model.score(batch)[:, first:], self.scales[name])
                total += weights.cold[:, column, None] * scores
        return total

    def proposals(self, batch: RequestBatch, arms: Sequence[str], n: int) -> list[Ints]:
        """Return the items that the local base models with a weight for a single request score highest.

        Items without listeners have weights of their own, so that the best of them are proposed too.

        Args:
            batch: the request.
            arms: (1,) its arm.
            n: number of items of each base model.
        """
        weights = self._weights(batch, arms, tuple(self._local))
        # Without evidence, scores are equal: the first items of either kind are the best ones.
        found = [np.arange(min(n, self.n_listened)), np.arange(self.n_listened, min(self.n_listened + n, self.n_items))]
        for (name, base_model), listened, cold in zip(
            self._local.items(), weights.listened[0].tolist(), weights.cold[0].tolist(), strict=True
        ):
            start_s = time.perf_counter()
            if listened:
                found.append(base_model.propose(batch, n))
            if cold and self.n_listened < self.n_items:
                found.append(base_model.propose(batch, n, self.n_listened))
            batch.proposal_seconds[name] = time.perf_counter() - start_s  # added to those of scoring
        return found

    def _score_local(
        self, batch: RequestBatch, names: Sequence[str], items: Ints | None = None
    ) -> Iterator[tuple[str, Floats]]:
        for name in names:
            start_s = time.perf_counter()
            scores = self._local[name].score(batch, items)
            if self._on_base_model is not None:
                seconds = time.perf_counter() - start_s + batch.proposal_seconds.pop(name, 0.0)
                self._on_base_model(name, seconds)
            yield name, scores

    def _score_remote(
        self, batch: RequestBatch, remote_scores: RemoteScores, items: Ints | None = None
    ) -> dict[str, Floats]:
        return {
            name: base_model.scores(batch, outputs, items)
            for name, base_model in self._remote.items()
            if (outputs := remote_scores.get(name)) is not None and base_model.knows(batch).any()
        }

    def _weights(self, batch: RequestBatch, arms: Sequence[str], base_models: tuple[str, ...]) -> Weights:
        different = set(arms)
        if len(different) == 1:
            return self._ensembles[arms[0]].weights_of(base_models, batch)
        weights = Weights.zeros(batch.n, len(base_models))
        for each in different:
            is_arm = np.array([other == each for other in arms])
            weights.put(is_arm, self._ensembles[each].weights_of(base_models, batch))
        return weights


def _weighted(weights: Weights, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of the base models, in the order of the columns, that have a weight for any request."""
    counts = weights.listened.any(0) | weights.cold.any(0)
    return tuple(name for name, does_count in zip(names, counts.tolist(), strict=True) if does_count)
