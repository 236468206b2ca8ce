"""find_tracks with models in memory, for both clients (the search: tests/unit/serving/test_track_search.py)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.recommenders import FakeRecommender, said

from tritone import InvalidInputError, RequestRejectedError, ServerError, Track, TrackPage


@pytest.fixture
def model() -> FakeRecommender:
    return FakeRecommender()


def test_a_page_of_typed_tracks(connect: Any, model: FakeRecommender) -> None:
    page = connect()("find_tracks", "Title 12")
    assert isinstance(page, TrackPage)
    assert page.tracks == (Track("track-12", "Title 12", "Someone", "exact", "title"),)
    assert (len(page), page.total, page.offset, page.model, page.model_version) == (1, 1, 0, "recommender", "3")
    assert page.track_ids == ("track-12",)
    assert said(model.asked()[0]) == {"query": "Title 12", "k": 10}
    assert page.to_dict()["tracks"][0] == {
        "track_id": "track-12",
        "title": "Title 12",
        "artist": "Someone",
        "match": "exact",
        "field": "title",
    }


def test_pages_follow_each_other(connect: Any, model: FakeRecommender) -> None:
    ask = connect()
    pages = [ask("find_tracks", "someone", by="artist", limit=4, offset=offset) for offset in (0, 4, 8, 12)]
    assert [page.total for page in pages] == [11] * 4
    assert [len(page) for page in pages] == [4, 4, 3, 0]
    assert len({track.track_id for page in pages for track in page}) == 11
    assert said(model.asked()[1]) == {"query": "someone", "query_field": "artist", "k": 4, "offset": 4}


def test_an_id_may_be_an_integer_and_nothing_may_be_found(connect: Any, model: FakeRecommender) -> None:
    page = connect()("find_tracks", 987654321)
    assert (page.tracks, page.total) == ((), 0)
    assert not page
    assert said(model.asked()[0])["query"] == "987654321"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("",), {}),
        ((" \u00a0",), {}),
        (("\u200b\ufeff",), {}),
        (("\x00",), {}),
        (("x" * 10_000,), {}),
        (("夜" * 2_000,), {}),
        ((None,), {}),
        ((1.5,), {}),
        (("a",), {"by": "album"}),
        (("a",), {"limit": 0}),
        (("a",), {"limit": 10_001}),
        (("a",), {"offset": -1}),
        (("a",), {"offset": 2**31}),
        (("a",), {"offset": 1.0}),
    ],
)
def test_invalid_searches_are_refused(connect: Any, model: FakeRecommender, arguments: Any, options: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("find_tracks", *arguments, **options)
    assert caught.value.argument == next(iter(options), "query")
    assert not model.requests


def test_rejections_by_the_server_are_errors(
    connect: Any, model: FakeRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A client of another release, which allows more than the model does.
    monkeypatch.setattr("tritone.operations.recommend.N_RECOMMENDED_MAX", 20_000)
    with pytest.raises(RequestRejectedError, match="15000"):  # the server's message
        connect()("find_tracks", "Title 12", limit=15_000)


def test_a_response_without_an_output_is_an_error(connect: Any, model: FakeRecommender) -> None:
    model.spoil = lambda outputs: outputs.pop("match")
    with pytest.raises(ServerError) as caught:
        connect()("find_tracks", "Title 12")
    assert (caught.value.reason, caught.value.output) == ("missing_output", "match")
    assert (caught.value.model, caught.value.request_id) == ("recommender", model.requests[0].request_id)
