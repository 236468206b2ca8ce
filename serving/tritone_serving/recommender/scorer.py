"""Scores of a batch: every member's, and the ensemble's of them.

Shapes: B questions, M members, I items, T items that `taste_vae` knows (the first T).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender.arms import arm_of
from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.ensemble import Blend, Ensemble, Weights, loud
from tritone_serving.recommender.members import Member
from tritone_serving.recommender.members.taste import Taste, TasteInputs
from tritone_serving.recommender.question import Floats, Question

# Asks taste_vae for its scores (B, T), and calls the second argument once, before, after or meanwhile.
AskTaste = Callable[[TasteInputs, Callable[[], None]], Floats]
OnMember = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one batch.

    Attributes:
        members: name -> (B, I), raw.
        ensemble: (B, I).
        weights: of the members in that order.
        arms: (B,) which ensemble each question got.
    """

    members: dict[str, Floats]
    ensemble: Floats
    weights: Weights
    arms: list[str]


class Scorer:
    """Members and ensembles of one artifact.

    Attributes:
        members: by name; `taste_vae` is among them though another model scores for it.
        scales: each member's unit, see `ensemble.loud`.
        n_heard: items that anybody listens to; they come first.
    """

    def __init__(self, artifact: Artifact, members: Mapping[str, Member], on_member: OnMember | None) -> None:
        manifest = artifact.manifest
        self.members = members
        self.scales = {name: float(each.get("scale", 0.0)) for name, each in manifest["members"].items()}
        self.n_heard = int(np.count_nonzero(artifact.arrays["popularity.shares"]))
        self._n_items = artifact.n_items
        self._on_member = on_member
        self._ensembles = {arm: Ensemble.from_manifest(each) for arm, each in manifest["ensembles"].items()}
        self._ab: Mapping[str, Any] = manifest.get("ab") or {"salt": "", "shares": {next(iter(self._ensembles)): 1.0}}

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that anybody gets."""
        return tuple(name for name, share in self._ab["shares"].items() if share > 0)

    def arm(self, question: Question) -> str:
        """The arm that a question gets by its user's id."""
        return arm_of(question.user, salt=self._ab["salt"], shares=self._ab["shares"])

    def members_of(self, batch: Batch, taste: AskTaste | None) -> dict[str, Floats]:
        """Every member's raw scores: name -> (B, I)."""
        scores: dict[str, Floats] = {}
        self._score(batch, taste, scores.__setitem__)
        return scores

    def score(
        self, questions: Sequence[Question], batch: Batch, taste: AskTaste | None, arm: str | None = None
    ) -> Scored:
        """Members' scores, and the ensemble's, which is added up while `taste_vae` is being asked.

        Args:
            arm: for all; drawn by each user's id unless given.
        """
        names = self._names(batch, taste)
        weights, arms = self._weights(questions, batch, names, arm)
        blend = Blend(weights, self.n_heard, self._n_items)
        scores: dict[str, Floats] = {}

        def add(name: str, raw: Floats) -> None:
            scores[name] = raw
            blend.add(names.index(name), loud(raw, self.scales[name]))

        self._score(batch, taste, add)
        return Scored(scores, blend.total(), weights, arms)

    def _names(self, batch: Batch, taste: AskTaste | None) -> tuple[str, ...]:
        """Who will score a batch, `taste_vae` last."""
        asked = self._asked(batch, taste)
        others = [name for name, member in self.members.items() if not isinstance(member, Taste)]
        return (*others, *([] if asked is None else [asked.name]))

    def _asked(self, batch: Batch, taste: AskTaste | None) -> Taste | None:
        """The member that another model scores for, if it has anything to say."""
        found = (member for member in self.members.values() if isinstance(member, Taste))
        return next((member for member in found if taste is not None and member.knows(batch).any()), None)

    def _score(self, batch: Batch, taste: AskTaste | None, take: Callable[[str, Floats], None]) -> None:
        """Hand over each member's scores as they come."""
        done_s = 0.0

        def others() -> None:
            nonlocal done_s
            for name, member in self.members.items():
                if not isinstance(member, Taste):
                    start_s = time.perf_counter()
                    scores = member.score(batch)
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
        self, questions: Sequence[Question], batch: Batch, members: tuple[str, ...], arm: str | None
    ) -> tuple[Weights, list[str]]:
        """Each question's weights, and its arm."""
        arms = [arm or self.arm(question) for question in questions]
        weights = Weights.zeros(batch.n, len(members))
        for each in set(arms):
            mine = np.array([other == each for other in arms])
            weights.put(mine, self._ensembles[each].weights_of(members, batch))
        return weights, arms
