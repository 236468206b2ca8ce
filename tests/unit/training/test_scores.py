"""Score data sets: how they are split, told apart and asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone_training.data.scores import ScorePiece, ScoreSet, evenly_chosen, load_scores
from tritone_training.data.scores.score_set import hashed_splits
from tritone_training.exceptions import DataError

PINNED = ["train", "train", "train", "train", "train", "train", "train", "train", "test", "train", "valid", "train"]


def test_shares() -> None:
    splits = hashed_splits([f"tune {index}" for index in range(10_000)])
    counts = {split: splits.count(split) for split in ("train", "valid", "test")}
    assert counts == {
        "train": pytest.approx(8000, abs=200),
        "valid": pytest.approx(1000, abs=150),
        "test": pytest.approx(1000, abs=150),
    }


def test_a_piece_keeps_its_split_as_the_set_grows() -> None:
    names = [f"tune {index}" for index in range(300)]
    assert hashed_splits(names)[:100] == hashed_splits(names[:100])


def test_the_splits_are_the_same_on_every_host() -> None:
    assert hashed_splits([f"{index}.mid" for index in range(12)]) == PINNED


def test_equal_keys_stay_together() -> None:
    keys = [f"tune {index % 50}" for index in range(200)]
    splits = hashed_splits(keys)
    assert splits == splits[:50] * 4


@pytest.mark.parametrize("n", [2, 3, 5])
def test_small_sets_have_a_validation_split(n: int) -> None:
    for start in range(30):
        splits = hashed_splits([f"{start + index}" for index in range(n)])
        # Unless the hash put all but one into the test split, there is one for training and one for validation.
        assert splits.count("train") <= 1 or "valid" in splits
        assert "train" in splits or "valid" in splits or set(splits) == {"test"}


def test_a_missing_split_is_an_error_with_the_existing_ones() -> None:
    piece = ScorePiece("a", np.full((4, 88), 2, np.uint8), "train", "x")
    scores = ScoreSet("here", (piece,), True, 4)
    assert scores.split("train") == (piece,)
    with pytest.raises(DataError, match=r"here: has no pieces in the split 'test'; expected one of: train \(1\)"):
        scores.split("test")


def test_evenly_chosen_pieces() -> None:
    def pieces(*lengths: int) -> list[ScorePiece]:
        return [ScorePiece(f"{i}", np.zeros((n, 88), np.uint8), "valid", "x") for i, n in enumerate(lengths)]

    ten = pieces(*[10] * 10)
    assert evenly_chosen(ten, 100) == evenly_chosen(ten, 10**9) == tuple(ten)
    assert [piece.name for piece in evenly_chosen(ten, 40)] == ["0", "3", "6", "9"]
    assert [piece.name for piece in evenly_chosen(ten, 1)] == ["0"]
    assert len(evenly_chosen(pieces(500, 1, 1, 1), 10)) == 1
    chosen = evenly_chosen(pieces(*range(50, 150)), 3_000)
    assert abs(sum(len(piece.frames) for piece in chosen) - 3_000) < 300


def test_the_fingerprint_tells_sets_apart() -> None:
    frames = np.full((4, 88), 2, np.uint8)

    def of(**changed: Any) -> str:
        known: dict[str, Any] = {"name": "a", "frames": frames, "split": "train", "style": "x", **changed}
        return ScoreSet("here", (ScorePiece(**known),), True, 4).fingerprint

    voices = np.full((4, 2), 60)
    variants = [
        of(),
        of(name="b"),
        of(split="valid"),
        of(style="y"),
        of(meter=(16, 0)),
        of(frames=frames * 0),
        of(voices=voices),
        of(voices=voices + 1),
    ]
    assert len(set(variants)) == len(variants)
    assert of() == of(frames=frames.copy())


@pytest.mark.parametrize(
    ("name", "message"),
    [("none", "no such file or folder"), ("a.mid", "give the folder"), ("a.csv", "expected"), ("a", "expected")],
)
def test_what_is_no_data_set(name: str, message: str, tmp_path: Path) -> None:
    if name != "none":
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        load_scores(tmp_path / name)


def test_reading_scores_needs_no_torch() -> None:
    script = "import sys; from tritone_training.data.scores import load_scores; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
