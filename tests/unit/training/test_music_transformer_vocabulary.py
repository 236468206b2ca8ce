from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import chords

from tritone.music.grid import HELD as HELD_VALUE
from tritone.music.grid import N_PITCHES
from tritone.music.grid import STRUCK as STRUCK_VALUE
from tritone_training.kinds.music_transformer.notes import (
    BEGIN,
    END,
    HELD,
    N_TOKENS,
    PADDING,
    STRUCK,
    may_follow,
    multi_hot,
    notes_of,
    pitch_of_token,
    readable,
    tokens_of,
)


def test_frames_are_spelled_from_the_highest_note_down() -> None:
    frames = np.zeros((3, N_PITCHES), np.uint8)
    frames[0, [5, 40]] = STRUCK_VALUE
    frames[2, [87, 0, 30]] = STRUCK_VALUE, STRUCK_VALUE, HELD_VALUE
    assert tokens_of(frames).tolist() == [
        [STRUCK + 40, STRUCK + 5, END, PADDING],
        [END, PADDING, PADDING, PADDING],
        [STRUCK + 87, HELD + 30, STRUCK, END],
    ]


def test_no_frame_at_all_has_no_words() -> None:
    assert tokens_of(np.zeros((0, N_PITCHES), np.uint8)).shape == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_words_spell_every_note_of_a_frame_however_many(seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 3, (7, N_PITCHES)).astype(np.uint8)
    tokens = tokens_of(frames)
    assert tokens.shape == (7, (frames > 0).sum(1).max() + 1)
    assert ((tokens == END).sum(1) == 1).all()
    torch.testing.assert_close(notes_of(torch.from_numpy(tokens)), multi_hot(torch.from_numpy(frames)))


def test_nothing_is_held_on_from_silence() -> None:
    frames = np.zeros((3, N_PITCHES), np.uint8)
    frames[0, 1], frames[1, 1], frames[2, [1, 2]] = HELD_VALUE, HELD_VALUE, HELD_VALUE
    assert readable(frames, onsets=True)[:, 1].tolist() == [STRUCK_VALUE, HELD_VALUE, HELD_VALUE]
    assert readable(frames, onsets=True)[:, 2].tolist() == [0, 0, STRUCK_VALUE]
    before = np.zeros(N_PITCHES, np.uint8)
    before[1] = STRUCK_VALUE
    assert readable(frames, onsets=True, before=before)[0, 1] == HELD_VALUE
    assert set(readable(frames, onsets=False)[frames > 0]) == {STRUCK_VALUE}


def test_the_grammar_lets_every_real_frame_through_and_nothing_else() -> None:
    follow, pitch = may_follow(), pitch_of_token()
    for word in range(BEGIN + 1):
        allowed = set(torch.nonzero(follow[word])[:, 0].tolist())
        if word == END:
            assert allowed == {END}
            continue
        below = range(N_PITCHES) if word == BEGIN else range(int(pitch[word]))
        assert allowed == {END, *(STRUCK + p for p in below), *(HELD + p for p in below)}
    for tokens in tokens_of(chords(20, seed=3)).tolist():
        spelled = [BEGIN, *(word for word in tokens if word != PADDING)]
        assert all(follow[a, b] for a, b in pairwise(spelled))
    assert follow.shape == (N_TOKENS + 1, N_TOKENS)
