"""`search` with models in memory, for both clients (the search: tests/unit/serving/test_text_search.py)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.recommenders import FakeRecommender, said

from tritone import InvalidInputError, Recommendations


@pytest.fixture
def model() -> FakeRecommender:
    return FakeRecommender()


def test_a_description_is_sent_as_it_is(connect: Any, model: FakeRecommender) -> None:
    found = connect()("search", "track-1", 4)
    assert isinstance(found, Recommendations)
    assert (found.track_ids, found.source) == (("track-1", "track-10", "track-11", "track-12"), "words")
    assert said(model.asked()[0]) == {"text": "track-1", "k": 4}
    assert model.asked()[0].outputs == ("item_ids", "scores", "titles", "artists", "source")
    assert not model.asked()[0].headers


def test_nothing_may_be_found(connect: Any) -> None:
    found = connect()("search", "qqq")
    assert (len(found), found.source) == (0, "words")


@pytest.mark.parametrize("text", ["", " \u00a0", "\u200b\ufeff", "\x00", "x" * 10_000, "夜" * 2_000, None, 1.5])
def test_descriptions_that_are_refused_are_not_sent(connect: Any, model: FakeRecommender, text: Any) -> None:
    with pytest.raises(InvalidInputError, match="invalid query: expected"):
        connect()("search", text)
    assert not model.asked()


@pytest.mark.parametrize("n", [0, -1, 10_001, 1.5, "3"])
def test_numbers_of_tracks_out_of_range_are_refused(connect: Any, model: FakeRecommender, n: Any) -> None:
    with pytest.raises(InvalidInputError, match="invalid n"):
        connect()("search", "rock", n)
    assert not model.asked()


def test_titles_are_resolved_by_the_server(connect: Any, model: FakeRecommender) -> None:
    ask = connect()
    ask("recommend", history=["track-1"], resolve=True)
    ask("similar", "track-1", resolve=True)
    ask("recommend", history=["track-1"])
    assert [said(request).get("resolve") for request in model.asked()] == [True, True, None]
    with pytest.raises(InvalidInputError, match="invalid resolve: expected True or False"):
        ask("recommend", history=["track-1"], resolve="yes")
