"""Score a batch with every base model, and combine the scores into those of the ensemble.

Shapes: B requests, M base models, I items, T items that `taste_vae` knows (the first T).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models import LocalBaseModel
from tritone_serving.recommender.base_models.taste import RemoteBaseModel, TasteInputs
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.ensemble import Blend, Ensemble, Weights, log_scaled
from tritone_serving.recommender.requests import Floats, RecommendRequest

DEFAULT_ARM: Final = "a"


def arm_of(user: str | None, *, salt: str, shares: Mapping[str, float]) -> str:
    """Draw an arm by the salted hash of the raw user id.

    Args:
        user: None gets the first arm: nobody can be told apart from nobody.
        salt: another salt shuffles everybody anew.
        shares: arm -> share of the users; they are divided by their sum.
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


# Asks taste_vae for its scores (B, T), and calls the second argument once, before, after or meanwhile.
RemoteScorer = Callable[[TasteInputs, Callable[[], None]], Floats]
OnBaseModel = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one batch.

    Attributes:
        base models: name -> (B, I), raw.
        ensemble: (B, I).
        weights: of the base models in that order.
        arms: (B,) which ensemble each request got.
    """

    base_models: dict[str, Floats]
    ensemble: Floats
    weights: Weights
    arms: list[str]


class EnsembleScorer:
    """Base models and ensembles of one artifact.

    Attributes:
        base models: by name; `taste_vae` is among them though another model scores for it.
        scales: each base model's unit, see `ensemble.log_scaled`.
        n_listened: items that anybody listens to; they come first.
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
        self._on_member = on_base_model
        self._ensembles = {arm: Ensemble.from_manifest(each) for arm, each in manifest["ensembles"].items()}
        self._ab: Mapping[str, Any] = manifest.get("ab") or {"salt": "", "shares": {next(iter(self._ensembles)): 1.0}}

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that anybody gets."""
        return tuple(name for name, share in self._ab["shares"].items() if share > 0)

    def arm(self, request: RecommendRequest) -> str:
        """The arm that a request gets by its user's id."""
        return arm_of(request.user, salt=self._ab["salt"], shares=self._ab["shares"])

    def score_base_models(self, batch: RequestBatch, taste: RemoteScorer | None) -> dict[str, Floats]:
        """Every base model's raw scores: name -> (B, I)."""
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
        """Base models' scores, and the ensemble's, which is added up while `taste_vae` is being asked.

        Args:
            arm: for all; drawn by each user's id unless given.
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
        """Who will score a batch, `taste_vae` last."""
        asked = self._asked(batch, taste)
        others = [name for name, base_model in self.base_models.items() if not isinstance(base_model, RemoteBaseModel)]
        return (*others, *([] if asked is None else [asked.name]))

    def _asked(self, batch: RequestBatch, taste: RemoteScorer | None) -> RemoteBaseModel | None:
        """The base model that another model scores for, if it has anything to say."""
        found = (base_model for base_model in self.base_models.values() if isinstance(base_model, RemoteBaseModel))
        return next((base_model for base_model in found if taste is not None and base_model.knows(batch).any()), None)

    def _score(self, batch: RequestBatch, taste: RemoteScorer | None, take: Callable[[str, Floats], None]) -> None:
        """Hand over each base model's scores as they come."""
        done_s = 0.0

        def others() -> None:
            nonlocal done_s
            for name, base_model in self.base_models.items():
                if not isinstance(base_model, RemoteBaseModel):
                    start_s = time.perf_counter()
                    scores = base_model.score(batch)
                    self._tell(name, start_s)
                    take(name, scores)
            done_s = time.perf_counter()

        asked = self._asked(batch, taste)
        if taste is None or asked is None:
            others()
            return
        scores = asked.ask(batch, taste, others)
        self._tell(asked.name, done_s)
        take(asked.name, scores)

    def _tell(self, name: str, start_s: float) -> None:
        if self._on_member is not None:
            self._on_member(name, time.perf_counter() - start_s)

    def _weights(
        self, requests: Sequence[RecommendRequest], batch: RequestBatch, base_models: tuple[str, ...], arm: str | None
    ) -> tuple[Weights, list[str]]:
        """Each request's weights, and its arm."""
        arms = [arm or self.arm(request) for request in requests]
        weights = Weights.zeros(batch.n, len(base_models))
        for each in set(arms):
            mine = np.array([other == each for other in arms])
            weights.put(mine, self._ensembles[each].weights_of(base_models, batch))
        return weights, arms
