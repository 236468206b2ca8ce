"""The recommender: questions in, answers out, all of one call scored together.

```python
from pathlib import Path
from tritone_serving.recommender import Question, Recommender, read_key

recommender = Recommender.open(Path("model_repository/recommender/1"), key=read_key(Path("recommender.key")))
[answer] = recommender.answer([Question(user="42", k=10)], taste=None)
print(answer.items, answer.scores, answer.source)
```
Shapes: B questions, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender._exceptions import ArtifactError, QuestionError
from tritone_serving.recommender.artifact import Artifact, open_artifact
from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.lists import Lists
from tritone_serving.recommender.members import Member, open_members
from tritone_serving.recommender.members.taste import open_taste
from tritone_serving.recommender.pseudonyms import key_check
from tritone_serving.recommender.question import MIN_FRIENDS, Answer, Floats, Question, Reason, Source, Unknown
from tritone_serving.recommender.ranking import Ranked, rank
from tritone_serving.recommender.reasons import reasons_of
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.scorer import AskTaste, OnMember, Scored, Scorer
from tritone_serving.recommender.similar import Similar, similar_items
from tritone_serving.recommender.track_search import Search, SearchAnswer, TrackSearch
from tritone_serving.recommender.wording import shown

_NEVER: Final = np.float32(-np.inf)


class Recommender:
    """One artifact, opened. Safe to use from several threads: nothing changes after `open`.

    Attributes:
        artifact: its manifest and arrays.
        item_ids: (I,) in the artifact's order.
        tags: their names, for reasons.
        titles: (I,) of the items, empty where unknown; None if the artifact has no titles.
        artists: as `titles`.
        scorer: scores batches by its members and ensembles.
        min_friends: smallest number of friends whose shared listening reasons may name.
    """

    def __init__(
        self,
        artifact: Artifact,
        resolver: Resolver,
        members: Mapping[str, Member],
        on_member: OnMember | None = None,
        *,
        min_friends: int = MIN_FRIENDS,
    ) -> None:
        self.artifact = artifact
        self.min_friends = min_friends
        self.scorer = Scorer(artifact, members, on_member)
        self.item_ids: tuple[str, ...] = tuple(artifact.texts("items"))
        self.titles, self.artists = (_texts(artifact, name) for name in ("titles", "artists"))
        self.tags: tuple[str, ...] = tuple(artifact.texts("tags")) if "tags.ends" in artifact.arrays else ()
        self.resolver = resolver
        self._lists = Lists.open(artifact)
        self._popularity = artifact.arrays["popularity.shares"]
        self._vectors = artifact.arrays.get("vectors")

    @classmethod
    def open(
        cls, folder: Path, *, key: bytes, on_member: OnMember | None = None, min_friends: int = MIN_FRIENDS
    ) -> Recommender:
        """Map an artifact into memory.

        Args:
            on_member: told each member's name and seconds after it has scored a call's questions; `taste_vae`'s
                are those of waiting for it.
            min_friends: smallest number of friends whose shared listening reasons may name.

        Raises:
            ArtifactError: it is missing, damaged, of another version, or was made with another key.
        """
        artifact = open_artifact(folder)
        if artifact.manifest["key_check"] != key_check(key):
            raise ArtifactError(
                f"{folder}: was made with another key than the one given, so no user would be known; "
                f"give the key file that was used at training"
            )
        members = {**open_members(artifact), **open_taste(artifact)}
        resolver = Resolver(artifact, key, min_friends=min_friends)
        return cls(artifact, resolver, members, on_member, min_friends=min_friends)

    # --- answering -----------------------------------------------------------------------------

    def answer(
        self, questions: Sequence[Question], *, taste: AskTaste | None = None, arm: str | None = None
    ) -> list[Answer | QuestionError]:
        """Answer questions, each in its place; what cannot be answered becomes an error in its place.

        Args:
            taste: asks `taste_vae`; without it that member has no say.
            arm: of an A/B test, for all; drawn by each user's id unless given.
        """
        listed = {place: answer for place, q in enumerate(questions) if (answer := self._listed(q, arm)) is not None}
        rest = [place for place in range(len(questions)) if place not in listed]
        batch, wrong = self.resolver.batch([questions[place] for place in rest])
        errors = {rest[place]: error for place, error in wrong.items()}
        kept = [questions[place] for place in rest if place not in errors]
        answers = iter(self._answer(kept, batch, taste, arm) if kept else ())
        return [
            listed[place] if place in listed else errors[place] if place in errors else next(answers)
            for place in range(len(questions))
        ]

    def _listed(self, question: Question, arm: str | None) -> Answer | None:
        """The answer to a plain question about a stored user, if it was worked out in training."""
        if not self._lists.by_arm:
            return None
        user = self.resolver.user_of(question)
        if user < 0:
            return None
        try:
            question.check()
        except QuestionError:
            return None  # it is told in its place with the others
        arm = arm or self.scorer.arm(question)
        exclude, unknown = self.resolver.items(question.exclude)
        ranked = self._lists.find(question, user, arm, exclude)
        if ranked is None:
            return None
        return Answer(
            items=tuple(self.item_ids[item] for item in ranked.items.tolist()),
            scores=ranked.scores,
            source="user",
            reasons=(),
            unknown=Unknown(exclude=unknown),
            arm=arm,
            heard=self.resolver.n_stored(user),
        )

    def score(
        self, questions: Sequence[Question], *, taste: AskTaste | None = None
    ) -> tuple[dict[str, Floats], Floats, Batch]:
        """Every member's scores and the ensemble's, for evaluation: nothing is filtered or cut.

        Returns:
            member -> (B, I); the ensemble's (B, I); the batch.

        Raises:
            QuestionError: one of the questions cannot be answered.
        """
        batch, errors = self.resolver.batch(questions)
        for error in errors.values():
            raise error
        scored = self.scorer.score(questions, batch, taste)
        return scored.members, scored.ensemble, batch

    def score_by_friends(
        self, friends: Sequence[Sequence[int]], users: Sequence[int], *, taste: AskTaste | None = None
    ) -> tuple[dict[str, Floats], Floats]:
        """As `score`, for people of whom nothing is known but the rows of their friends.

        Args:
            users: rows of these people themselves, who may be friends of their friends.

        Returns:
            member -> (B, I); the ensemble's (B, I).
        """
        n = len(friends)
        nothing = Rows.from_lists([np.zeros(0, np.int64)] * n, [np.zeros(0, np.float32)] * n)
        rows, circle = self.resolver.around([np.array(each, np.int64) for each in friends], users)
        history, borrowed = self.resolver.borrow(nothing, rows)
        batch = Batch(
            users=np.full(n, -1),
            history=history,
            heard=nothing,
            friends=rows,
            circle=circle,
            embeddings=None,
            moods=np.full(n, -1),
            unknown=[Unknown()] * n,
            friend_ids=[{}] * n,
            borrowed=borrowed,
        )
        scored = self.scorer.score([Question()] * n, batch, taste)
        return scored.members, scored.ensemble

    def _answer(
        self, questions: Sequence[Question], batch: Batch, taste: AskTaste | None, arm: str | None
    ) -> list[Answer]:
        scored = self.scorer.score(questions, batch, taste, arm)
        total = scored.ensemble
        answers = []
        for row, question in enumerate(questions):
            n_heard = self._mask(total[row], question, batch, row)
            ranked = rank(
                total[row],
                question.k,
                diversity=question.diversity,
                novelty=question.novelty,
                popularity=self._popularity,
                vectors=self._vectors,
            )
            answers.append(
                Answer(
                    items=tuple(self.item_ids[item] for item in ranked.items.tolist()),
                    scores=ranked.scores,
                    source=self._source(question, batch, row),
                    reasons=self._reasons(question, batch, row, ranked, scored),
                    unknown=batch.unknown[row],
                    arm=scored.arms[row],
                    heard=n_heard,
                )
            )
        return answers

    def _reasons(
        self, question: Question, batch: Batch, row: int, ranked: Ranked, scored: Scored
    ) -> tuple[tuple[Reason, ...], ...]:
        if not question.explain:
            return ()
        return reasons_of(self, batch, row, ranked=ranked, scored=scored, is_trusted=question.caller.is_trusted)

    def _mask(self, scores: Floats, question: Question, batch: Batch, row: int) -> int:
        """Put -inf where an item must not come; answers how many were left out as heard."""
        heard = batch.heard.row(row)[0]
        history, weights = batch.history.row(row)
        scores[history[weights < 0]] = _NEVER
        if question.exclude:
            scores[self.resolver.items(question.exclude)[0]] = _NEVER
        if not question.filter_listened:
            return 0
        scores[heard] = _NEVER
        return len(heard)

    def _source(self, question: Question, batch: Batch, row: int) -> Source:
        if batch.n_history[row]:
            return "user" if batch.users[row] >= 0 else "history"
        if len(batch.friends.row(row)[0]):
            return "friends"
        if batch.embeddings is not None and batch.embeddings[row].any():
            return "recording"
        if question.mood is not None and "items.moods" in self.artifact.arrays:
            return "mood"
        return "popularity"

    def texts_of(self, item: int) -> tuple[str, str]:
        """Return the title and the artist of an item, empty where unknown."""
        return (
            self.titles[item] if self.titles is not None else "",
            self.artists[item] if self.artists is not None else "",
        )

    # --- search --------------------------------------------------------------------------------

    @cached_property
    def track_search(self) -> TrackSearch:
        """The index of ids, titles and artists; building it takes about a second for 100,000 items."""
        texts = {"id": self.item_ids, "title": self.titles, "artist": self.artists}
        return TrackSearch({field: each for field, each in texts.items() if each is not None})

    def search(self, search: Search) -> SearchAnswer:
        """Return items found by id, title or artist.

        Raises:
            QuestionError: as `TrackSearch.search`.
        """
        return self.track_search.search(search)

    # --- alike ---------------------------------------------------------------------------------

    def similar(
        self,
        item: str | None = None,
        *,
        embedding: npt.NDArray[np.floating[Any]] | None = None,
        by: str = "both",
        n: int = 10,
    ) -> list[Similar]:
        """Items that are listened to by the same people, sound alike, or both.

        Args:
            item: an item's id, or
            embedding: (256,) of a recording.
            by: `listening`, `sound` or `both`.
            n: how many, best first.

        Raises:
            QuestionError: the item is unknown, or nothing of the kind is known about it.
        """
        place = None
        if item is not None:
            place = self.resolver.item(item)
            if place is None:
                raise QuestionError(f"item {shown(item)} is not known")
        found = similar_items(
            self.artifact, place, embedding, by=by, n=n, n_listeners=lambda: self.resolver.n_listeners
        )
        return [Similar(self.item_ids[each], score) for each, score in found]


def _texts(artifact: Artifact, name: str) -> tuple[str, ...] | None:
    return tuple(artifact.texts(name)) if f"{name}.ends" in artifact.arrays else None
