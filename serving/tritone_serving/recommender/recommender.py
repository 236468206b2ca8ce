"""The public `Recommender` class: recommendations and playlists from one artifact; its `catalogue` searches items.

```python
from pathlib import Path
from tritone_serving.recommender import RecommendRequest, Recommender, read_key

recommender = Recommender.open(Path("model_repository/recommender/1"), key=read_key(Path("recommender.key")))
[answer] = recommender.recommend([RecommendRequest(user="42", k=10)])
print(answer.items, answer.scores, answer.source)
```
`recommend` leaves out the remote base models (`taste_vae`, `taste_sequence`). To include them, run them on the inputs
of the resolved requests and pass their outputs on:

```python
resolved = recommender.resolve(requests)
remote_scores = {name: run(name, inputs.tensors) for name, inputs in resolved.remote_inputs.items()}
answers = recommender.respond(resolved, remote_scores=remote_scores)
```
Shapes: B requests, I items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from tritone_serving.recommender.artifact import Artifact, open_artifact
from tritone_serving.recommender.base_models import LocalBaseModel, open_base_models
from tritone_serving.recommender.base_models.remote import RemoteBaseModel, RemoteInputs, open_remote_base_models
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.candidates import CandidateScorer, CandidateScores, CandidateSettings
from tritone_serving.recommender.catalogue import Catalogue
from tritone_serving.recommender.exceptions import ArtifactError, InvalidRequestError
from tritone_serving.recommender.moods import AppliedMood
from tritone_serving.recommender.playlists import PlaylistMaker, PlaylistRequest, PlaylistResponse
from tritone_serving.recommender.pseudonyms import key_check
from tritone_serving.recommender.recent_events import NOTHING_RECORDED, RecentEvents
from tritone_serving.recommender.requests import (
    MIN_FRIENDS,
    RecommendRequest,
    RecommendResponse,
    UnknownInputs,
)
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.responses import ResponseBuilder, without_events
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.scorer import (
    EnsembleScorer,
    LocalScores,
    OnBaseModel,
    RemoteScores,
    ResolvedRequests,
    Scored,
)


class Recommender:
    """Recommends from one artifact. Safe to use from several threads, since it is immutable.

    Attributes:
        artifact: manifest and arrays.
        resolver: maps ids of users and items to indices.
        catalogue: texts of the items, search among them, and similar items.
        item_ids: (I,) in the order of the artifact.
        scorer: scores batches with the base models and ensembles.
    """

    def __init__(
        self,
        artifact: Artifact,
        resolver: Resolver,
        base_models: Mapping[str, LocalBaseModel | RemoteBaseModel],
        on_base_model: OnBaseModel | None = None,
        *,
        min_friends: int = MIN_FRIENDS,
        candidates: CandidateSettings | None = None,
    ) -> None:
        self.artifact = artifact
        self.scorer = EnsembleScorer(artifact, base_models, on_base_model)
        self._candidates = None
        if candidates is not None and artifact.n_items >= candidates.min_items:
            self._candidates = CandidateScorer(self.scorer, candidates)
        self.resolver = resolver
        self.catalogue = Catalogue(artifact, resolver)
        self.item_ids = self.catalogue.item_ids
        self._responses = ResponseBuilder(artifact, resolver, self.scorer, self.catalogue, min_friends=min_friends)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        key: bytes,
        on_base_model: OnBaseModel | None = None,
        min_friends: int = MIN_FRIENDS,
        candidates: CandidateSettings | None = None,
    ) -> Recommender:
        """Open an artifact with its arrays mapped into memory.

        Args:
            folder: folder of the artifact.
            key: key of the users' pseudonyms.
            on_base_model: called with the name of a local base model and the seconds it took to score a batch.
            min_friends: smallest number of friends whose shared listening may be named in reasons.
            candidates: minimum number of items for candidate scoring, and candidates per base model; None for never.

        Raises:
            ArtifactError: the artifact is missing, damaged, of another version, or was made with another key.
        """
        artifact = open_artifact(folder)
        if artifact.manifest["key_check"] != key_check(key):
            raise ArtifactError(
                f"{folder}: was made with another key than the one given, so no user would be known; "
                f"give the key file that was used at training"
            )
        base_models: dict[str, LocalBaseModel | RemoteBaseModel] = {
            **open_base_models(artifact),
            **open_remote_base_models(artifact),
        }
        resolver = Resolver(artifact, key, min_friends=min_friends)
        return cls(artifact, resolver, base_models, on_base_model, min_friends=min_friends, candidates=candidates)

    # --- recommend -----------------------------------------------------------------------------

    def recommend(
        self, requests: Sequence[RecommendRequest], *, arm: str | None = None
    ) -> list[RecommendResponse | InvalidRequestError]:
        """Recommend items for each request by the local base models; all requests of a call are scored together.

        Args:
            requests: the requests.
            arm: arm of the A/B test for all requests; by default drawn from each user's id.

        Returns:
            in the order of the requests, a response or the reason why the request is invalid.
        """
        return self.respond(self.resolve(requests, arm=arm))

    def resolve(
        self,
        requests: Sequence[RecommendRequest],
        *,
        arm: str | None = None,
        use_precomputed: bool = True,
        recent: RecentEvents | None = None,
    ) -> ResolvedRequests:
        """Look up the users and items of requests, and find precomputed responses.

        Args:
            requests: the requests.
            arm: as in `recommend`.
            use_precomputed: whether requests may be answered by precomputed rankings; if not, all are scored. Users
                with recent events are always scored.
            recent: recorded events of the requests' users; None if there is no event store.
        """
        events = [NOTHING_RECORDED] * len(requests) if recent is None else self.resolver.fold(requests, recent)
        users = [self.resolver.user_of(request) for request in requests]
        responses: list[RecommendResponse | InvalidRequestError | None]
        responses = [
            self._responses.precomputed(request, user, arm) if use_precomputed and not len(folded.items) else None
            for request, user, folded in zip(requests, users, events, strict=True)
        ]
        rest = [index for index, response in enumerate(responses) if response is None]
        batch, errors = self.resolver.batch(
            [requests[index] for index in rest], [events[index] for index in rest], [users[index] for index in rest]
        )
        for index, error in errors.items():
            responses[rest[index]] = error
        scored = [request for request, response in zip(requests, responses, strict=True) if response is None]
        arms = [arm or self.scorer.arm(request) for request in scored]
        is_without_events = recent is not None and not recent.is_available
        return ResolvedRequests(
            scored, batch, arms, self.scorer.remote_inputs(batch), responses, is_without_events=is_without_events
        )

    def resolve_friends(self, friends: Sequence[Sequence[int]], users: Sequence[int]) -> ResolvedRequests:
        """As `resolve`, for users of whom only the friends are known.

        Args:
            friends: rows of each user's friends.
            users: rows of the users themselves, who are left out of their friends' friends.
        """
        n = len(friends)
        nothing = Rows.from_lists([np.zeros(0, np.int64)] * n, [np.zeros(0, np.float32)] * n)
        rows, social_neighbourhood = self.resolver.around([np.array(each, np.int64) for each in friends], users)
        history, borrowed = self.resolver.borrow(nothing, rows)
        batch = RequestBatch(
            users=np.full(n, -1),
            history=history,
            consumed=nothing,
            friends=rows,
            social_neighbourhood=social_neighbourhood,
            embeddings=None,
            moods=[AppliedMood()] * n,
            unknown=[UnknownInputs()] * n,
            friend_ids=[{}] * n,
            borrowed=borrowed,
            is_known=np.zeros(n, np.bool_),
        )
        requests = [RecommendRequest()] * n
        arms = [self.scorer.arm(request) for request in requests]
        return ResolvedRequests(requests, batch, arms, self.scorer.remote_inputs(batch), [None] * n)

    @property
    def uses_candidates(self) -> bool:
        """Whether recommendations are chosen from candidates instead of all items."""
        return self._candidates is not None

    def score_local(self, resolved: ResolvedRequests) -> LocalScores | CandidateScores:
        """Return the scores of the local base models, which can be computed while remote ones run elsewhere.

        Base models without a weight for any of the requests are left out. If `uses_candidates`, only candidates are
        scored.
        """
        if self._candidates is not None:
            excluded = self._responses.excluded
            return self._candidates.score_local(resolved.batch, resolved.requests, resolved.arms, excluded)
        return self.scorer.score_local(resolved.batch, resolved.arms)

    def needed_remote_inputs(self, resolved: ResolvedRequests) -> dict[str, RemoteInputs]:
        """Return those of `resolved.remote_inputs` whose base models have a weight for at least one request."""
        names = self.scorer.weighted(resolved.batch, resolved.arms, tuple(resolved.remote_inputs))
        return {name: resolved.remote_inputs[name] for name in names}

    def score(
        self,
        resolved: ResolvedRequests,
        *,
        remote_scores: RemoteScores | None = None,
        local: LocalScores | None = None,
    ) -> Scored:
        """Return the unfiltered scores of all items by all base models and the ensemble.

        Args:
            resolved: result of `resolve`.
            remote_scores: name of a remote base model -> log-probabilities (B, T), the output of its network for
                `resolved.remote_inputs`; base models that are missing or None are left out.
            local: result of `score_local` for the same requests; computed if it is None.

        Raises:
            InvalidRequestError: one of the requests is invalid.
            ValueError: `remote_scores` are of a wrong shape.
        """
        for response in resolved.responses:
            if isinstance(response, InvalidRequestError):
                raise response
        every = self.scorer.score_local(resolved.batch, resolved.arms, every=True) if local is None else local
        return self.scorer.combine(resolved.batch, resolved.arms, every, remote_scores or {})

    def respond(
        self,
        resolved: ResolvedRequests,
        *,
        remote_scores: RemoteScores | None = None,
        local: LocalScores | CandidateScores | None = None,
    ) -> list[RecommendResponse | InvalidRequestError]:
        """Recommend items for resolved requests.

        Args:
            resolved: result of `resolve`.
            remote_scores: as in `score`.
            local: result of `score_local` for the same requests; computed if it is None.

        Returns:
            in the order of the requests, a response or the reason why the request is invalid.

        Raises:
            ValueError: `remote_scores` are of a wrong shape.
        """
        answers: Iterator[RecommendResponse] = iter(())
        if resolved.requests:
            found = self.score_local(resolved) if local is None else local
            if isinstance(found, CandidateScores):
                answers = self._recommend_candidates(resolved, found, remote_scores or {})
            else:
                scored = self.scorer.combine(resolved.batch, resolved.arms, found, remote_scores or {})
                answers = self._responses.scored(resolved.requests, resolved.batch, scored)
        responses = [next(answers) if response is None else response for response in resolved.responses]
        if resolved.is_without_events:
            responses = [without_events(each) for each in responses]
        return responses

    def _recommend_candidates(
        self, resolved: ResolvedRequests, local: CandidateScores, remote_scores: RemoteScores
    ) -> Iterator[RecommendResponse]:
        assert self._candidates is not None  # noqa: S101 - checked by the caller
        for row, (request, arm) in enumerate(zip(resolved.requests, resolved.arms, strict=True)):
            batch = local.batches[row]
            excluded = self._responses.excluded(batch, 0, request)
            scored = self._candidates.combine(row, local, arm, excluded, remote_scores)
            yield from self._responses.scored([request], batch, scored)

    # --- playlists -----------------------------------------------------------------------------

    @cached_property
    def playlist_maker(self) -> PlaylistMaker:
        """Maker of playlists."""
        return PlaylistMaker(self)

    def playlist(self, request: PlaylistRequest, *, recent: RecentEvents | None = None) -> PlaylistResponse:
        """Return a path between two items or a mix from one; taste is followed by the local base models only.

        Args:
            request: what to make.
            recent: recorded events of the listener; None if there is no event store.

        Raises:
            InvalidRequestError: as `PlaylistMaker.make`.
        """
        return self.playlist_maker.make(request, recent=recent)
