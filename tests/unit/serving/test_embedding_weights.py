"""Whether a repository serves the network that embedded a recommender's items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tritone_serving.recommender.embedding_weights import EmbeddingWeights

ITEMS, OTHER = "ab" * 32, "cd" * 32
EMBEDDED_BY = {"kind": "genre_cnn", "weights_sha256": ITEMS}


def add(repository: Path, model: str, version: int, card: Any) -> None:
    folder = repository / model / str(version)
    folder.mkdir(parents=True)
    (folder / "model_card.json").write_text(card if isinstance(card, str) else json.dumps(card))


def card(digest: str | None, **more: Any) -> dict[str, Any]:
    return {"kind": "genre_cnn", **({} if digest is None else {"weights_sha256": digest}), **more}


@pytest.mark.parametrize(
    ("cards", "fits"),
    [
        ([], True),
        ([("genre_cnn", 1, card(ITEMS))], True),
        ([("genre_cnn", 1, card(OTHER))], False),
        ([("genre_cnn", 1, card(ITEMS)), ("genre_cnn", 2, card(OTHER))], False),
        ([("genre_cnn", 9, card(OTHER)), ("genre_cnn", 10, card(ITEMS))], True),
        ([("genre_cnn", 1, card(OTHER)), ("second", 1, card(ITEMS))], True),
        ([("genre_cnn", 1, card(None, pretrained="musicnn"))], False),
        ([("genre_cnn", 1, card(None))], True),  # an older export, which does not say
        ([("genre_cnn", 1, "no JSON")], True),
        ([("music_vae", 1, {"kind": "music_vae", "weights_sha256": OTHER})], True),
        ([("genre_cnn", 2, card(OTHER)), ("genre_cnn_pcm16", 1, card(ITEMS, companion_of="genre_cnn"))], False),
        ([("genre_cnn", 1, card(ITEMS)), ("genre_cnn.candidate", 1, card(OTHER))], True),
    ],
)
def test_what_is_served_is_compared(tmp_path: Path, cards: list[tuple[str, int, Any]], fits: bool) -> None:
    for model, version, content in cards:
        add(tmp_path, model, version, content)
    assert EmbeddingWeights(tmp_path, EMBEDDED_BY).fits is fits


@pytest.mark.parametrize("embedded_by", [None, "genre_cnn", {"kind": "genre_cnn"}, {"weights_sha256": 3}])
def test_a_manifest_that_does_not_say_is_believed(tmp_path: Path, embedded_by: Any) -> None:
    add(tmp_path, "genre_cnn", 1, card(OTHER))
    assert EmbeddingWeights(tmp_path, embedded_by).fits


def test_a_missing_repository_is_not_known(tmp_path: Path) -> None:
    assert EmbeddingWeights(tmp_path / "none", EMBEDDED_BY).fits


def test_a_new_version_counts_within_a_second(tmp_path: Path) -> None:
    now_s = 0.0
    weights = EmbeddingWeights(tmp_path, EMBEDDED_BY, clock=lambda: now_s)
    assert weights.fits
    add(tmp_path, "genre_cnn", 1, card(OTHER))
    now_s = 0.9
    assert weights.fits
    now_s = 1.0
    assert not weights.fits
