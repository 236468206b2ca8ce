"""Joint frames of `polyphony_rnn`: decoder, conditions, priors and the sampler that composes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.polyphony_pieces import STYLES, conditions, piece_of, score_of

from tritone_training import CheckpointError, checkpoint
from tritone_training.data.piece_conditions import NEW, PieceConditions, unknown
from tritone_training.data.scores import ScorePiece
from tritone_training.generation import SamplingFilter
from tritone_training.kinds.polyphony_rnn import dataset
from tritone_training.kinds.polyphony_rnn.conditions import (
    BAR,
    BAR_FRAMES,
    DENSITY,
    KEY,
    LEFT,
    N_CONDITIONS,
    N_HISTORY_FEATURES,
    POSITION,
    REPEATS,
    STYLE,
    VOICES,
    frame_conditions,
    history_features,
    range_features,
    transposed_key,
    without_metre,
    without_repeats,
)
from tritone_training.kinds.polyphony_rnn.config import PRESETS, PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import SAMPLER, UNSTEERED_SAMPLER
from tritone_training.kinds.polyphony_rnn.export import exportable
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameRules, FrameSampler
from tritone_training.kinds.polyphony_rnn.module import PolyphonyModule, joint_nll
from tritone_training.kinds.polyphony_rnn.network import PolyphonyNetwork, Sampler
from tritone_training.kinds.polyphony_rnn.priors import SamplingPriors, measure_priors, priors_of
from tritone_training.kinds.polyphony_rnn.sampler import JointSampler, Steering, drawn

C_MAJOR, A_MINOR = 1, 22
MIDDLE_C = 60 - 21


def network_with_decoder(seed: int = 0) -> PolyphonyNetwork:
    """Random weights, large enough that every input has an influence."""
    torch.manual_seed(seed)
    network = PolyphonyNetwork(units=6, hidden=5, reach=3, width=7, n_styles=2).eval().requires_grad_(False)
    network.height.normal_()
    assert network.decoder is not None
    for parameter in network.decoder.parameters():
        parameter.normal_(0, 0.2)
    network.decoder.out.bias.fill_(-3.0)
    return network


def priors(**changed: Any) -> SamplingPriors:
    values: dict[str, Any] = {
        "styles": ("chorale", "reel"),
        "style_shares": {"0": (0.5, 0.5), "6": (0.0, 1.0)},
        "key_shares": ((1.0, *([0.0] * 23)), tuple([1 / 24] * 24)),
        "n_notes_max": 5,
        "longest_rest": 3,
        "strikes": True,
    }
    return SamplingPriors(**{**values, **changed})


def random_piece(n_frames: int, seed: int, *, share: float = 0.05, bar_frames: int = 8) -> dataset.PieceNotes:
    random = np.random.default_rng(seed)
    notes = torch.from_numpy(random.random((n_frames, 88)) < share)
    begins = piece_of("a", notes).struck
    struck = begins | (notes & torch.from_numpy(random.random((n_frames, 88)) < 0.3))
    return piece_of("a", notes, struck, asked=conditions(n_frames), style=STYLES[0], meter=(bar_frames, 0))


def asked_nothing(n_batch: int, n_frames: int, **changed: torch.Tensor) -> Steering:
    """A request for nothing, but for what is given."""
    nothing = torch.zeros(n_batch, dtype=torch.int64)
    values = dict.fromkeys(Steering._fields, nothing)
    values["meter"] = torch.zeros(n_batch, 2, dtype=torch.int64)
    values["repeats"] = torch.zeros(n_batch, n_frames, dtype=torch.int64)
    return Steering(**{**values, **changed})


def sample(
    sampler: JointSampler,
    prompt: torch.Tensor,
    noise: torch.Tensor,
    choice: tuple[torch.Tensor, ...] | None = None,
    **changed: torch.Tensor,
) -> torch.Tensor:
    """The frames that a sampler returns for a request."""
    asked = asked_nothing(len(noise), noise.shape[1], **changed)
    (frames,) = sampler(prompt, *asked, noise, *(choice or options(len(noise))))
    return frames


def options(n_batch: int, *, temperature: float = 1.0, top_k: int = 89, top_p: float = 1.0) -> tuple[torch.Tensor, ...]:
    return (
        torch.full((n_batch,), temperature),
        torch.full((n_batch,), top_k),
        torch.full((n_batch,), top_p),
    )


# --- conditions ----------------------------------------------------------------------------------------------------


def test_conditions_of_a_piece_with_an_upbeat() -> None:
    notes = torch.zeros(20, 88, dtype=torch.bool)
    notes[1:11, MIDDLE_C] = True
    piece = PieceConditions(key=C_MAJOR, density=3, n_voices=2, end=20, repeats=np.arange(20))
    found = frame_conditions(notes, piece, style=2, bar_frames=8, first_position=6)
    assert found[0].tolist() == [C_MAJOR, 2, 8, 6, 1, 11, 3, 2, 0]
    assert found[2].tolist() == [C_MAJOR, 2, 8, 0, 2, 9, 3, 2, 2]
    assert found[10, LEFT] == 1  # the last note
    assert found[11:, LEFT].tolist() == [0] * 9  # silence after it is no part of the piece
    assert not frame_conditions(notes, unknown(20), style=0, bar_frames=17, first_position=0).any()


def test_bars_are_counted_in_phrases_of_eight() -> None:
    notes = torch.ones(40, 88, dtype=torch.bool)
    found = frame_conditions(notes, unknown(40), style=0, bar_frames=4, first_position=0)
    assert found[::4, BAR].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    assert found[:4, POSITION].tolist() == [0, 1, 2, 3]


def test_transposing_moves_the_key_within_its_mode() -> None:
    conditions = torch.zeros(4, N_CONDITIONS, dtype=torch.int64)
    conditions[:, KEY] = torch.tensor([C_MAJOR, A_MINOR, 12, 0])
    assert transposed_key(conditions, 3)[:, KEY].tolist() == [4, 13, 3, 0]
    assert transposed_key(conditions, -1)[:, KEY].tolist() == [12, 21, 11, 0]


def test_history_features_look_back_whole_bars() -> None:
    notes = torch.zeros(12, 88, dtype=torch.bool)
    struck = notes.clone()
    notes[2:5, 30] = True
    struck[[2, 4], [30, 30]] = True
    found = history_features(notes, struck, 3)
    assert found.shape == (12, N_HISTORY_FEATURES, 88)
    assert torch.expm1(found[2:7, 0, 30]).round().tolist() == [0, 1, 2, 1, 0]  # frames since the last strike
    assert found[:, 6, 30].nonzero().flatten().tolist() == [5, 6, 7]  # one bar back
    assert found[:, 7, 30].nonzero().flatten().tolist() == [8, 9, 10]  # two bars back
    assert found[:, 10, 30].nonzero().flatten().tolist() == [5, 7]  # struck one bar back
    plain, without = without_metre(torch.ones(12, N_CONDITIONS, dtype=torch.int64), found)
    assert plain[0].tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(without[:, :6], found[:, :6])
    assert not without[:, 6:].any()
    assert torch.equal(history_features(notes, struck, 0), without)


def test_history_features_show_the_moment_that_is_repeated() -> None:
    notes = torch.zeros(12, 88, dtype=torch.bool)
    struck = notes.clone()
    notes[2:5, 30] = True
    struck[2, 30] = True
    repeats = torch.tensor([0] * 6 + [4, 4, 4, 4, NEW, 0])
    found = history_features(notes, struck, 0, repeats)
    assert found[:, 14, 30].nonzero().flatten().tolist() == [6, 7, 8]
    assert found[:, 15, 30].nonzero().flatten().tolist() == [6]
    plain, without = without_repeats(torch.ones(12, N_CONDITIONS, dtype=torch.int64), found)
    assert plain[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert torch.equal(history_features(notes, struck, 0), without)


def test_range_features_measure_the_distance_from_what_has_sounded() -> None:
    used = torch.zeros(2, 88)
    used[0, [40, 45]] = 1
    found = range_features(used)
    assert found[0, 0].nonzero().flatten().tolist() == [40, 45]
    assert found[0, 2, [43, 45, 46, 57, 80]].tolist() == pytest.approx([0, 0, 1 / 12, 1, 1])
    assert found[0, 4, [43, 40, 39, 28, 0]].tolist() == pytest.approx([0, 0, 1 / 12, 1, 1])
    assert found[0, [1, 3]].sum(0).tolist() == [1.0] * 40 + [0.0] * 6 + [1.0] * 42
    assert not found[1].any()  # nothing is outside the range of nothing


# --- the decoder ---------------------------------------------------------------------------------------------------


def test_a_pitch_depends_on_the_notes_above_it_alone() -> None:
    decoder = network_with_decoder().decoder
    assert decoder is not None
    base = torch.randn(1, 88, 7)
    nothing = torch.zeros(1, 88)
    chord, lower = nothing.clone(), nothing.clone()
    chord[0, 60] = lower[0, 60] = lower[0, 30] = 1
    without, with_lower = (decoder.logits(base + decoder.context(notes, nothing)) for notes in (chord, lower))
    assert torch.equal(without[:, 30:], with_lower[:, 30:])
    assert (without[:, :30] != with_lower[:, :30]).any(2).all()  # at any distance
    held = decoder.logits(base + decoder.context(nothing, chord))
    assert not torch.allclose(held[:, :60], without[:, :60])


def test_sampled_frames_have_the_likelihoods_that_training_computes() -> None:
    """By hand, pitch by pitch from the highest down, and note by note as it is served."""
    decoder = network_with_decoder().decoder
    assert decoder is not None
    decoder.out.bias[0] = -4.0
    n_samples = 2_000
    base = torch.randn(1, 88, 7).expand(n_samples, -1, -1)
    before = (torch.rand(88) < 0.2).float().expand(n_samples, -1)
    sampler = FrameSampler(decoder, n_notes_max=20, strikes=True).eval()
    filtered = SamplingFilter.of(
        **dict(zip(("temperature", "top_k", "top_p"), options(n_samples), strict=True)), n_choices=89
    )
    none, ones = torch.zeros(n_samples), torch.ones(n_samples, 88)
    rules = FrameRules(longest_rest=none, allowed=ones, final=none, roots=ones)
    sounding, struck = sampler(base, base, before, rules, 1 - none, torch.rand(n_samples, 88), filtered)
    by_hand, struck_by_hand = torch.zeros(n_samples, 88), torch.zeros(n_samples, 88)
    for pitch in range(87, -1, -1):
        logits = decoder.logits(base + decoder.context(struck_by_hand, by_hand - struck_by_hand))[:, pitch]
        chance = torch.sigmoid(logits)
        by_hand[:, pitch] = (torch.rand(n_samples) < chance[:, 0]).float()
        again = torch.maximum((torch.rand(n_samples) < chance[:, 1]).float(), 1 - before[:, pitch])
        struck_by_hand[:, pitch] = by_hand[:, pitch] * again
    assert (sounding.mean(0) - by_hand.mean(0)).abs().max() < 0.06
    assert (struck.mean(0) - struck_by_hand.mean(0)).abs().max() < 0.06
    assert sounding.sum(1).mean() == pytest.approx(float(by_hand.sum(1).mean()), rel=0.06)
    nats = [
        sum(float(part.mean()) for part in decoder.nll(base, notes, begun, before))
        for notes, begun in ((sounding, struck), (by_hand, struck_by_hand))
    ]
    assert nats[0] == pytest.approx(nats[1], rel=0.05)
    assert (struck <= sounding).all()


def test_silence_is_no_longer_than_in_the_training_pieces() -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    network.decoder.out.bias[0] = -30.0  # it would fall silent and stay so
    for longest in (1, 3):
        sampler = JointSampler(network, priors(longest_rest=longest), frames_per_quarter=2)
        frames = sample(sampler, torch.zeros(4, 8, 88, dtype=torch.uint8), torch.rand(4, 40, 88))
        for piece in frames:
            sounds = piece.any(1).nonzero().flatten().tolist()
            gaps = np.diff([-1, *sounds, 40]) - 1
            assert gaps.max() == longest


def test_as_many_notes_as_in_the_training_pieces() -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    network.decoder.out.bias[0] = 3.0
    sampler = JointSampler(network, priors(n_notes_max=3), frames_per_quarter=2)
    frames = sample(sampler, torch.zeros(2, 8, 88, dtype=torch.uint8), torch.rand(2, 20, 88))
    assert ((frames > 0).sum(2) == 3).all()


def test_notes_are_struck_again_only_after_training_on_onsets() -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    network.decoder.out.bias.copy_(torch.tensor([0.0, 3.0]))
    for strikes in (True, False):
        sampler = JointSampler(network, priors(strikes=strikes), frames_per_quarter=2)
        frames = sample(sampler, torch.zeros(2, 8, 88, dtype=torch.uint8), torch.rand(2, 40, 88))
        again = (frames[:, 1:] == 2) & (frames[:, :-1] > 0)
        assert bool(again.any()) is strikes
        assert ((frames[:, 1:] == 1) <= (frames[:, :-1] > 0)).all()  # nothing is held that did not sound


# --- the sampler ---------------------------------------------------------------------------------------------------


def test_the_sampler_sees_what_training_saw() -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    piece = random_piece(40, seed=0)
    features = dataset.extract_features([piece])[0]
    history = history_features(piece.notes, piece.struck, 8, piece.conditions[:, REPEATS])
    hidden, seen = network.hidden_states(features.pitch[None].float(), features.frame[None])
    base = network.decoder.base(hidden[0], seen[0], history, piece.conditions)
    sampler = JointSampler(network, priors(), frames_per_quarter=2)
    state = sampler.start(torch.zeros(1, 88))
    for frame in range(40):
        found = sampler.history_features(state, torch.tensor([8]), piece.conditions[frame : frame + 1, REPEATS])
        torch.testing.assert_close(found[0], history[frame])
        now = network.decoder.base(state.hidden, state.seen, found, piece.conditions[frame : frame + 1])
        torch.testing.assert_close(now[0], base[frame], atol=3e-3, rtol=0)  # half precision
        state = sampler.advance(state, piece.notes[None, frame].float(), piece.struck[None, frame].float())


def test_silence_before_the_first_note_of_a_prompt_is_skipped() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    piece = random_piece(12, seed=1)
    prompt = (piece.notes.to(torch.uint8) + piece.struck.to(torch.uint8))[None]
    later = torch.cat([torch.zeros(1, 9, 88, dtype=torch.uint8), prompt], 1)
    start = sampler.start(torch.zeros(1, 88))
    read, delayed, backwards, nothing = (
        sampler.read(given, start).packed() for given in (prompt, later, prompt.flip(1), torch.zeros_like(prompt))
    )
    for one, other, unread, before in zip(read, delayed, nothing, start.packed(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(unread, before)
    assert not all(torch.equal(one, other) for one, other in zip(read, backwards, strict=True))
    noise = torch.rand(1, 10, 88)
    frames, delayed_frames = (sample(sampler, given, noise) for given in (prompt, later))
    assert frames.any()
    assert torch.equal(frames, delayed_frames)


def test_the_metre_of_a_new_piece() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    noise = torch.rand(2, 20, 88)
    silence = torch.zeros(2, 3, 88, dtype=torch.uint8)
    for length, first, expected in ((0, 0, 8), (6, 4, 6), (8, 0, 8), (17, 0, 0)):
        meter = torch.tensor([[length, first]] * 2)
        found = sampler.conditions(silence, noise, asked_nothing(2, 20, meter=meter))
        assert found.shape == (2, 20, N_CONDITIONS)
        assert found[:, :, BAR_FRAMES].unique().tolist() == [expected]
        assert not found[:, :, LEFT].any()
        if length == 6:
            assert found[:, 0, STYLE].tolist() == [2, 2]  # the only style in this metre
            assert found[0, :, POSITION].tolist() == [(4 + n) % 6 for n in range(20)]
            assert found[0, :, BAR].tolist() == [1 + (4 + n) // 6 for n in range(20)]
        if length == 17:  # no such metre was trained
            assert not found[:, :, [POSITION, BAR]].any()


def test_the_metre_and_the_end_count_the_frames_of_a_prompt() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    prompt = torch.zeros(1, 5, 88, dtype=torch.uint8)
    asked = asked_nothing(1, 4, meter=torch.tensor([[6, 2]]), end=torch.tensor([9]))
    silent = sampler.conditions(prompt, torch.rand(1, 4, 88), asked)
    assert silent[0, :, POSITION].tolist() == [2, 3, 4, 5]  # silence alone is no part of the piece
    assert silent[0, :, LEFT].tolist() == [9, 8, 7, 6]
    prompt[0, 2, 40] = 2
    found = sampler.conditions(prompt, torch.rand(1, 4, 88), asked)
    assert found[0, :, POSITION].tolist() == [1, 2, 3, 4]
    assert found[0, :, LEFT].tolist() == [4, 3, 2, 1]


def test_what_is_asked_reaches_every_frame() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    one = torch.ones(1, dtype=torch.int64)
    repeats = torch.tensor([[NEW, 8, 128, 129]])
    asked = asked_nothing(1, 4, style=2 * one, key=A_MINOR * one, density=3 * one, n_voices=5 * one, repeats=repeats)
    for prompt in (torch.zeros(1, 5, 88, dtype=torch.uint8), torch.ones(1, 5, 88, dtype=torch.uint8)):
        found = sampler.conditions(prompt, torch.rand(1, 4, 88), asked)
        assert found[0][:, [STYLE, KEY, DENSITY, VOICES]].tolist() == [[2, A_MINOR, 3, 5]] * 4
        assert found[0, :, REPEATS].tolist() == [NEW, 8, 128, 0]  # farther back, nothing is remembered


def test_every_condition_changes_what_is_sampled() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    torch.manual_seed(1)
    prompt, noise = torch.zeros(4, 1, 88, dtype=torch.uint8), torch.rand(4, 24, 88)
    four = torch.ones(4, dtype=torch.int64)
    back = torch.full((4, 24), NEW)
    back[:, 8:] = 8
    known = {"style": four, "key": four}
    plain = sample(sampler, prompt, noise, **known)
    for changed in (
        {"style": 2 * four}, {"key": 5 * four}, {"density": 3 * four}, {"n_voices": 4 * four}, {"end": 24 * four},
        {"repeats": back}, {"meter": torch.tensor([[6, 0]] * 4)},
    ):  # fmt: skip
        assert not torch.equal(plain, sample(sampler, prompt, noise, **{**known, **changed})), changed


def test_the_last_bar_is_less_random() -> None:
    network = network_with_decoder()
    torch.manual_seed(3)
    prompt, noise = torch.zeros(3, 1, 88, dtype=torch.uint8), torch.rand(3, 24, 88)
    end = torch.full((3,), 24)
    key = torch.full((3,), 3)
    plain, calm = (
        JointSampler(network, priors(), frames_per_quarter=2, ending_temperature=factor) for factor in (1.0, 0.02)
    )
    ended = [sample(each, prompt, noise, end=end, key=key) for each in (plain, calm)]
    assert torch.equal(ended[0][:, :16], ended[1][:, :16])
    assert not torch.equal(ended[0][:, 16:], ended[1][:, 16:])
    assert torch.equal(*(sample(each, prompt, noise, key=key) for each in (plain, calm)))  # nothing ends
    asked = asked_nothing(3, 24, end=end, meter=torch.tensor([[6, 0]] * 3))
    sharpness = calm.sharpness(calm.conditions(prompt, noise, asked)[0])
    assert sharpness.tolist() == pytest.approx([1.0] * 18 + [50.0] * 6)


@pytest.mark.parametrize(("key", "thirds"), [(C_MAJOR, {4}), (A_MINOR, {3, 4})])
def test_the_last_half_bar_is_the_tonic(key: int, thirds: set[int]) -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    sampler = JointSampler(network, priors(), frames_per_quarter=2)
    tonic = (key - 1) % 12
    both = torch.tensor([key] * 40)
    end = torch.full((40,), 16)
    prompt, noise = torch.zeros(40, 1, 88, dtype=torch.uint8), torch.rand(40, 16, 88)
    found = set()
    for bias in (-8.0, -3.0, 3.0):  # near silence to five notes at once
        network.decoder.out.bias[0] = bias
        for n_voices in (0, 1, 4):
            asked = {"key": both, "end": end, "n_voices": torch.full((40,), n_voices)}
            frames = sample(sampler, prompt, noise, **asked)
            for piece in frames:
                assert piece[12].any()  # the chord begins
                for frame in piece[12:]:
                    degrees = [(int(pitch) + 21 - tonic) % 12 for pitch in frame.nonzero()]
                    if degrees:
                        assert degrees[0] == 0
                        found |= set(degrees)
                        assert n_voices != 1 or set(degrees) == {0}
    assert found == {0, 7} | thirds


def test_without_an_end_or_a_key_the_last_notes_are_free() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    conditions_of_last = torch.zeros(1, N_CONDITIONS, dtype=torch.int64)
    for column, value, final in ((KEY, 1, 0), (LEFT, 4, 1), (LEFT, 5, 0), (KEY, 0, 0)):
        conditions_of_last[0, column] = value
        rules = sampler.rules(conditions_of_last, torch.zeros(1))
        assert rules.final.tolist() == [final]
        assert bool(rules.allowed.all()) is (final == 0)


def test_guidance_leads_to_the_key() -> None:
    """The more, the more two keys differ in the notes that are sampled."""
    network = network_with_decoder()
    shares = []
    for guidance in (0.0, 1.0, 4.0):
        sampler = JointSampler(network, priors(), frames_per_quarter=2, guidance=guidance)
        torch.manual_seed(5)
        noise = torch.rand(60, 16, 88)
        prompt, key = torch.zeros(60, 1, 88, dtype=torch.uint8), torch.full((60,), C_MAJOR)
        frames = sample(sampler, prompt, noise, key=key) > 0
        plain = sample(sampler, prompt, noise, key=key + 1) > 0
        shares.append(float((frames.float().mean((0, 1)) - plain.float().mean((0, 1))).abs().sum()))
    assert shares[0] < shares[1] < shares[2]


def test_the_key_of_a_prompt_is_kept_and_that_of_a_new_piece_is_drawn() -> None:
    sampler = JointSampler(network_with_decoder(), priors(), frames_per_quarter=2)
    prompt = torch.zeros(2, 8, 88, dtype=torch.uint8)
    for frame, step in enumerate((0, 4, 7, 0, 5, 9, 7, 0)):
        prompt[0, frame, MIDDLE_C + step] = 2
        prompt[1, frame, MIDDLE_C + step + 2] = 2
    noise = torch.rand(2, 4, 88)
    nothing = asked_nothing(2, 4)
    found = sampler.conditions(prompt, noise, nothing)
    assert found[:, 0, [KEY, STYLE, BAR_FRAMES]].tolist() == [[C_MAJOR, 0, 0], [C_MAJOR + 2, 0, 0]]
    keys = set()
    for draw in (0.0, 0.3, 0.999):
        noise[:, 0, 86], noise[:, 0, 87] = 0.9, draw  # the second style, whose keys are equally common
        found = sampler.conditions(torch.zeros_like(prompt), noise, nothing)
        assert found[:, 0, STYLE].tolist() == [2, 2]
        keys.add(int(found[0, 0, KEY]))
    assert keys == {1, 8, 24}


def test_drawing_follows_the_shares() -> None:
    shares = torch.tensor([[0.0, 0.5, 0.0, 0.5]]).expand(5, -1)
    assert drawn(shares, torch.tensor([0.0, 0.49, 0.5, 0.99, 1 - 2**-24])).tolist() == [1, 1, 3, 3, 3]


def test_a_network_without_a_decoder_cannot_sample_joint_frames() -> None:
    with pytest.raises(ValueError, match="width"):
        JointSampler(PolyphonyNetwork(units=2, hidden=2, reach=0, width=0), priors(), frames_per_quarter=2)


# --- training ------------------------------------------------------------------------------------------------------


def gradients(share: float) -> tuple[float, float]:
    """The largest gradient of the recurrent layer and of the decoder from the joint frames alone."""
    network = network_with_decoder().train().requires_grad_(True)
    module = PolyphonyModule(network, PolyphonyConfig(joint_gradient=share))
    module.log = lambda *args, **options: None  # type: ignore[method-assign]
    found = dataset.Excerpts(dataset.extract_features([random_piece(20, seed=2)]), PRESETS["tiny"])
    with torch.no_grad():
        network.out.weight.zero_()  # independent notes then have no gradient to pass on
    module.training_step(dataset.padded([found[0]]), 0).backward()
    assert network.decoder is not None
    largest = [
        max(float(p.grad.abs().max()) for p in part.parameters() if p.grad is not None)
        for part in (network.recurrent, network.decoder)
    ]
    return largest[0], largest[1]


def test_the_decoder_reaches_the_recurrent_layer_only_as_far_as_configured() -> None:
    (none, own), (half, _), (whole, same) = (gradients(share) for share in (0.0, 0.5, 1.0))
    assert none == 0 < own
    assert own == pytest.approx(same, rel=1e-4)
    assert 0 < half < whole


def test_the_decoder_has_no_share_in_clipping_the_other_gradients() -> None:
    network = network_with_decoder().requires_grad_(True)
    assert network.decoder is not None
    module = PolyphonyModule(network, PolyphonyConfig())
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-4)
    network.decoder.out.bias.grad = torch.full((2,), 1e6)
    module.configure_gradient_clipping(torch.optim.SGD(network.parameters(), 0.1), 1.0)
    assert network.out.weight.grad is not None
    assert float(network.out.weight.grad.max()) == pytest.approx(1e-4)
    assert float(network.decoder.out.bias.grad.norm()) == pytest.approx(1.0, rel=1e-3)


def test_conditions_are_hidden_at_random_in_training_and_always_in_evaluation() -> None:
    torch.manual_seed(0)
    pieces = dataset.extract_features([random_piece(24, seed=3)])
    columns = [KEY, STYLE, BAR_FRAMES, LEFT, DENSITY, VOICES, REPEATS]
    for share, expected in ((0.0, 1.0), (1.0, 0.0)):
        found = dataset.Excerpts(pieces, PRESETS["tiny"].changed(hidden_conditions=share))
        known = found[0].conditions[:20, columns] != 0
        assert known.float().mean(0).tolist() == [expected] * len(columns)
    found = dataset.Excerpts(pieces, PRESETS["tiny"].changed(hidden_conditions=0.5))
    shares = torch.stack([found[0].conditions[0] != 0 for _ in range(200)]).float().mean(0)
    assert all(0.35 < float(shares[column]) < 0.65 for column in columns)
    (batch,) = (dataset.WholePieces(pieces, batch_size=2)[0],)
    assert not batch.conditions.any()
    assert torch.equal(batch.history[0], history_features(pieces[0].notes, pieces[0].piece.struck, 0))


def test_padding_has_no_likelihood() -> None:
    network = network_with_decoder()
    assert network.decoder is not None
    pieces = dataset.extract_features([random_piece(n, seed=n) for n in (9, 17)])
    both = dataset.WholePieces(pieces, batch_size=2)[0]
    notes, strikes = joint_nll(network.decoder, both, *network.hidden_states(both.pitch, both.frame))
    for row, piece in enumerate(pieces):
        alone = dataset.WholePieces([piece], batch_size=1)[0]
        expected = joint_nll(network.decoder, alone, *network.hidden_states(alone.pitch, alone.frame))
        n_frames = len(piece.notes)
        torch.testing.assert_close(notes[row, :n_frames], expected[0][0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(strikes[row, :n_frames], expected[1][0], atol=1e-4, rtol=1e-4)
        assert not both.counts[row, n_frames:].any()


# --- data ----------------------------------------------------------------------------------------------------------


def test_a_note_struck_between_frames_begins_at_the_next_one() -> None:
    frames = np.zeros((8, 88), np.uint8)
    frames[:, 30] = [2, 1, 1, 2, 1, 1, 2, 1]
    frames[:, 40] = [0, 2, 1, 0, 2, 2, 1, 0]
    (score,) = dataset.reduced([ScorePiece("a", frames, "train", "x", (16, 0))], own=4, wanted=2)
    piece = dataset.PieceNotes.of(score, styles=("w", "x"))
    assert piece.notes[:, 30].tolist() == [True] * 4
    assert piece.struck[:, 30].tolist() == [True, False, True, True]
    assert piece.notes[:, 40].tolist() == [False, True, True, True]
    assert piece.struck[:, 40].tolist() == [False, True, True, True]
    assert (piece.style, piece.bar_frames) == (2, 8)
    assert piece.struck[:, 31].sum() == 0


def test_a_reel_in_sixteenths_keeps_all_its_notes_in_training() -> None:
    frames = np.zeros((16, 88), np.uint8)
    frames[np.arange(16), 30 + np.arange(16)] = 2
    reel = ScorePiece("reel", frames, "train", "x", (8, 0))
    slow = frames.copy()
    slow[1::2] = np.where(slow[::2] > 0, 1, 0)
    hymn = ScorePiece("hymn", slow, "train", "x", (16, 0))
    kept, halved = dataset.reduced([reel, hymn], own=4, wanted=2, whole=True)
    assert (len(kept.frames), kept.meter) == (16, (8, 0))
    assert (len(halved.frames), halved.meter) == (8, (8, 0))
    (evaluated,) = dataset.reduced([reel], own=4, wanted=2)
    assert len(evaluated.frames) == 8


def tune_in_c(last: int) -> ScorePiece:
    """Eight bars of 4/4 in eighths, each note struck; the last bar is one note, so many semitones above C."""
    steps = [0, 4, 7, 0, 5, 9, 7, 0] * 7 + [last] * 8
    notes = torch.zeros(64, 88, dtype=torch.bool)
    notes[torch.arange(64), MIDDLE_C + torch.tensor(steps)] = True
    struck = notes.clone()
    struck[57:] = False
    return score_of("tune", notes, struck, style="reel", meter=(8, 0))


def test_only_pieces_with_a_cadence_can_be_asked_to_end() -> None:
    scores = [tune_in_c(0), tune_in_c(7)]
    found = dataset.learned_pieces(scores, styles=STYLES, frames_per_quarter=2, n_excerpts=1, seed=0)
    ending, open_ended = found.pieces
    assert ending.conditions[0].tolist()[:6] == [C_MAJOR, 2, 8, 0, 1, 64]
    assert not open_ended.conditions[:, LEFT].any()
    (excerpt,) = found.excerpts
    assert excerpt.conditions[0, LEFT] == len(excerpt.notes)
    assert not len(excerpt.notes) % 8
    assert [template["repeats"] for template in found.templates] == [[0, 1, 1, 1, 1, 1, 1, 0]] * 2
    assert not dataset.learned_pieces(scores, styles=STYLES, frames_per_quarter=2, n_excerpts=0, seed=0).excerpts


def test_rare_styles_are_learned_more_often() -> None:
    notes = torch.zeros(9, 88, dtype=torch.bool)
    pieces = dataset.extract_features([piece_of(str(number), notes, style=STYLES[number == 0]) for number in range(5)])
    found = dataset.Excerpts(pieces, PRESETS["tiny"])
    assert found.weights(0.0) == [1.0] * 5
    assert found.weights(0.5) == [2.0, 1.0, 1.0, 1.0, 1.0]


def test_priors_are_those_of_the_training_pieces() -> None:
    def piece(n_notes: int, style: int, bar_frames: int, rest: int = 0) -> dataset.PieceNotes:
        notes = torch.zeros(30, 88, dtype=torch.bool)
        notes[:10, MIDDLE_C : MIDDLE_C + 4 * n_notes : 4] = True
        notes[10 + rest :, MIDDLE_C] = True
        asked = conditions(30, key=C_MAJOR)
        return piece_of("a", notes, asked=asked, style=STYLES[style - 1], meter=(bar_frames, 0))

    found = measure_priors([piece(1, 1, 8), piece(3, 2, 8, rest=2), piece(2, 2, 6)], ("a", "b"), strikes=False)
    assert found.style_shares == {
        "0": pytest.approx((1 / 3, 2 / 3)),
        "6": pytest.approx((0.0, 1.0)),
        "8": pytest.approx((0.5, 0.5)),
    }
    assert (found.n_notes_max, found.longest_rest, found.strikes) == (3, 2, False)
    assert [sum(row) for row in found.key_shares] == pytest.approx([1.0, 1.0])
    assert found.key_table().argmax(1).tolist()[0] == C_MAJOR - 1
    assert found.style_table()[[8, 6, 5]].flatten().tolist() == pytest.approx([0.5, 0.5, 0, 1, 1 / 3, 2 / 3])
    assert priors_of({"sampling": found.to_dict()}) == found


# --- checkpoints of earlier versions -------------------------------------------------------------------------------


def save(folder: Path, network: PolyphonyNetwork, config: dict[str, Any], **info: Any) -> Path:
    about = {"config": config, "frames_per_quarter": 2, "data": {"fingerprint": "0"}, **info}
    checkpoint.save(folder, kind="polyphony_rnn", info=about, weights=network.state_dict())
    return folder


def test_earlier_checkpoints_sample_independent_notes(tmp_path: Path) -> None:
    network = PolyphonyNetwork(units=4, hidden=4, reach=2, width=0)
    folder = save(tmp_path, network, {"units": 4, "hidden": 4, "reach": 2})
    (sampler,) = exportable(folder).companions
    assert isinstance(sampler.network, Sampler)
    assert sampler.declaration.inputs == UNSTEERED_SAMPLER.inputs
    assert "templates" not in sampler.declaration.parameters


def test_checkpoints_with_a_decoder_sample_joint_frames(tmp_path: Path) -> None:
    network = PolyphonyNetwork(units=4, hidden=4, reach=2, width=8, n_styles=2)
    config = {
        "units": 4, "hidden": 4, "reach": 2, "width": 8, "temperature": 0.75, "top_p": 0.5, "guidance": 0.5,
        "ending_temperature": 0.25,
    }  # fmt: skip
    template = {"style": "reel", "bar": 8, "mode": 0, "density": 1, "n_voices": 1, "repeats": [0, 1]}
    folder = save(tmp_path / "a", network, config, sampling=priors().to_dict(), templates=[template])
    (sampler,) = exportable(folder).companions
    assert isinstance(sampler.network, JointSampler)
    assert (sampler.network.frames.guidance, sampler.network.ending_sharpness) == (0.5, 4.0)
    parameters = sampler.declaration.parameters
    assert sampler.declaration.inputs == SAMPLER.inputs
    assert json.loads(parameters["styles"]) == ["any", "chorale", "reel"]
    assert sampler.metadata["n_styles"] == parameters["n_styles"] == "3"
    assert json.loads(parameters["templates"]) == [template]
    assert "templates" not in sampler.card
    assert (parameters["default_temperature"], parameters["default_top_p"]) == ("0.75", "0.5")
    with pytest.raises(CheckpointError, match="sampling"):
        exportable(save(tmp_path / "b", network, config))
    with pytest.raises(CheckpointError, match="do not fit"):
        exportable(save(tmp_path / "c", network, config, sampling=priors(styles=("one",)).to_dict()))
