"""Search by title, artist and id: what counts as the same text, in which order, and what is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pytest

from tritone_serving.recommender import InvalidRequestError, SearchRequest
from tritone_serving.recommender.text_keys import key_of, same_text, words_of
from tritone_serving.recommender.track_search import TrackSearch

# id, title, artist; the best known first
TRACKS = (
    ("t0", "Hyperballad", "Björk"),
    ("t1", "Jóga", "Björk"),
    ("t2", "Back in Black", "AC/DC"),
    ("t3", "Don\u2019t Stop Me Now", "Queen"),
    ("t4", "夜に駆ける", "YOASOBI"),
    ("t5", "Ёлка", "Кино"),
    ("t6", "Hurt", "Nine Inch Nails"),
    ("t7", "Hurt", "Johnny Cash"),
    ("t8", "???", "!!!"),
    ("t9", "한국어", ""),
    ("t10", "हिन्दी गीत", "लता"),
    ("t11", "", "Queen"),
    ("t12", "Queen of the Night", "Maria"),
    ("t13", "[bold]x: y", "Motörhead"),
    ("Jóga", "Some other title", "Nobody"),
    ("t15", "Straße nach Øst", "Ærlig"),
)


@pytest.fixture(scope="module")
def search() -> TrackSearch:
    ids, titles, artists = zip(*TRACKS, strict=True)
    return TrackSearch({"id": ids, "title": titles, "artist": artists})


def found(search: TrackSearch, query: str, **options: object) -> list[tuple[str, str, str]]:
    answer = search.search(SearchRequest(query, **options))  # type: ignore[arg-type]
    assert answer.total >= len(answer.found)
    return [(each.item, each.match, each.field) for each in answer.found]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Hyperballad", ("t0", "exact", "title")),
        ("  HYPER ballad ", ("t0", "normalized", "title")),
        ("joga", ("Jóga", "normalized", "id")),
        ("acdc", ("t2", "normalized", "artist")),
        ("ac-dc", ("t2", "normalized", "artist")),
        ("dont stop me now", ("t3", "normalized", "title")),
        ("Don't stop me now!", ("t3", "normalized", "title")),
        ("夜に駆ける", ("t4", "exact", "title")),
        ("駆ける", ("t4", "words", "title")),
        ("елка", ("t5", "normalized", "title")),
        ("ЁЛКА", ("t5", "normalized", "title")),
        ("кино", ("t5", "normalized", "artist")),
        ("???", ("t8", "exact", "title")),
        ("!!!", ("t8", "exact", "artist")),
        ("한국어", ("t9", "exact", "title")),
        ("हिन्दी", ("t10", "prefix", "title")),
        ("T10", ("t10", "normalized", "id")),
        ("motorhead", ("t13", "normalized", "artist")),
        ("strasse nach ost", ("t15", "normalized", "title")),
        ("aerlig", ("t15", "normalized", "artist")),
        ("black back", ("t2", "words", "title")),
        ("Queen - Don\u2019t stop", ("t3", "words", "title")),
        ("Johnny Cash: Hurt", ("t7", "words", "title")),
    ],
)
def test_how_a_query_matches(search: TrackSearch, query: str, expected: tuple[str, str, str]) -> None:
    assert found(search, query)[0] == expected


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_forms_of_unicode_do_not_matter(search: TrackSearch, form: str) -> None:
    for item, title, _ in TRACKS:
        if title and title not in ("Hurt", "Jóga"):
            assert found(search, unicodedata.normalize(form, title))[0] == (item, "exact", "title")


def test_an_exact_id_comes_first_then_titles_then_artists(search: TrackSearch) -> None:
    assert found(search, "Jóga") == [("Jóga", "exact", "id"), ("t1", "exact", "title")]
    assert [item for item, _, _ in found(search, "queen")] == ["t3", "t11", "t12"]
    assert found(search, "queen", field="title") == [("t12", "prefix", "title")]


def test_titles_of_several_artists_are_all_found_the_best_known_first(search: TrackSearch) -> None:
    assert found(search, "hurt") == [("t6", "normalized", "title"), ("t7", "normalized", "title")]


def test_pages(search: TrackSearch) -> None:
    titles = [f"Song {number}" for number in range(250)]
    many = TrackSearch({"id": [f"s{n}" for n in range(250)], "title": titles, "artist": ["Bach"] * 250})
    items: list[str] = []
    for offset in range(0, 300, 100):
        answer = many.search(SearchRequest("bach", "artist", 100, offset))
        assert answer.total == 250
        items += [each.item for each in answer.found]
    assert items == [f"s{n}" for n in range(250)]


def test_similar_spelling_is_suggested_only_if_nothing_else_matches(search: TrackSearch) -> None:
    assert found(search, "hyperbalad")[0] == ("t0", "near", "title")
    assert found(search, "Bjorc")[0] == ("t0", "near", "artist")
    assert all(match != "near" for _, match, _ in found(search, "hurt"))
    assert found(search, "qqqqqqqqqq") == []
    assert found(search, "x" * 4_000) == []


@pytest.mark.parametrize("query", ["", " ", "\u00a0\u200b", "\n\t", "\u200d"])
def test_blank_queries_are_refused(search: TrackSearch, query: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"invalid query: .*, got blanks"):
        search.search(SearchRequest(query))


def test_values_out_of_range_are_rejected(search: TrackSearch) -> None:
    for wrong in (
        SearchRequest("a", "album"),
        SearchRequest("a", limit=0),
        SearchRequest("a", limit=10_001),
        SearchRequest("a", offset=-1),
    ):
        with pytest.raises(InvalidRequestError):
            search.search(wrong)


def without(fields: Sequence[str]) -> TrackSearch:
    texts = dict(zip(("id", "title", "artist"), zip(*TRACKS, strict=True), strict=True))
    return TrackSearch({field: texts[field] for field in fields})


def test_without_titles_only_ids_are_found() -> None:
    ids = without(["id"])
    assert found(ids, "T3")[0] == ("t3", "normalized", "id")
    with pytest.raises(InvalidRequestError, match="trained without titles"):
        ids.search(SearchRequest("Hyperballad"))
    with pytest.raises(InvalidRequestError, match="trained without titles"):
        ids.search(SearchRequest("Hyperballad", "title"))
    assert found(without(["id", "title"]), "hurt")[0][0] == "t6"
    assert TrackSearch({"id": [], "title": [], "artist": []}).search(SearchRequest("a")).total == 0


def test_a_query_longer_than_all_texts_together_finds_nothing() -> None:
    small = TrackSearch({"id": ["a"], "title": ["bb"], "artist": [""]})
    assert small.search(SearchRequest("b" * 500)).total == 0
    assert small.search(SearchRequest(" ".join(f"word{n}" for n in range(400)))).total == 0


def test_keys() -> None:
    assert words_of("P!nk & The “Roots”") == ["p", "nk", "the", "roots"]
    assert key_of("がぎ") == "がぎ"
    assert key_of("がぎ") != key_of("かき")
    assert key_of("ﬁancé ①") == "fiance1"
    assert key_of("İstanbul") == key_of("istanbul")
    assert same_text("Jo\u0301ga ", "Jóga")
    assert not same_text("joga", "Jóga")
