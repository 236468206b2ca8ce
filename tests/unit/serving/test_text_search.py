"""Search by descriptions: which items fit, how spelling, tags, meaning and moods count, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tritone_serving.recommender import MOODS, Artifact, InvalidRequestError, TextRequest
from tritone_serving.recommender.artifact import rows_arrays, text_arrays
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.text_search import MOOD_WORDS, TextSearch, tag_text
from tritone_training.kinds.recommender.fitting.text_index import text_search_arrays

# id, title, artist, tags with their counts; the best known first
TRACKS: tuple[tuple[str, str, str, dict[str, int]], ...] = (
    ("t0", "Bohemian Rhapsody", "Queen", {"rock": 30, "epic": 5}),
    ("t1", "Love of My Life", "Queen", {"rock": 10, "ballad": 12, "sad": 6}),
    ("t2", "Gymnopédie No. 1", "Erik Satie", {"piano": 20, "ambient": 6, "genre: classical": 9}),
    ("t3", "Hurt", "Johnny Cash", {"sad": 25, "country": 20}),
    ("t4", "Hurt", "Nine Inch Nails", {"sad": 4, "industrial": 22}),
    ("t5", "Lose Yourself", "Eminem", {"hip-hop": 28, "rap": 21}),
    ("t6", "Reading Room", "Quiet Ensemble", {"piano": 3}),
    ("t7", "夜に駆ける", "YOASOBI", {"j-pop": 8}),
    ("t8", "Ёлка", "Кино", {}),
    ("t9", "The The", "The The", {}),
)


def artifact(
    tracks: Sequence[tuple[str, str, str, dict[str, int]]] = TRACKS, *, embed: Any = None, **more: Any
) -> Artifact:
    """The arrays that the search reads."""
    names = sorted({tag for *_, tags in tracks for tag in tags})
    counts = sparse.lil_matrix((len(tracks), len(names)), dtype=np.float32)
    for row, (*_, tags) in enumerate(tracks):
        for tag, n_given in tags.items():
            counts[row, names.index(tag)] = n_given
    arrays = {
        **text_arrays("items", [item for item, *_ in tracks]),
        **text_arrays("titles", [title for _, title, *_ in tracks]),
        **text_arrays("artists", [artist for _, _, artist, _ in tracks]),
        "popularity.shares": np.linspace(1, 0, len(tracks), dtype=np.float32),
        **text_search_arrays(sparse.csr_matrix(counts), names, n_factors=2, embed=embed),
        **more,
    }
    return Artifact(Path(), {"n_items": len(tracks)}, arrays)


@pytest.fixture(scope="module")
def search() -> TextSearch:
    return TextSearch(artifact())


def best(search: TextSearch, text: str, k: int = 10, **options: Any) -> list[str]:
    return list(search.search(TextRequest(text, k), **options).items)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bohemian rhapsody", "t0"),
        ("sad songs by Queen", "t1"),
        ("queen ballad", "t1"),
        ("Hurt by Johnny Cash", "t3"),
        ("nine inch nails - hurt", "t4"),
        ("play me something sad", "t3"),
        ("classical piano", "t2"),
        ("gymnopedie", "t2"),
        ("hiphop", "t5"),
        ("hip hop", "t5"),
        ("HIP-HOP!!!", "t5"),
        ("夜に駆ける", "t7"),
        ("елка", "t8"),
        ("the the", "t9"),
        ("the", "t9"),
    ],
)
def test_the_item_that_fits_best_comes_first(search: TextSearch, text: str, expected: str) -> None:
    assert best(search, text)[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bohemain rapsody", "t0"), ("gymnopedy", "t2"), ("eminen", "t5"), ("industral", "t4"), ("johny cash", "t3")],
)
def test_misspelt_words_are_found_unless_switched_off(search: TextSearch, text: str, expected: str) -> None:
    assert best(search, text)[0] == expected
    without = TextSearch(artifact(), typos=False)
    assert expected not in best(without, text.split(maxsplit=1)[0])


def test_words_that_occur_nowhere_find_nothing(search: TextSearch) -> None:
    answer = search.search(TextRequest("qqqqqqqq 🎵🎵"))
    assert (answer.items, answer.scores.shape, answer.by_meaning) == ((), (0,), False)


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\ufeff", "\x00\x01"])
def test_blank_descriptions_are_refused(search: TextSearch, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="invalid text: expected words to search for, got blanks only"):
        search.search(TextRequest(text))


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_numbers_of_items_out_of_range_are_refused(search: TextSearch, k: int) -> None:
    with pytest.raises(InvalidRequestError, match="invalid k"):
        search.search(TextRequest("rock", k))


@pytest.mark.parametrize("text", ["rock " * 2_000, "x" * 10_000, "🎵" * 5_000, "a\x00b rock", "é" * 3_000, "???"])
def test_long_and_odd_descriptions_are_answered(search: TextSearch, text: str) -> None:
    answer = search.search(TextRequest(text))
    assert np.isfinite(answer.scores).all()
    assert (answer.scores[:-1] >= answer.scores[1:]).all()


def test_at_most_k_items_are_returned_best_first(search: TextSearch) -> None:
    everything = best(search, "sad rock piano queen")
    for k in range(1, len(everything) + 1):
        assert best(search, "sad rock piano queen", k) == everything[:k]


def directions(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Embeddings of a stand-in encoder: "melancholic" means the same as "sad music"; all others differ."""
    found = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(found, texts, strict=True):
        word = text.removesuffix(" music")
        row[sum(map(ord, "sad" if word == "melancholic" else word)) % 384] = 1
    return found


def test_meaning_finds_items_by_tags_of_similar_meaning() -> None:
    search = TextSearch(artifact(embed=directions))
    assert search.knows_meaning
    (embedding,) = directions(["melancholic"])
    answer = search.search(TextRequest("melancholic"), embedding)
    assert answer.by_meaning
    assert answer.items[:2] == ("t3", "t1")
    assert not best(search, "melancholic")  # by words alone, nothing fits
    far = np.zeros(384, np.float32)
    far[383] = 1
    assert not best(search, "melancholic", embedding=far)


def test_an_embedding_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(384,\), got \(3,\)"):
        TextSearch(artifact(embed=directions)).search(TextRequest("sad"), np.ones(3, np.float32))


def test_an_embedding_is_ignored_without_embeddings_of_tags(search: TextSearch) -> None:
    answer = search.search(TextRequest("sad"), np.ones(384, np.float32))
    assert not answer.by_meaning
    assert answer.items == search.search(TextRequest("sad")).items


def test_moods_of_recordings_count() -> None:
    moods = np.zeros((len(TRACKS), len(MOODS)), np.float32)
    moods[4, MOODS.index("calmness")] = 3
    search = TextSearch(artifact(**{"items.moods": moods}))
    assert best(search, "peaceful") == ["t4"]
    assert set(MOOD_WORDS) == set(MOODS)


def test_artifacts_of_earlier_versions_are_searched_by_their_tags() -> None:
    plain = artifact()
    names, counts = ["genre: reel", "slow"], sparse.csr_matrix(np.eye(2, len(TRACKS), dtype=np.float32))
    arrays = {name: array for name, array in plain.arrays.items() if not name.startswith("search.")}
    arrays |= {**text_arrays("tags", names), **rows_arrays("tags.by_tag", Rows.from_csr(counts))}
    search = TextSearch(Artifact(Path(), plain.manifest, arrays))
    assert best(search, "reel") == ["t0"]
    assert best(search, "hurt")[0] in ("t3", "t4")


def test_without_titles_and_tags_the_request_is_refused() -> None:
    arrays = {**text_arrays("items", ["a"]), "popularity.shares": np.ones(1, np.float32)}
    search = TextSearch(Artifact(Path(), {"n_items": 1}, arrays))
    with pytest.raises(InvalidRequestError, match="trained without titles, artists and tags"):
        search.search(TextRequest("rock"))


@pytest.mark.parametrize(
    ("name", "expected"), [("rock", "rock"), ("genre: reel", "reel"), ("a b: c", "a b: c"), ("x: ", "x: ")]
)
def test_values_of_metadata_stand_without_their_column(name: str, expected: str) -> None:
    assert tag_text(name) == expected
