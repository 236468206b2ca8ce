"""Titles in place of ids: which item a text stands for, and what is refused."""

from __future__ import annotations

import pytest
from tests.unit.serving.test_track_search import TRACKS

from tritone_serving.recommender import InvalidRequestError
from tritone_serving.recommender.title_resolution import MOST_TITLES, TitleResolver
from tritone_serving.recommender.track_search import TrackSearch

IDS = {item: index for index, (item, _, _) in enumerate(TRACKS)}
NAMES = {item: " by ".join(filter(None, (title, artist))) for item, title, artist in TRACKS}


@pytest.fixture
def titles() -> TitleResolver:
    ids, titles, artists = zip(*TRACKS, strict=True)
    search = TrackSearch({"id": ids, "title": titles, "artist": artists})
    return TitleResolver(IDS.get, search, NAMES.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t3", "t3"),
        ("Jóga", "Jóga"),  # an id, although it is also a title
        ("hyperBALLAD", "t0"),
        ("Dont stop me now", "t3"),
        ("Johnny Cash - Hurt", "t7"),
        ("Back in", "t2"),
        ("夜に駆ける", "t4"),
        ("motorhead", "t13"),
        ("Hyperbalad", "Hyperbalad"),  # misspelt: not resolved without being asked
        ("no such title", "no such title"),
        (" ", " "),
        ("🎵", "🎵"),
    ],
)
def test_a_text_stands_for_an_id_or_a_single_item(titles: TitleResolver, text: str, expected: str) -> None:
    assert titles.ids([text]) == [expected]


def test_the_title_of_several_items_is_refused_with_their_ids(titles: TitleResolver) -> None:
    with pytest.raises(InvalidRequestError, match=r"ambiguous title 'hurt': several tracks match, 't6' \(Hurt by Nine"):
        titles.ids(["t0", "hurt"])


def test_a_single_item_must_be_known(titles: TitleResolver) -> None:
    assert titles.id_of("Hyperballad") == "t0"
    with pytest.raises(InvalidRequestError, match=r"item 'Hyperbalad' is not known, .*; did you mean 't0' \(Hyperball"):
        titles.id_of("Hyperbalad")
    with pytest.raises(InvalidRequestError, match=r"item 'qqqqqqq' is not known, neither as an id nor as a title$"):
        titles.id_of("qqqqqqq")


def test_the_number_of_titles_is_limited_but_not_that_of_ids(titles: TitleResolver) -> None:
    assert titles.ids(["t0"] * 100_000) == ["t0"] * 100_000
    assert len(titles.ids(["Hyperballad"] * 1_000)) == 1_000
    texts = [f"x{number}" for number in range(MOST_TITLES)]
    with pytest.raises(InvalidRequestError, match="expected at most 200 texts that are not ids with resolve, got more"):
        titles.ids(texts)


def test_without_titles_texts_are_ids() -> None:
    titles = TitleResolver(IDS.get, TrackSearch({"id": list(IDS)}), lambda item: "")
    assert titles.ids(["t0", "Hyperballad"]) == ["t0", "Hyperballad"]
