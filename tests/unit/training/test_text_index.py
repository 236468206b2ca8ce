"""Arrays of the text search: merged tags, tags of sound, factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from tritone_serving.recommender import Artifact, TextRequest
from tritone_serving.recommender.artifact import text_arrays
from tritone_serving.recommender.text_search import TextSearch
from tritone_training.kinds.recommender.fitting.recording_embeddings import RecordingEmbeddings
from tritone_training.kinds.recommender.fitting.text_index import encoder_entry, text_search_arrays, with_sound_tags

TAGS = sparse.csr_matrix(np.array([[3, 0, 1, 0], [0, 2, 0, 5], [0, 0, 0, 0]], np.float32))
NAMES = ["rock", "title: x", "genre: rock", "calm"]


def recordings(tags: list[list[float]] | None) -> RecordingEmbeddings:
    """Recordings of the first two items given, with the tags "piano" and "calm" by their sound."""
    n = 1 if tags is None else len(tags)
    return RecordingEmbeddings(
        [f"i{number}" for number in range(n)],
        np.ones((n, 256), np.float32),
        None,
        (),
        {},
        None if tags is None else np.array(tags, np.float32),
        ("piano", "calm"),
    )


def test_tags_of_the_same_text_are_merged_and_titles_left_out() -> None:
    arrays = text_search_arrays(TAGS, NAMES, n_factors=1)
    artifact = Artifact(Path(), {}, arrays)
    assert artifact.texts("search.tags") == ["calm", "rock"]
    by_tag = artifact.rows("search.by_tag").to_csr(3).toarray()
    np.testing.assert_allclose(by_tag, [[0, np.log1p(5), 0], [np.log1p(4), 0, 0]], rtol=1e-6)
    assert not any(name.startswith("search.item_factors") for name in arrays)  # only with a sentence encoder


def test_nothing_without_tags() -> None:
    assert text_search_arrays(sparse.csr_matrix((3, 0), dtype=np.float32), [], n_factors=4) == {}
    assert text_search_arrays(sparse.csr_matrix((3, 1), dtype=np.float32), ["rock"], n_factors=4) == {}


def test_factors_approximate_the_strengths() -> None:
    rng = np.random.default_rng(0)
    tags = sparse.csr_matrix(rng.poisson(1.0, (30, 12)).astype(np.float32))
    names = [f"tag{number:02}" for number in range(12)]
    arrays = text_search_arrays(tags, names, n_factors=11, embed=lambda texts: np.ones((len(texts), 384), np.float32))
    product = arrays["search.item_factors"] @ arrays["search.tag_factors"].T
    exact = np.log1p(tags.toarray())
    assert np.linalg.norm(product - exact) < 0.2 * np.linalg.norm(exact)
    assert arrays["search.tag_embeddings"].shape == (12, 384)


def test_tags_of_sound_are_added_and_faint_ones_left_out() -> None:
    tags, names = with_sound_tags(TAGS, NAMES, np.array([2, 1]), recordings([[0.9, 0.05], [0.0, 0.4]]))
    assert names == [*NAMES, "piano", "calm"]
    np.testing.assert_allclose(tags.toarray()[:, 4:], [[0, 0], [0, 2], [4.5, 0]], rtol=1e-6)
    arrays = text_search_arrays(tags, names, n_factors=0)
    arrays |= {**text_arrays("items", ["a", "b", "c"]), "popularity.shares": np.ones(3, np.float32)}
    search = TextSearch(Artifact(Path(), {"n_items": 3}, arrays))
    assert search.search(TextRequest("piano")).items == ("c",)
    assert search.search(TextRequest("calm")).items == ("b",)


def test_without_tags_of_sound_nothing_is_added() -> None:
    tags, names = with_sound_tags(TAGS, NAMES, np.array([0]), recordings(None))
    assert (tags is TAGS, names) == (True, NAMES)


def test_the_manifest_names_the_encoder_and_its_licence() -> None:
    entry = encoder_entry()
    assert entry["model"] == "sentence_encoder"
    assert "Apache-2.0" in entry["licence"]
