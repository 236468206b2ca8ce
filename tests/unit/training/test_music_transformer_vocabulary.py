from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import chords

from tritone.music.grid import HELD as HELD_VALUE
from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone.music.grid import STRUCK as STRUCK_VALUE
from tritone_training.generation import NEVER
from tritone_training.kinds.music_transformer.notes import (
    BEGIN,
    END,
    HELD,
    MAX_NOTES,
    N_TOKENS,
    PADDING,
    STRUCK,
    NoteDecoder,
    may_follow,
    multi_hot,
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


def test_no_frames_have_no_tokens() -> None:
    assert tokens_of(np.zeros((0, N_PITCHES), np.uint8)).shape == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_tokens_represent_every_note_of_a_frame_however_many(seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 3, (7, N_PITCHES)).astype(np.uint8)
    tokens = tokens_of(frames)
    assert tokens.shape == (7, (frames > 0).sum(1).max() + 1)
    assert ((tokens == END).sum(1) == 1).all()
    spelled = torch.from_numpy(tokens).clamp_min(END)
    torch.testing.assert_close(decoder().notes_of(spelled), multi_hot(torch.from_numpy(frames)))


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


# --- parallel motion ------------------------------------------------------------------------------------------


def decoder(*, fifths: float = 0.0, octaves: float = 0.0) -> NoteDecoder:
    """A note decoder whose scores depend on parallel motion alone."""
    made = NoteDecoder(width=4, note_width=4, n_channels=2, n_views=1, onsets=True, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.out.bias[-2], made.out.bias[-1] = fifths, octaves
    return made


def scores_below(made: NoteDecoder, before: Sequence[int], above: Sequence[int]) -> dict[int, float]:
    """The scores of the struck notes that may follow those above, by MIDI pitch; tokens above are struck."""
    notes = np.zeros((1, N_PITCHES), np.uint8)
    notes[0, [pitch - LOWEST_PITCH for pitch in before]] = STRUCK_VALUE
    view = made.view(
        torch.zeros(1, 4),
        multi_hot(torch.from_numpy(notes)),
        torch.zeros(1, 1, N_PITCHES),
        torch.zeros(1, 2, N_PITCHES),
    )
    spelled = torch.tensor([[BEGIN, *(STRUCK + pitch - LOWEST_PITCH for pitch in above)]])
    with torch.inference_mode():
        whole = made.scores(view, spelled, torch.zeros(1, spelled.shape[1], 4))[0, -1]
        tokens = torch.nn.functional.pad(spelled[:, 1:], (0, MAX_NOTES - len(above) + 1), value=END)
        anchor = made.pitch_of_token[spelled[:, -1:]] if above else view.top[:, None]
        perfect = view.perfect[:, len(above)]
        one = made.next_scores(view, spelled[:, -1], torch.zeros(1, 4), anchor, tokens, perfect)[0]
    torch.testing.assert_close(one, whole)
    struck = whole[STRUCK:HELD]
    return {LOWEST_PITCH + int(pitch): float(struck[pitch]) for pitch in torch.nonzero(struck > NEVER / 2)[:, 0]}


def marked(scores: Mapping[int, float]) -> set[int]:
    return {pitch for pitch, score in scores.items() if score}


@pytest.mark.parametrize("shift", [0, 5, -11])
def test_a_fifth_that_moves_is_a_parallel_fifth(shift: int) -> None:
    scores = scores_below(decoder(fifths=-3.0), [67 + shift, 60 + shift], [69 + shift])
    assert marked(scores) == {pitch for pitch in range(21, 69 + shift) if (69 + shift - pitch) % 12 == 7}
    assert {scores[pitch] for pitch in marked(scores)} == {-3.0}


def test_octaves_and_unisons_have_a_score_of_their_own() -> None:
    made = decoder(fifths=-3.0, octaves=-5.0)
    scores = scores_below(made, [72, 60], [74])
    assert marked(scores) == {62, 50, 38, 26}
    assert scores[62] == -5.0
    # The third voice: a fifth below the first, an octave below the second.
    scores = scores_below(made, [72, 65, 53], [74, 67])
    assert scores[55] == -8.0
    assert marked(scores) == {55, 43, 31}


@pytest.mark.parametrize(
    ("before", "above", "why"),
    [
        ((67, 60), (67,), "the upper voice stays"),
        ((67, 64), (69,), "a third is no perfect interval"),
        ((67,), (69,), "there was one voice"),
        ((), (69,), "silence before"),
        ((67, 60), (), "the highest voice has none above"),
    ],
)
def test_what_is_no_parallel(before: Sequence[int], above: Sequence[int], why: str) -> None:
    assert marked(scores_below(decoder(fifths=1.0, octaves=1.0), before, above)) == set(), why


def test_a_note_that_is_held_on_moves_with_none() -> None:
    made = decoder(fifths=1.0)
    held = torch.tensor([HELD + 69 - LOWEST_PITCH])
    assert not made.perfect_below[held].any()
    assert not made.perfect_below[[END, BEGIN]].any()


def test_more_notes_than_places_have_scores() -> None:
    made = decoder(octaves=1.0)
    tokens = torch.tensor([[BEGIN, *range(STRUCK + 60, STRUCK + 60 - MAX_NOTES - 3, -1)]])
    view = made.view(
        torch.zeros(1, 4), torch.ones(1, 2 * N_PITCHES), torch.zeros(1, 1, N_PITCHES), torch.zeros(1, 2, N_PITCHES)
    )
    with torch.inference_mode():
        scores = made.scores(view, tokens, torch.zeros(1, tokens.shape[1], 4))
    assert torch.isfinite(scores).all()
    assert (scores[0, MAX_NOTES + 1 :, STRUCK : STRUCK + 40] == 0).all()
