"""The corpus as scores: its bars, voices and splits."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tritone import Grid
from tritone_training.corpus import CorpusTrack, load_corpus
from tritone_training.data.scores import ScoreSet, load_scores, loading


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoreSet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        corpus = load_corpus(progress=False, n_per_collection=6)
        patch.setattr(loading, "load_corpus", lambda progress: corpus)
        yield load_scores(None, progress=False)


def test_every_piece_with_its_bars_and_voices(scores: ScoreSet) -> None:
    assert len(scores.pieces) == 6 * len(scores.styles)
    assert scores.has_onsets
    assert "public domain" in scores.report()["licence"]
    for piece in scores.pieces:
        assert piece.name.startswith(f"{piece.style}/")
        assert piece.split in ("train", "valid", "test")
    chorales = [piece for piece in scores.pieces if piece.style == "bach"]
    assert {piece.meter for piece in chorales} & {(16, 12), (12, 8)}  # most begin with an upbeat
    assert sum(piece.voices is not None and piece.voices.shape[1] == 4 for piece in chorales) >= 4  # some have a band
    for piece in chorales:
        assert piece.voices is not None
        assert len(piece.voices) == len(piece.frames)
        for frame, voices in zip(piece.frames, piece.voices, strict=True):
            assert set(voices[voices >= 0] - 21) == set(np.flatnonzero(frame))


def test_upbeats() -> None:
    def meter(metre: str | None, pickup: float, length: int) -> tuple[int, int]:
        facts: dict[str, Any] = dict.fromkeys(CorpusTrack.__dataclass_fields__)
        track = CorpusTrack(**{**facts, "metre": metre, "pickup_quarters": pickup})
        return loading.meter_with_upbeat(track, Grid(np.ones((4, 88)), meter=(length, 0)))

    assert meter("4/4", 0.0, 16) == (16, 0)
    assert meter("4/4", 1.0, 16) == (16, 12)
    assert meter("6/8", 0.5, 12) == (12, 10)
    assert meter("2/4", 1 / 3, 8) == (0, 0)  # no step begins there
    assert meter(None, 0.0, 16) == (0, 0)


def test_variants_of_a_tune_share_a_split(scores: ScoreSet, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def spy(given: list[str]) -> list[str]:
        keys.extend(given)
        return ["train"] * len(given)

    monkeypatch.setattr(loading, "hashed_splits", spy)
    corpus = loading.load_corpus(progress=False)
    load_scores(None, progress=False)
    assert keys == [track.group for track in corpus.tracks]


def test_a_part_that_sounds_two_notes_has_no_voice() -> None:
    def part(*notes: tuple[int, int, int]) -> list[int] | None:
        columns = dict(zip(("time", "duration", "pitch"), np.array(notes).T, strict=True))
        voice = loading.voice_of(columns, Fraction(4, 480), 4)
        return None if voice is None else voice.tolist()

    assert part((240, 240, 62), (0, 120, 60)) == [60, -1, 62, 62]
    assert part((0, 240, 60), (120, 120, 64)) is None
    assert part((0, 20, 60), (20, 100, 62)) == [62, -1, -1, -1]
    assert part((0, 480, 15)) == [-1, -1, -1, -1]
