"""Tests of `Grid`: valid and invalid arguments, and derived values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.client.midi_files import random_frames

from tritone import Grid, InvalidScoreError
from tritone.music.grid import MAX_FRAMES, notes_of, with_strikes


def frames_of(*columns: str) -> np.ndarray[Any, Any]:
    """A column as a string of 0, 1 and 2, from MIDI pitch 60 up."""
    frames = np.zeros((len(columns[0]), 88), np.int64)
    for index, column in enumerate(columns):
        frames[:, 39 + index] = [int(value) for value in column]
    return frames


def test_a_note_held_after_silence_is_struck() -> None:
    grid = Grid(frames_of("1101120", "0111011"))
    assert grid.frames[:, 39].tolist() == [2, 1, 0, 2, 1, 2, 0]
    assert grid.frames[:, 40].tolist() == [0, 2, 1, 1, 0, 2, 1]
    assert grid.n_notes == 5


def test_frames_are_a_read_only_copy() -> None:
    frames = random_frames(0, n_frames=8, density=1).copy()
    grid = Grid(frames)
    frames[:] = 0
    assert grid.n_notes > 0
    with pytest.raises(ValueError, match="read-only"):
        grid.frames[0, 0] = 1


def test_notes_last_until_the_next_strike_or_silence() -> None:
    onset, end, pitch = notes_of(Grid(frames_of("2112001", "0211111")))
    assert list(zip(onset.tolist(), end.tolist(), pitch.tolist(), strict=True)) == [
        (0, 3, 60),
        (1, 7, 61),
        (3, 4, 60),
        (6, 7, 60),
    ]


@pytest.mark.parametrize(
    ("meter", "n_frames", "starts", "n_bars"),
    [
        ((16, 0), 40, [0, 16, 32], 3),
        ((16, 12), 40, [0, 4, 20, 36], 4),
        ((12, 0), 24, [0, 12], 2),
        ((0, 0), 33, [0, 16, 32], 3),
        ((16, 12), 4, [0], 1),
        ((16, 12), 3, [0], 1),
        ((16, 0), 1, [0], 1),
    ],
)
def test_bars(meter: tuple[int, int], n_frames: int, starts: list[int], n_bars: int) -> None:
    grid = Grid(np.ones((n_frames, 88)), meter=meter)
    assert [bar.start for bar in grid.bars] == starts
    assert grid.n_bars == n_bars == len(grid.bars)
    assert sum(bar.stop - bar.start for bar in grid.bars) == n_frames


def test_its_length_in_seconds() -> None:
    assert Grid(np.ones((32, 88)), tempo_qpm=60.0).duration_s == 8.0
    assert Grid(np.ones((32, 88)), frames_per_quarter=8).duration_s == 2.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.bool_])
def test_frames_of_any_number_type(dtype: type) -> None:
    assert Grid(np.ones((4, 88), dtype)).frames.dtype == np.uint8


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 87)), r"shape \(4, 87\)"),
        (np.zeros(88), r"shape \(88,\)"),
        (np.full((4, 88), 3), "other values than 0"),
        (np.full((4, 88), 0.5), "other values than 0"),
        (np.full((4, 88), np.nan), "other values than 0"),
        (np.full((4, 88), -1), "other values than 0"),
        (np.full((4, 88), "1"), "type"),
        ([[1, 2], [3]], "not an array"),
    ],
)
def test_invalid_frames(frames: Any, message: str) -> None:
    with pytest.raises(InvalidScoreError, match=message) as caught:
        Grid(frames)
    assert caught.value.reason == "bad_shape"


@pytest.mark.parametrize(("n_frames", "reason"), [(0, "empty"), (MAX_FRAMES + 1, "too_long")])
def test_too_few_or_too_many_frames(n_frames: int, reason: str) -> None:
    with pytest.raises(InvalidScoreError) as caught:
        Grid(np.zeros((n_frames, 88), np.uint8))
    assert caught.value.reason == reason
    assert n_frames == 0 or "at most 16,384" in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"frames_per_quarter": 0},
        {"frames_per_quarter": 97},
        {"frames_per_quarter": 1.5},
        {"frames_per_quarter": 4.0},
        {"frames_per_quarter": "4"},
        {"tempo_qpm": "120"},
        {"tempo_qpm": None},
        {"meter": None},
        {"meter": (16,)},
        {"meter": ("16", 0)},
        {"meter": (16.5, 0)},
        {"tempo_qpm": float("nan")},
        {"tempo_qpm": 0.0},
        {"tempo_qpm": float("inf")},
        {"meter": (16, 16)},
        {"meter": (0, 1)},
        {"meter": (-4, 0)},
    ],
)
def test_invalid_grid_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidScoreError) as caught:
        Grid(np.ones((4, 88)), **arguments)
    assert (caught.value.argument, caught.value.reason) == (next(iter(arguments)), "bad_shape")


def test_with_strikes_leaves_its_argument_alone() -> None:
    frames = frames_of("0110")
    with_strikes(frames)
    assert frames[:, 39].tolist() == [0, 1, 1, 0]
