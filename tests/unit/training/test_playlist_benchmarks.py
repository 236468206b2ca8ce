"""The benchmarks of playlists and of moods from tags, on small data whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from benchmarks.mood_tags import measure
from benchmarks.playlist_quality import Judge, Rivals
from tritone_training.data.interactions import TagTable


def tag_table(rows: list[tuple[str, str, str]]) -> TagTable:
    items, tags, users = zip(*rows, strict=True)
    return TagTable(items, tags, users)


def test_tags_on_which_users_agree_are_reliable_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for item in range(60):
        for user in range(60):
            tag = "Sad" if item % 2 and user % 2 else "rock"
            rows.append((str(item), "chill-out" if rng.random() < 0.2 else tag, f"user {user}"))
    found = measure(tag_table(rows), seed=0)
    assert (found["n_items"], found["n_compared"]) == (60, 60)
    emotions = found["emotions"]
    assert emotions["sadness"]["reliability"] > 0.9
    assert emotions["calmness"]["n_items"] == 60
    assert abs(emotions["calmness"]["reliability"]) < 0.4
    assert emotions["power"] == {"n_items": 0, "reliability": None}


def line_of_items(n: int = 30) -> np.ndarray:
    """Items on a quarter of a circle, in order."""
    angles = np.linspace(0, np.pi / 2, n)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_metrics_of_a_playlist() -> None:
    vectors = line_of_items()
    judge = Judge(sparse.csr_matrix(vectors), vectors, ["a", "b"] * 15, sparse.csr_matrix((30, 1)))
    smooth, rough = judge.metrics(range(30), (0, 29)), judge.metrics([0, 28, 2, 27, 4, 29], (0, 29))
    assert smooth["smooth"] > 0.99 > rough["smooth"]
    assert smooth["smooth_min"] > rough["smooth_min"]
    assert smooth["progress"] == pytest.approx(1)
    assert rough["progress"] < 0.5
    assert (smooth["artists"], smooth["n"]) == (2 / 30, 30)
    assert "progress" not in judge.metrics(range(5), None)


def test_the_other_methods_keep_their_promises() -> None:
    rivals = Rivals(line_of_items(), np.random.default_rng(0))
    for method in (rivals.interpolate, rivals.walk, rivals.random):
        items = method(0, 29, 8)
        assert (items[0], items[-1], len(items), len(set(items))) == (0, 29, 8, 8)
    assert rivals.interpolate(0, 29, 8) == sorted(rivals.interpolate(0, 29, 8))
    path = rivals.shortest(0, 29, 8)
    assert (path[0], path[-1]) == (0, 29)
    assert path == sorted(path)
    assert rivals.similar(0, None, 4) == [0, 1, 2, 3]
    assert len(rivals.walk(0, None, 30)) == 30
