"""Tests of what callers without access learn from a recommender, and of what reasons disclose about friends."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    NOBODY,
    TRUSTED,
    Caller,
    InvalidRequestError,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    ScoreReason,
    open_artifact,
    read_key,
    write_artifact,
)
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows

VICTIM, OTHER, STRANGER = models.user_id(7), models.user_id(8), "listener-zq9999@example.org"
N_FRIENDS = {0: 1, 1: 2, 2: 3, 3: 6}  # user -> how many friends


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Recommender:
    folder = models.make_artifact(tmp_path_factory.mktemp("plain"), key_file, n_listed=20)
    return models.opened(folder, key_file)


@pytest.fixture(scope="module")
def social(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Recommender:
    """The first users have as many friends as `N_FRIENDS` says, and friends count for everybody."""
    folder = models.make_artifact(tmp_path_factory.mktemp("social"), key_file)
    artifact = open_artifact(folder)
    resolver = Resolver(artifact, read_key(key_file))
    rows = np.array([resolver.user(models.user_id(number)) for number in range(models.N_USERS)])
    friends = sparse.lil_matrix((models.N_USERS, models.N_USERS), dtype=np.float32)
    for user, n in N_FRIENDS.items():
        for friend in range(20, 20 + n):
            friends[rows[user], rows[friend]] = friends[rows[friend], rows[user]] = 1
    arrays = {name: np.array(array) for name, array in artifact.arrays.items()}
    arrays |= rows_arrays("friends", Rows.from_csr(friends.tocsr()))
    weights = {"ease": 1.0, "user_knn": 0.5, "social": 5.0, "popularity": 0.01}
    ensembles = {"a": {"warm_from": 5, "weights": dict.fromkeys(("cold", "short", "warm"), weights)}}
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("format", "arrays")}
    write_artifact(folder, {**manifest, "ensembles": ensembles}, arrays)
    return models.opened(folder, key_file)


def answered(recommender: Recommender, **given: Any) -> RecommendResponse:
    [answer] = recommender.recommend([RecommendRequest(**given)])
    assert isinstance(answer, RecommendResponse), answer
    return answer


def plain(answer: RecommendResponse | InvalidRequestError) -> Any:
    """An answer as comparable values."""
    if isinstance(answer, InvalidRequestError):
        return str(answer)
    return {**dataclasses.asdict(answer), "scores": answer.scores.tolist()}


# --- who is looked up -------------------------------------------------------------------------------------------


ASKED: list[dict[str, Any]] = [
    {},
    {"explain": True},
    {"filter_listened": False, "k": models.N_ITEMS},
    {"k": models.N_ITEMS},
    {"history": ["track-3", "nothing"]},
    {"diversity": 0.5, "novelty": 0.5},
    {"exclude": ["track-1"]},
    {"friends": [OTHER], "explain": True},
    {"history": ["track-3"], "friends": [OTHER], "explain": True},
    {"skipped": ["track-2"]},
    {"k": 0},
]


@pytest.mark.parametrize("given", ASKED)
@pytest.mark.parametrize("caller", [NOBODY, Caller(user=OTHER), Caller(user="")])
def test_a_stored_user_looks_like_an_unknown_user(
    recommender: Recommender, given: dict[str, Any], caller: Caller
) -> None:
    known, unknown = (
        plain(recommender.recommend([RecommendRequest(user=user, caller=caller, **given)])[0])
        for user in (VICTIM, STRANGER)
    )
    assert known == unknown
    if isinstance(known, dict):
        assert known["unknown"]["user"]
        assert known["source"] in ("popularity", "history")


@pytest.mark.parametrize("caller", [NOBODY, Caller(user=OTHER)])
@pytest.mark.parametrize("beside", [{}, {"history": ["track-3"]}, {"mood": "power"}, {"user": OTHER}])
def test_friends_are_named_by_trusted_callers_alone(
    recommender: Recommender, caller: Caller, beside: dict[str, Any]
) -> None:
    answers = [
        plain(recommender.recommend([RecommendRequest(friends=[friend], explain=True, caller=caller, **beside)])[0])
        for friend in (VICTIM, STRANGER)
    ]
    texts = [repr(answer).replace(friend, "ID") for answer, friend in zip(answers, (VICTIM, STRANGER), strict=True)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("given", ASKED)
def test_no_id_of_an_unauthorised_caller_is_looked_up(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    looked_up: list[str] = []
    user = Resolver.user
    monkeypatch.setattr(Resolver, "user", lambda self, raw: looked_up.append(raw) or user(self, raw))
    recommender.recommend([RecommendRequest(user=VICTIM, caller=NOBODY, **given)])
    assert looked_up == []
    recommender.recommend([RecommendRequest(user=VICTIM, caller=Caller(user=VICTIM), **given)])
    assert set(looked_up) <= {VICTIM}


@pytest.mark.parametrize("caller", [TRUSTED, Caller(user=VICTIM)])
def test_the_authorised_are_answered(recommender: Recommender, caller: Caller) -> None:
    answer = answered(recommender, user=VICTIM, caller=caller)
    assert (answer.source, answer.unknown.user) == ("user", False)
    assert answer.items == answered(recommender, user=VICTIM).items


def test_one_row_does_not_authorise_another(recommender: Recommender) -> None:
    own = Caller(user=OTHER)
    answers = recommender.recommend(
        [RecommendRequest(user=user, caller=own) for user in (OTHER, VICTIM, OTHER, STRANGER)]
    )
    assert [answer.unknown.user for answer in answers if isinstance(answer, RecommendResponse)] == [
        False,
        True,
        False,
        True,
    ]
    assert plain(answers[1]) == plain(answers[3])


def test_the_arm_of_a_test_depends_on_the_id_alone(recommender: Recommender) -> None:
    assert answered(recommender, user=VICTIM, caller=NOBODY).arm == answered(recommender, user=VICTIM).arm


# --- friends, for a caller with a token -------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "n_friends"), N_FRIENDS.items())
def test_few_friends_do_not_influence_the_response_to_a_token(social: Recommender, number: int, n_friends: int) -> None:
    user = models.user_id(number)
    for given in ({}, {"explain": True}, {"k": models.N_ITEMS}):
        question = RecommendRequest(user=user, caller=Caller(user=user), **given)  # type: ignore[arg-type]
        batch, _ = social.resolver.batch([question])
        assert len(batch.friends.row(0)[0]) == (n_friends if n_friends >= 3 else 0)
        assert len(batch.social_neighbourhood.row(0)[0]) >= (3 if n_friends >= 3 else 0)
    by_operator, _ = social.resolver.batch([RecommendRequest(user=user)])
    assert len(by_operator.friends.row(0)[0]) == n_friends


def test_a_token_does_not_disclose_friendships(social: Recommender) -> None:
    user, friend = models.user_id(3), models.user_id(20)
    answers = [
        plain(answered(social, user=user, friends=[named], caller=Caller(user=user), explain=True, k=40))
        for named in (friend, models.user_id(40), STRANGER)
    ]
    assert [answer["unknown"].pop("friends") for answer in answers] == [(friend,), (models.user_id(40),), (STRANGER,)]
    assert answers[0] == answers[1] == answers[2]


# --- reasons ----------------------------------------------------------------------------------------------------


def listening(recommender: Recommender, users: Sequence[str]) -> np.ndarray[Any, Any]:
    """(I,) how many of some users listen to each item."""
    rows = np.array([recommender.resolver.user(user) for user in users])
    return np.bincount(recommender.resolver.listening_of(rows).columns, minlength=models.N_ITEMS)


def named(answer: RecommendResponse, because: str) -> set[str]:
    return {r.id for reasons in answer.reasons for r in reasons if r.because == because and r.id}


def check_sums(answer: RecommendResponse) -> None:
    sums = [sum(reason.amount for reason in reasons) for reasons in answer.reasons]
    np.testing.assert_allclose(sums, answer.scores, atol=1e-4 * max(1.0, float(np.abs(answer.scores).max())))


@pytest.mark.parametrize("n_friends", [1, 2, 3, 8])
def test_items_of_few_friends_are_not_named(social: Recommender, n_friends: int) -> None:
    friends = [models.user_id(number) for number in range(30, 30 + n_friends)]
    answer = answered(social, friends=friends, explain=True, k=60, filter_listened=False)
    counts = listening(social, friends)
    shared = {models.item_id(item) for item in np.flatnonzero(counts >= 3)}
    assert answer.source == "friends"
    assert named(answer, "friends_listening") <= shared
    assert bool(named(answer, "friends_listening")) is (n_friends == 8)
    assert any(r.because == "friends_listening" for reasons in answer.reasons for r in reasons)
    check_sums(answer)


def test_min_friends_can_be_configured(social: Recommender, key_file: Path) -> None:
    friends = [models.user_id(number) for number in range(30, 38)]
    for least in (1, 5):
        other = Recommender.open(social.artifact.folder, key=read_key(key_file), min_friends=least)
        answer = answered(other, friends=friends, explain=True, k=60)
        counts = listening(other, friends)
        assert named(answer, "friends_listening") <= {models.item_id(i) for i in np.flatnonzero(counts >= least)}
        assert bool(named(answer, "friends_listening"))


def test_with_a_token_items_of_few_friends_are_not_attributed_to_friends(social: Recommender) -> None:
    user = models.user_id(3)
    friends = [models.user_id(number) for number in range(20, 26)]
    answer = answered(
        social, user=user, caller=Caller(user=user), explain=True, k=models.N_ITEMS, filter_listened=False
    )
    around = social.resolver.batch([RecommendRequest(user=user)])[0].social_neighbourhood.row(0)[0].astype(np.int64)
    counts = np.bincount(social.resolver.listening_of(around).columns, minlength=models.N_ITEMS)
    told = {
        item
        for item, reasons in zip(answer.items, answer.reasons, strict=True)
        if any(r.because == "friend" for r in reasons)
    }
    assert told
    assert told <= {models.item_id(item) for item in np.flatnonzero(counts >= 3)}
    assert any(r == ScoreReason("ensemble", "listeners", "", r.amount) for reasons in answer.reasons for r in reasons)
    assert not named(answer, "friend")
    assert not any(friend in repr(answer.reasons) for friend in friends)
    check_sums(answer)


def test_the_operator_gets_the_names_of_friends_in_the_request(social: Recommender) -> None:
    friends = [models.user_id(number) for number in range(30, 33)]
    history = [models.item_id(number) for number in range(4)]
    assert named(answered(social, friends=friends, history=history, explain=True, k=60), "friend") <= set(friends)
    assert named(answered(social, friends=friends, history=history, explain=True, k=60), "friend")


# --- other ways to one person's listening -----------------------------------------------------------------------


def test_one_similar_user_is_not_used_as_a_neighbour(tmp_path: Path, key_file: Path) -> None:
    """Otherwise a history that only one listener has would disclose the rest of that listener's history."""
    folder = models.make_artifact(tmp_path, key_file)
    artifact = open_artifact(folder)
    listening = artifact.rows("listening").to_csr(models.N_ITEMS).tolil()
    rare = models.N_ITEMS - 1
    listening[:, rare] = 0
    listening[5, rare] = 1
    heard = sparse.csr_matrix(listening)
    heard.eliminate_zeros()
    arrays = {name: np.array(array) for name, array in artifact.arrays.items()}
    arrays |= rows_arrays("listening", Rows.from_csr(heard)) | rows_arrays("listeners", Rows.from_csr(heard.T.tocsr()))
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("format", "arrays")}
    write_artifact(folder, manifest, arrays)
    recommender = models.opened(folder, key_file)
    requests = [RecommendRequest(history=[models.item_id(rare)]), RecommendRequest(history=["track-0"])]
    base_models = recommender.score(recommender.resolve(requests)).base_models
    assert not base_models["user_knn"][0].any()
    assert base_models["user_knn"][1].any()
    with pytest.raises(InvalidRequestError, match="nothing is known by listening"):
        recommender.catalogue.similar(models.item_id(rare), by="listening")
    assert recommender.catalogue.similar(models.item_id(rare), by="both")
    assert recommender.catalogue.similar("track-0", by="listening")
