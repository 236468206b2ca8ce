"""What one question may cost, and how much an error says of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import InvalidRequestError, Recommender, RecommendRequest, RecommendResponse, lookup
from tritone_serving.recommender.base_models import remote
from tritone_serving.recommender.exceptions import cut, shown
from tritone_serving.recommender.requests import check_answers, check_id_lengths, check_lists
from tritone_serving.recommender.rows import Rows

LONG = "\U0001f3b6" * 20_000


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("bounds")
    return models.opened(models.make_artifact(folder / "artifact", folder / "key"), folder / "key")


def test_a_friend_is_looked_up_once(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = lookup.pseudonym
    monkeypatch.setattr(lookup, "pseudonym", lambda key, user: hashed.append(user) or real(key, user))  # type: ignore[func-returns-value]
    friends = [models.user_id(1), models.user_id(2), "stranger"] * 1_000
    [answer] = recommender.recommend([RecommendRequest(friends=friends)])
    assert isinstance(answer, RecommendResponse)
    assert answer.unknown.friends == ("stranger",)
    assert sorted(hashed) == sorted(set(friends))


def test_a_thousand_friends_are_enough(recommender: Recommender) -> None:
    friends = [f"friend {number}" for number in range(999)] + [models.user_id(1)]
    right, wrong = recommender.recommend(
        [RecommendRequest(friends=friends * 2), RecommendRequest(friends=[*friends, "another"])]
    )
    assert isinstance(right, RecommendResponse)
    assert str(wrong) == "invalid friends: expected at most 1,000 different ids, got 1,001"


@pytest.mark.parametrize("asked", [{"history": 100}, {"history": 100, "user": 1}, {"friends": 50}])
def test_of_many_causes_the_strongest_are_named_and_all_add_up(recommender: Recommender, asked: dict[str, Any]) -> None:
    question = RecommendRequest(
        user=models.user_id(asked["user"]) if "user" in asked else None,
        history=recommender.item_ids[: asked.get("history", 0)],
        friends=[models.user_id(number) for number in range(asked.get("friends", 0))],
        explain=True,
        k=20,
        filter_listened=False,
    )
    [answer] = recommender.recommend([question])
    assert isinstance(answer, RecommendResponse)
    most = 0
    for score, reasons in zip(answer.scores, answer.reasons, strict=True):
        assert sum(reason.amount for reason in reasons) == pytest.approx(score, abs=1e-4 * np.abs(answer.scores).max())
        named = Counter(reason.base_model for reason in reasons if reason.id)
        most = max(most, *named.values())
    assert most == 20


@pytest.mark.parametrize(
    "question",
    [
        RecommendRequest(history=[LONG, LONG + "x", LONG + "y", LONG + "z"]),
        RecommendRequest(friends=[LONG]),
        RecommendRequest(mood=LONG),
    ],
)
def test_errors_hold_no_more_of_an_id_than_a_header_can(recommender: Recommender, question: RecommendRequest) -> None:
    [wrong] = recommender.recommend([question])
    assert isinstance(wrong, InvalidRequestError)
    assert len(str(wrong)) < 1_000


@pytest.mark.parametrize("asked", [{"item": LONG}, {"item": models.item_id(1), "by": LONG}])
def test_so_it_is_with_likeness(recommender: Recommender, asked: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        recommender.catalogue.similar(**asked)
    assert len(str(caught.value)) < 1_000


def test_what_is_cut_is_seen_to_be() -> None:
    assert shown("a" * 81) == f"'{'a' * 80}'..."
    assert shown("a" * 80) == f"'{'a' * 80}'"
    assert cut("b" * 1_001) == "b" * 996 + " ..."
    assert len(shown(list(range(1_000)))) == 80


# --- what one request may cost ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"k": 201, "explain": True}, "invalid k: expected a whole number from 1 to 200 with explain, got 201"),
        ({"k": 10_000, "explain": True}, "invalid k: expected a whole number from 1 to 200 with explain, got 10000"),
        ({"k": 1_001, "diversity": 0.1}, "invalid k: expected a whole number from 1 to 1000 with diversity, got 1001"),
        (
            {"embedding": np.full(256, 1e30, np.float32)},
            "invalid embedding[0]: expected a number from -1000000 to 1000000, got 1e+30",
        ),
        (
            {"embedding": np.full(256, np.inf, np.float32)},
            "invalid embedding[0]: expected a number from -1000000 to 1000000, got inf",
        ),
    ],
)
def test_a_costly_or_invalid_request_is_rejected(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        RecommendRequest(**changed).check()
    assert str(caught.value).startswith(says)


def test_requests_at_the_limits_are_answered() -> None:
    RecommendRequest(k=200, explain=True).check()
    RecommendRequest(k=1_000, diversity=1.0).check()
    RecommendRequest(k=10_000, novelty=1.0).check()


def test_an_embedding_that_is_not_finite_has_nothing_similar(recommender: Recommender) -> None:
    for value in (np.nan, np.inf, 0.0):
        with pytest.raises(InvalidRequestError):
            recommender.catalogue.similar(embedding=np.full(256, value, np.float32), by="sound")
    with pytest.raises(InvalidRequestError, match="invalid k: expected a whole number from 1 to 10000, got 0"):
        recommender.catalogue.similar(models.item_id(1), n=0)


def test_the_total_number_of_ids_is_limited() -> None:
    check_lists(64, {"history": 1_562})
    with pytest.raises(
        InvalidRequestError, match="invalid history: expected at most 100,000 ids in one request, got 64 rows of 1,563"
    ):
        check_lists(64, {"skipped": 3, "history": 1_563})
    with pytest.raises(InvalidRequestError, match="invalid friends: expected at most 100,000 ids"):
        check_lists(1, {"friends": 100_001})


def test_the_total_number_of_requested_items_is_limited() -> None:
    check_answers([(1_562, False)] * 64)
    with pytest.raises(
        InvalidRequestError, match="expected at most 100,000 items in all rows of a request, got 640,000 in 64 rows"
    ):
        check_answers([(10_000, False)] * 64)
    with pytest.raises(
        InvalidRequestError, match="expected at most 2,000 items with reasons in all rows of a request, got 2,200"
    ):
        check_answers([(200, True)] * 11)


def test_long_histories_are_reduced_to_the_largest_weights_for_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MOST_HISTORY_ITEMS", 2)
    models.make_artifact(tmp_path / "artifact", tmp_path / "key", n_taste=models.N_TASTE)
    recommender = models.opened(tmp_path / "artifact", tmp_path / "key")
    weights: list[list[float]] = [[1, 2, 3], [5, 1, 4, 2, 3], [], [9]]
    history = Rows.from_lists(
        [np.arange(len(each)) for each in weights], [np.array(each, np.float32) for each in weights]
    )
    batch = replace(recommender.resolve([RecommendRequest()] * 4).batch, history=history)
    inputs = recommender.scorer.remote_inputs(batch)["taste_vae"]
    kept = [
        row[weight > 0].tolist() for row, weight in zip(inputs.tensors["items"], inputs.tensors["weights"], strict=True)
    ]
    assert kept == [[1, 2], [0, 2], [], [0]]


@pytest.mark.parametrize(
    ("lists", "part"),
    [
        ({"history": [b"a", b"x" * 4_097]}, "invalid id in history: expected at most 4,096 bytes, got 4,097"),
        ({"user_id": [b"\0" * 30_000_000]}, "invalid id in user_id: expected at most 4,096 bytes, got 30,000,000"),
        (
            {"history": [b"x" * 4_000] * 1_500, "exclude": [b"y" * 4_000] * 1_500},
            "bytes in one request, got 12,000,000",
        ),
    ],
)
def test_ids_that_are_too_long_are_rejected(lists: dict[str, list[bytes]], part: str) -> None:
    with pytest.raises(InvalidRequestError, match=part):
        check_id_lengths(lists)


def test_as_many_ids_as_a_list_may_hold_are_taken() -> None:
    check_id_lengths({"history": [b"a-usual-id-of-a-track-with-40-characters"] * 100_000, "mood": [b""]})
