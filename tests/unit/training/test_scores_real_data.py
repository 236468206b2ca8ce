"""The real score data sets are read as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritone.music.voices import grid_to_voices
from tritone_training.data.scores import load_scores

DATA = Path(__file__).parents[4] / "shared" / "data"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (DATA / "polymusic").is_dir(), reason="../shared/data is not here"),
]


@pytest.mark.parametrize(
    ("name", "n_train", "n_valid"),
    [("JSB_Chorales", 229, 76), ("Nottingham", 694, 173), ("MuseData", 524, 135), ("Piano_midi", 87, 12)],
)
def test_polymusic_splits_are_complete(name: str, n_train: int, n_valid: int) -> None:
    scores = load_scores(DATA / "polymusic" / f"{name}.mat")
    assert len(scores.split("train")) == n_train
    assert len(scores.split("valid")) == n_valid
    assert scores.problems == ()


def test_jsb_chorales_with_voices() -> None:
    scores = load_scores(DATA / "jsb_chorales" / "Jsb16thSeparated.json")
    assert (len(scores.split("train")), len(scores.split("valid")), scores.problems) == (229, 76, ())
    n_steps = n_alike = 0
    for piece in scores.split("train"):
        assert piece.voices is not None
        assert piece.voices.shape == (len(piece.frames), 4)
        voices = grid_to_voices(piece.frames)
        sung = np.full_like(voices, -1)
        for step in range(len(voices)):
            before = sung[step - 1] if step else sung[step]
            sung[step] = np.where(voices[step] == 1, before, voices[step] - 2 + 21)
        sung[voices == 0] = -1
        n_steps += piece.voices.size
        n_alike += int((sung == piece.voices).sum())
    assert n_alike / n_steps > 0.9  # the rest are voices that cross or meet


def test_nottingham_folder() -> None:
    scores = load_scores(DATA / "nottingham_midi", progress=False)
    assert len(scores.pieces) + len(scores.problems) == 1034
    assert {problem.reason for problem in scores.problems} == {"duplicate"}
    assert len(scores.problems) == 5
    assert {split: len(scores.split(split)) for split in ("train", "valid", "test")} == {
        "train": 805,
        "valid": 109,
        "test": 115,
    }
