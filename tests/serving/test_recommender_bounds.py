"""What one question may cost, and how much an error says of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests import recommender_artifacts as models

from tritone_serving.recommender import Answer, Question, QuestionError, Recommender, resolving
from tritone_serving.recommender.wording import cut, shown

LONG = "\U0001f3b6" * 20_000


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("bounds")
    return models.opened(models.make_artifact(folder / "artifact", folder / "key"), folder / "key")


def test_a_friend_is_looked_up_once(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = resolving.pseudonym
    monkeypatch.setattr(resolving, "pseudonym", lambda key, user: hashed.append(user) or real(key, user))  # type: ignore[func-returns-value]
    friends = [models.user_id(1), models.user_id(2), "stranger"] * 1_000
    [answer] = recommender.answer([Question(friends=friends)])
    assert isinstance(answer, Answer)
    assert answer.unknown.friends == ("stranger",)
    assert sorted(hashed) == sorted(set(friends))


def test_a_thousand_friends_are_enough(recommender: Recommender) -> None:
    friends = [f"friend {number}" for number in range(999)] + [models.user_id(1)]
    right, wrong = recommender.answer([Question(friends=friends * 2), Question(friends=[*friends, "another"])])
    assert isinstance(right, Answer)
    assert str(wrong) == "friends holds 1,001 different ids; expected at most 1,000"


@pytest.mark.parametrize("asked", [{"history": 100}, {"history": 100, "user": 1}, {"friends": 50}])
def test_of_many_causes_the_strongest_are_named_and_all_add_up(recommender: Recommender, asked: dict[str, Any]) -> None:
    question = Question(
        user=models.user_id(asked["user"]) if "user" in asked else None,
        history=recommender.item_ids[: asked.get("history", 0)],
        friends=[models.user_id(number) for number in range(asked.get("friends", 0))],
        explain=True,
        k=20,
        filter_heard=False,
    )
    [answer] = recommender.answer([question])
    assert isinstance(answer, Answer)
    most = 0
    for score, reasons in zip(answer.scores, answer.reasons, strict=True):
        assert sum(reason.amount for reason in reasons) == pytest.approx(score, abs=1e-4 * np.abs(answer.scores).max())
        named = Counter(reason.member for reason in reasons if reason.id)
        most = max(most, *named.values())
    assert most == 20


@pytest.mark.parametrize(
    "question",
    [
        Question(history=[LONG, LONG + "x", LONG + "y", LONG + "z"]),
        Question(friends=[LONG]),
        Question(mood=LONG),
    ],
)
def test_errors_hold_no_more_of_an_id_than_a_header_can(recommender: Recommender, question: Question) -> None:
    [wrong] = recommender.answer([question])
    assert isinstance(wrong, QuestionError)
    assert len(str(wrong)) < 1_000


@pytest.mark.parametrize("asked", [{"item": LONG}, {"item": models.item_id(1), "by": LONG}])
def test_so_it_is_with_likeness(recommender: Recommender, asked: dict[str, str]) -> None:
    with pytest.raises(QuestionError) as caught:
        recommender.similar(**asked)
    assert len(str(caught.value)) < 1_000


def test_what_is_cut_is_seen_to_be() -> None:
    assert shown("a" * 81) == f"'{'a' * 80}'..."
    assert shown("a" * 80) == f"'{'a' * 80}'"
    assert cut("b" * 1_001) == "b" * 996 + " ..."
    assert len(shown(list(range(1_000)))) == 80
