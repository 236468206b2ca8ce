"""Likeness by sound from an index, against looking at each item."""

from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tritone_serving.recommender import SimilarItem
from tritone_serving.recommender.similarity import INDEX_FILENAME, LEAST_INDEXED_ITEMS, build_index, open_index

N_ITEMS = LEAST_INDEXED_ITEMS + 1_000


@pytest.fixture(scope="module")
def sounds() -> np.ndarray[Any, Any]:
    """Unit vectors around fifty centres; the last hundred items have no sound."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 256))
    rows = centres[rng.integers(0, 50, N_ITEMS)] + 0.7 * rng.standard_normal((N_ITEMS, 256))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[-100:] = 0
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def folder(sounds: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("usearch")
    content = build_index(sounds)
    assert content is not None
    path = tmp_path_factory.mktemp("index")
    (path / INDEX_FILENAME).write_bytes(content)
    return path


def test_it_finds_what_looking_at_each_finds(sounds: np.ndarray[Any, Any], folder: Path) -> None:
    index = open_index(folder)
    assert index is not None
    n_found = 0
    for place in range(0, 4_000, 100):
        cosines = sounds @ sounds[place]
        wanted = np.argsort(-cosines)[:10]
        places, scores = index.search(sounds[place] * 7, 10)
        assert places[0] == place
        np.testing.assert_allclose(scores, cosines[places], atol=1e-5)
        n_found += len(set(places.tolist()) & set(wanted.tolist()))
    assert n_found >= 0.98 * 400


def test_the_backend_asks_it_and_only_where_it_has_a_say(
    cf_ensemble: Any, sounds: np.ndarray[Any, Any], folder: Path
) -> None:
    asked = []

    def similar(item: str | None, **given: Any) -> list[SimilarItem]:
        asked.append((item, given["by"]))
        return []

    recommender = SimpleNamespace(
        artifact=SimpleNamespace(folder=folder, arrays={"items.embeddings": sounds}),
        resolver=SimpleNamespace(item=lambda name: int(name) if name.isdigit() else None),
        item_ids=[str(place) for place in range(N_ITEMS)],
        catalogue=SimpleNamespace(similar=similar),
    )
    alike = cf_ensemble.similar.SimilarItemFinder(recommender)
    similarity = cf_ensemble.similar.SimilarRequest
    found = alike.similar(similarity("3", None, "sound", 5))
    cosines = sounds @ sounds[3]
    cosines[3] = -1
    assert [each.item for each in found] == [str(place) for place in np.argsort(-cosines)[:5]]
    assert alike.similar(similarity(None, sounds[8], "sound", 1))[0].item == "8"
    assert asked == []
    for question in (
        similarity("3", None, "both", 5),
        similarity("3", None, "sound", 5_000),
        similarity("unknown", None, "sound", 5),
        similarity(str(N_ITEMS - 1), None, "sound", 5),
        similarity(None, None, "sound", 5),
        similarity(None, np.full(256, np.nan, np.float32), "sound", 5),
    ):
        alike.similar(question)
    assert len(asked) == 6


def test_few_items_get_none(sounds: np.ndarray[Any, Any]) -> None:
    assert build_index(sounds[:100]) is None


def test_without_usearch_each_item_is_looked_at(
    sounds: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("usearch"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (tmp_path / INDEX_FILENAME).write_bytes(b"an index")
    assert build_index(sounds) is None
    assert open_index(tmp_path) is None


def test_a_damaged_index_is_passed_over(folder: Path, tmp_path: Path) -> None:
    assert open_index(tmp_path) is None
    (tmp_path / INDEX_FILENAME).write_bytes(b"nothing of the kind")
    assert open_index(tmp_path) is None
