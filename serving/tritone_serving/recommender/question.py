"""What a recommender is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender._exceptions import QuestionError
from tritone_serving.recommender.callers import TRUSTED, Caller
from tritone_serving.recommender.wording import shown

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Emotions by GEMS-9, in the order of `genre_cnn`'s output.
MOODS: Final = (
    "amazement",
    "solemnity",
    "tenderness",
    "nostalgia",
    "calmness",
    "power",
    "joyful_activation",
    "tension",
    "sadness",
)
EMBEDDING_SIZE: Final = 256
MOST_ITEMS: Final = 10_000  # that one answer holds
MOST_HISTORY: Final = 100_000  # that one question holds, duplicates included
MIN_FRIENDS: Final = 3  # fewer people's listening is not shown: what two or three share could be told apart
MOST_FRIENDS: Final = 1_000  # different ones: each costs a hash, and what they and their friends listen to is added up

Rung = Literal["user", "history", "friends", "recording", "mood", "popularity"]
RUNGS: Final[tuple[Rung, ...]] = ("user", "history", "friends", "recording", "mood", "popularity")


@dataclass(frozen=True, eq=False)
class Question:
    """Whom to recommend to. Everything may be left out; what is given is used together.

    Attributes:
        user: raw id; its stored history and friends are used if the artifact knows it.
        history: item ids, duplicates are summed.
        weights: how much each item of `history` was listened to, in the unit of the log (plays); all 1 if None.
        skipped: item ids that were turned away: never recommended, and evidence against what is like them.
        friends: raw user ids, at most 1000 different ones.
        embedding: (256,) of a recording by `genre_cnn`, any length but 0.
        mood: one of `MOODS`.
        k: how many items are wanted; fewer come only where the catalogue has no more.
        exclude: item ids that must not come.
        filter_heard: leave out what the user has heard (stored history and `history`).
        diversity: 0..1, how unlike one another the items should be.
        novelty: 0..1, how much little-known items are preferred.
        explain: answer reasons.
        caller: whose stored data may be used. Ids of all others are never looked up: they are unknown.
    """

    user: str | None = None
    history: Sequence[str] = ()
    weights: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None
    skipped: Sequence[str] = ()
    friends: Sequence[str] = ()
    embedding: Floats | None = None
    mood: str | None = None
    k: int = 10
    exclude: Sequence[str] = ()
    filter_heard: bool = True
    diversity: float = 0.0
    novelty: float = 0.0
    explain: bool = False
    caller: Caller = TRUSTED

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            QuestionError: says which field, what it holds and what was expected.
        """
        if isinstance(self.k, bool) or not 1 <= self.k <= MOST_ITEMS:
            raise QuestionError(f"k is {self.k}; expected 1 to {MOST_ITEMS}")
        for name in ("diversity", "novelty"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # false for NaN
                raise QuestionError(f"{name} is {value}; expected 0 to 1")
        for name in ("history", "skipped", "friends", "exclude"):
            if len(getattr(self, name)) > MOST_HISTORY:
                raise QuestionError(f"{name} holds {len(getattr(self, name))} ids; expected at most {MOST_HISTORY}")
        if len(self.friends) > MOST_FRIENDS and (n_friends := len(set(self.friends))) > MOST_FRIENDS:
            raise QuestionError(f"friends holds {n_friends} different ids; expected at most {MOST_FRIENDS}")
        if self.mood is not None and self.mood not in MOODS:
            raise QuestionError(f"mood is {shown(self.mood)}; expected one of {', '.join(MOODS)}")
        self._check_weights()
        self._check_embedding()

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.history):
            raise QuestionError(f"weights holds {len(self.weights)} numbers for {len(self.history)} history items")
        weights = np.asarray(self.weights, np.float64)
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(wrong):
            raise QuestionError(
                f"weights[{wrong[0]}] is {weights[wrong[0]]}; expected finite numbers, 0 or more (give what was "
                f"turned away in `skipped`)"
            )

    def _check_embedding(self) -> None:
        if self.embedding is None:
            return
        embedding = np.asarray(self.embedding)
        if embedding.shape != (EMBEDDING_SIZE,):
            raise QuestionError(f"embedding has shape {embedding.shape}; expected ({EMBEDDING_SIZE},)")
        length = float(np.linalg.norm(embedding.astype(np.float64)))
        if not math.isfinite(length) or length == 0:
            raise QuestionError(f"embedding has length {length}; expected finite numbers that are not all 0")


@dataclass(frozen=True)
class Reason:
    """One summand of one item's score.

    Attributes:
        member: who says it.
        because: what of the question it rests on: `history`, `friend`, `tag`, `recording`, `mood`;
            `friends_listening`: an item that friends listen to and that stood in for a history; `popularity`: what
            everybody listens to; `unheard`: a constant of items that nobody listens to yet; `diversity` and
            `novelty`: what re-ranking took away or gave.
        id: item id, friend's id as the question gave it, tag; empty where there is none to name.
        amount: of the score.
    """

    member: str
    because: str
    id: str
    amount: float


@dataclass(frozen=True)
class Unknown:
    """What of a question the artifact does not know: ids, or moods at all."""

    user: bool = False
    history: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mood: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """Recommendations.

    Attributes:
        items: ids, best first.
        scores: (k,) in the order of `items`, never rising.
        rung: the best that was known of whom was asked for.
        reasons: by item, in the order of `items`; each item's amounts add up to its score (to 1e-4 of the largest).
            Empty unless asked for.
        unknown: ids that were passed over.
        arm: which ensemble of an A/B test answered.
        heard: how many items were left out as heard.
    """

    items: tuple[str, ...]
    scores: Floats
    rung: Rung
    reasons: tuple[tuple[Reason, ...], ...]
    unknown: Unknown
    arm: str
    heard: int = 0
