from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import chords, network
from torch import Tensor

from tritone.music.grid import N_PITCHES
from tritone_training.data.scores import ScorePiece
from tritone_training.kinds.music_transformer.attention import mix, window_weights
from tritone_training.kinds.music_transformer.dataset import Batch, PieceSegment, collate, whole
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD
from tritone_training.kinds.music_transformer.module import frame_nll
from tritone_training.kinds.music_transformer.network import LookAheadEncoder, MusicTransformer, highest
from tritone_training.kinds.music_transformer.notes import BEGIN, NEVER, multi_hot


def piece(n_frames: int, *, seed: int = 0) -> ScorePiece:
    return ScorePiece("a", chords(n_frames, seed=seed), "train", "folk", (4, 1))


def nll(made: MusicTransformer, *segments: PieceSegment) -> list[Tensor]:
    batch = collate(segments)
    return list(torch.split(frame_nll(made, batch), batch.counted.sum(1).tolist()))


@pytest.mark.parametrize("nearest", [0, 1])
@pytest.mark.parametrize("n_frames", [1, 5, 7, 8, 40])
def test_attention_in_blocks_is_attention_in_a_window(n_frames: int, nearest: int) -> None:
    n_window = 7
    query, key, value = torch.randn(3, 2, 2, n_frames, 4).unbind()
    bias, nothing = torch.randn(2, n_window), torch.randn(2)
    found = mix(window_weights(query, key, bias, nearest=nearest, nothing=nothing), value)
    for t in range(n_frames):
        seen = [s for s in range(n_frames) if nearest <= t - s < nearest + n_window]
        for head in range(2):
            scores = [(key[:, head, s] * query[:, head, t]).sum(1) / 2 + bias[head, t - s - nearest] for s in seen]
            row = torch.stack([*scores, nothing[head].expand(2)])
            weights = torch.softmax(row, 0)
            expected = sum((weights[i, :, None] * value[:, head, s] for i, s in enumerate(seen)), torch.zeros(2, 4))
            torch.testing.assert_close(found[:, head, t], expected)


def test_the_likelihood_of_a_frame_depends_on_the_past_alone() -> None:
    made, before = network(n_layers=2), whole(piece(30), (), onsets=True)
    changed = before.frames.copy()
    changed[20, 70] = 2
    (a,), (b,) = nll(made, before), nll(made, replace(before, frames=changed))
    torch.testing.assert_close(a[:20], b[:20])
    assert (a[20:26] - b[20:26]).abs().min() > 1e-4


def test_the_window_ends() -> None:
    # The copies see 9 frames, whose keys know of 6 frames before them.
    made, before = network(), whole(piece(30), (), onsets=True)
    changed = before.frames.copy()
    changed[3, 70] = 2
    (a,), (b,) = nll(made, before), nll(made, replace(before, frames=changed))
    torch.testing.assert_close(a[19:], b[19:])
    assert (a[18] - b[18]).abs() > 0
    assert (a[:5] - b[:5]).abs().max() > 1e-3


def test_other_pieces_of_a_batch_and_padding_have_no_effect() -> None:
    made = network()
    long, short = (whole(piece(n, seed=n), ("folk",), onsets=True) for n in (41, 17))
    together = nll(made, long, short)
    torch.testing.assert_close(together[0], nll(made, long)[0])
    torch.testing.assert_close(together[1], nll(made, short)[0])


def test_a_segment_from_the_middle_depends_on_preceding_frames_and_the_beat() -> None:
    # Beyond the window its likelihood is that in the whole piece.
    made, all_of_it = network(), whole(piece(40), ("folk",), onsets=True)
    (end,) = nll(made, replace(all_of_it, start=15))  # it sees back 15 frames
    (entire,) = nll(made, all_of_it)
    torch.testing.assert_close(end[16:], entire[31:])


@pytest.mark.parametrize("what", ["meter", "style", "n_before"])
def test_meter_and_style_change_the_likelihood(what: str) -> None:
    made = network()
    batch = collate([whole(piece(12), ("folk",), onsets=True)])
    other = {"meter": torch.tensor([[3, 0]]), "style": torch.tensor([0]), "n_before": torch.tensor([1])}[what]
    assert (frame_nll(made, batch) - frame_nll(made, batch._replace(**{what: other}))).abs().max() > 1e-3


def test_unknown_and_invalid_styles_and_meters_have_a_finite_likelihood() -> None:
    made = network()
    batch = collate([whole(piece(12), (), onsets=True)])
    for meter, style in (([0, 0], 0), ([-3, -5], -7), ([10**9, 10**9], 99)):
        answer = frame_nll(made, batch._replace(meter=torch.tensor([meter]), style=torch.tensor([style])))
        assert torch.isfinite(answer).all()


def test_the_probabilities_of_the_tokens_that_the_grammar_allows_sum_to_one() -> None:
    made = network()
    frames = torch.from_numpy(chords(5, seed=2))
    before = multi_hot(frames)
    scale = made.notes.scale(torch.tensor([0, 1, 12, 13, 24]))
    view = made.view(torch.randn(5, 16), before, torch.rand(5, 6, 2 * N_PITCHES), scale)
    above = torch.tensor([[BEGIN], [50], [0], [100], [BEGIN]])
    scores = made.notes.scores(view, above, torch.zeros(5, 1, 16))[:, 0]
    shares = torch.softmax(scores, 1)
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert (shares[scores <= NEVER] == 0).all()
    held = scores[:, 89:] > NEVER
    assert not (held & (frames == 0)).any()
    assert held[0].equal(frames[0] > 0)
    assert shares[2, 0] == 1  # after END, END


def test_the_likelihood_counts_every_note_of_a_crowded_frame() -> None:
    made = network()
    frames = np.full((3, N_PITCHES), 2, np.uint8)
    crowded = replace(whole(piece(3), (), onsets=True), frames=frames)
    (answer,) = nll(made, crowded)
    # 88 notes and an END: fewer tokens would cost less, each more than nothing.
    assert answer.min() > 88 * 0.01
    (silent,) = nll(made, replace(crowded, frames=np.zeros_like(frames)))
    assert torch.isfinite(silent).all()


def test_without_onsets_no_note_is_held_on() -> None:
    made = network(onsets=False)
    segment = whole(piece(20), (), onsets=False)
    assert set(np.unique(segment.frames)) == {0, 2}
    (answer,) = nll(made, segment)
    assert torch.isfinite(answer).all()
    assert answer.max() < 1e3  # a forbidden word would cost a billion


# --- what is given ------------------------------------------------------------------------------------------


def test_the_reader_sees_nothing_where_nothing_is_given_and_nothing_behind_its_look_ahead() -> None:
    reader = LookAheadEncoder(width=8, reader_width=8, dropout=0.0).eval()
    n_frames = 10
    whole_notes, top = torch.zeros(2, 1, n_frames + LOOK_AHEAD, 2 * N_PITCHES)
    is_given = torch.zeros(1, n_frames + LOOK_AHEAD)
    assert torch.equal(reader(whole_notes, top, is_given), torch.zeros(1, n_frames, 8))
    is_given[0, 5] = 1  # be it silence
    answer = reader(whole_notes, top, is_given)
    assert answer[0, :5].abs().sum(-1).min() > 0
    assert torch.equal(answer[0, 5:], torch.zeros(5, 8))  # itself it is told of otherwise
    is_given[0] = 0
    is_given[0, -1] = 1
    answer = reader(whole_notes, top, is_given)
    assert torch.equal(answer[0, :-1], torch.zeros(n_frames - 1, 8))
    assert answer[0, -1].abs().sum() > 0


def with_mode(segment: PieceSegment, mode: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Batch:
    batch = collate([replace(segment, mode=mode)])
    return batch._replace(counted=torch.ones_like(batch.counted))


def test_a_prompt_is_the_past_and_a_goal_is_the_future() -> None:
    made, segment = network(), whole(piece(20), ("folk",), onsets=True)
    free = frame_nll(made, collate([segment]))
    mode = np.zeros(20, np.uint8)
    mode[:8] = 1
    assert torch.equal(frame_nll(made, with_mode(segment, mode)), free)
    mode[15:] = 1
    towards = frame_nll(made, with_mode(segment, mode))
    assert (towards[:14] - free[:14]).abs().min() > 1e-5


def test_a_given_highest_note_costs_nothing_and_is_heeded() -> None:
    made, segment = network(), whole(piece(20), ("folk",), onsets=True)
    free = frame_nll(made, collate([segment]))
    given = frame_nll(made, with_mode(segment, np.full(20, 2, np.uint8)))
    assert torch.isfinite(given).all()
    silent = torch.from_numpy((segment.frames == 0).all(1))
    assert torch.equal(given[silent], torch.zeros(int(silent.sum())))  # END is all there is, and it is given
    assert (given[~silent] - free[~silent]).abs().min() > 1e-5


def test_highest() -> None:
    frames = torch.from_numpy(chords(30, seed=4))
    top = highest(multi_hot(frames))
    for row, all_of_it in zip(top, frames, strict=True):
        sounding = torch.nonzero(all_of_it)[:, 0]
        assert row.sum() == min(1, len(sounding))
        if len(sounding):
            pitch = int(sounding.max())
            assert row[pitch if all_of_it[pitch] == 2 else N_PITCHES + pitch] == 1


def test_a_new_network_is_no_worse_than_chance() -> None:
    torch.manual_seed(0)
    made = network(seed=1)
    (answer,) = nll(made, whole(piece(40), (), onsets=True))
    assert answer.mean() < 40 * math.log(177)
