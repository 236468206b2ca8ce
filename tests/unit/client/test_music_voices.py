"""Tests of the conversion of grids to four voices and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.midi_files import random_frames

from tritone import InvalidScoreError
from tritone.music.voices import assign_voices, grid_to_voices, voices_to_grid


def strike(pitch: int) -> int:
    return pitch - 21 + 2


def chorale(seed: int, *, n_frames: int = 64) -> np.ndarray[Any, Any]:
    """(N, 4) four voices that move by themselves, never meet and never cross."""
    rng = np.random.default_rng(seed)
    voices = np.ones((n_frames, 4), np.int64)
    for voice, low in enumerate((69, 60, 52, 40)):
        strikes = (rng.random(n_frames) < 0.3) | (np.arange(n_frames) == 0)
        voices[strikes, voice] = strike(0) + rng.integers(low, low + 8, strikes.sum())
    return voices


@given(st.integers(0, 2**32), st.integers(1, 80))
def test_four_voices_survive_the_way_through_the_grid(seed: int, n_frames: int) -> None:
    voices = chorale(seed, n_frames=n_frames)
    again, n_dropped = assign_voices(voices_to_grid(voices))
    assert n_dropped == 0
    assert np.array_equal(again, voices)


@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0.1, 4.0))
def test_voices_of_any_grid_are_stable(seed: int, n_frames: int, density: float) -> None:
    frames = random_frames(seed, n_frames=n_frames, density=density)
    voices, n_dropped = assign_voices(frames)
    assert voices.shape == (n_frames, 4)
    heard = voices_to_grid(voices)
    assert (heard > 0).sum(axis=1).max() <= 4
    assert (heard <= frames).all()  # nothing is invented
    assert np.array_equal(heard, frames) == (n_dropped == 0)
    again, n_dropped_again = assign_voices(heard)
    assert np.array_equal(again, voices)
    assert n_dropped_again == 0


def test_a_melody_alone_is_the_highest_voice() -> None:
    pitches = [60, 84, 40, 61, 90, 30]
    voices = np.zeros((6, 4), np.int64)
    voices[:, 0] = [strike(pitch) for pitch in pitches]
    assert np.array_equal(grid_to_voices(voices_to_grid(voices)), voices)


def test_a_voice_that_enters_alone_gets_its_usual_index() -> None:
    frames = np.zeros((3, 88), np.uint8)
    frames[0, 48 - 21] = 2  # the bass begins alone
    frames[1:, [48 - 21, 72 - 21]] = [[1, 2], [2, 2]]
    assert grid_to_voices(frames).tolist() == [
        [0, strike(48), 0, 0],
        [strike(72), 1, 0, 0],
        [strike(72), strike(48), 0, 0],
    ]


def test_a_note_above_a_held_one_does_not_go_below_it() -> None:
    frames = np.zeros((2, 88), np.uint8)
    frames[0, np.array([84, 60, 59]) - 21] = 2
    frames[1, np.array([62, 60]) - 21] = [2, 1]
    assert grid_to_voices(frames)[1].tolist() == [strike(62), 1, 0, 0]  # though 59 was much nearer than 84


def test_inner_notes_are_left_out_first_and_stay_out() -> None:
    frames = np.zeros((3, 88), np.uint8)
    pitches = np.array([84, 80, 76, 72, 68, 64])
    frames[0, pitches - 21] = 2
    frames[1, pitches - 21] = 1
    frames[2, 76 - 21] = 1  # was left out and is not struck again
    voices, n_dropped = assign_voices(frames)
    assert n_dropped == 2
    assert voices.tolist() == [[strike(p) for p in (84, 80, 68, 64)], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_a_hold_after_nothing_is_a_rest_and_a_shared_pitch_one_note() -> None:
    voices = np.array([[1, 0, strike(60), 0], [1, strike(60), 1, 0], [0, 1, 0, 1]])
    frames = voices_to_grid(voices)
    assert frames[:, 60 - 21].tolist() == [2, 2, 1]
    assert frames.sum() == 5


def test_the_ends_of_the_keyboard() -> None:
    voices = np.array([[89, 2, 0, 0]])
    frames = voices_to_grid(voices)
    assert np.flatnonzero(frames[0]).tolist() == [0, 87]
    assert grid_to_voices(frames).tolist() == voices.tolist()


def test_all_88_keys_at_once() -> None:
    voices, n_dropped = assign_voices(np.full((2, 88), 2, np.uint8))
    assert n_dropped == 2 * 84
    assert voices.tolist() == [[89, 88, 3, 2]] * 2


def test_silence() -> None:
    assert grid_to_voices(np.zeros((32, 88), np.uint8)).tolist() == [[0] * 4] * 32


@pytest.mark.parametrize(
    "voices", [np.zeros((32, 3), int), np.zeros(4, int), np.full((2, 4), 90), np.full((2, 4), -1), np.zeros((2, 4))]
)
def test_invalid_voices(voices: Any) -> None:
    with pytest.raises(InvalidScoreError) as caught:
        voices_to_grid(voices)
    assert (caught.value.path, caught.value.reason) == ("<voices>", "bad_shape")
