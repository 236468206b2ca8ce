from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.support import music_models

from tritone.music.voices import HOLD, N_VOICE_VALUES, REST, voices_to_grid
from tritone.sampling import uniform_noise
from tritone_export.parity import open_session
from tritone_training import checkpoint
from tritone_training.bars.attribute_edits import attributes_of
from tritone_training.bars.autoencoder import AMOUNTS, MusicVae, autoencoder_from, decode, encode, spherical
from tritone_training.bars.networks import STEPS_PER_QUARTER
from tritone_training.bars.spans import (
    N_RELATIVE,
    REACH,
    cut_spans,
    level_of,
    marks_of,
    sounding_next,
    sounding_of,
    to_absolute,
    to_relative,
    transposed,
)
from tritone_training.bars.tensors import N_LATENT
from tritone_training.data.scores import ScorePiece, ScoreSet
from tritone_training.exceptions import CheckpointError, DataError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.music_vae import KIND, dataset, decoder_example_inputs
from tritone_training.kinds.music_vae.attributes import attribute_control, fit_attribute_curves
from tritone_training.kinds.music_vae.config import PRESETS
from tritone_training.kinds.music_vae.declaration import DECLARATION, DECODER
from tritone_training.kinds.music_vae.evaluate import evaluate_network
from tritone_training.kinds.music_vae.export import exportable
from tritone_training.kinds.music_vae.module import VaeModule, elbo_parts
from tritone_training.kinds.music_vae.network import DecoderGraph, build_network

N_SEEDS = 200


def melody(pitches: list[int], *, length: int = 4) -> npt.NDArray[np.uint8]:
    """A grid of equally long notes."""
    frames = np.zeros((length * len(pitches), 88), np.uint8)
    for index, pitch in enumerate(pitches):
        frames[index * length : (index + 1) * length, pitch - 21] = 1
        frames[index * length, pitch - 21] = 2
    return frames


def piece(name: str, frames: npt.NDArray[np.uint8], **facts: Any) -> ScorePiece:
    return ScorePiece(name, frames, **{"split": "train", "style": "tunes", "meter": (16, 0), **facts})


def score_set(*pieces: ScorePiece, frames_per_quarter: int = 4) -> ScoreSet:
    return ScoreSet("test", pieces, has_onsets=True, frames_per_quarter=frames_per_quarter)


@pytest.fixture(scope="module")
def scores() -> ScoreSet:
    """Two styles that differ in density and range, of four bars each, with a held-out part."""
    random = np.random.default_rng(0)
    pieces = []
    for index in range(20):
        slow = index % 2 == 0
        pitches = random.integers(55, 60, 16) if slow else random.integers(48, 84, 32)
        pieces.append(
            piece(
                f"{index}",
                melody(pitches.tolist(), length=4 if slow else 2),
                split="valid" if index >= 16 else "train",
                style="slow" if slow else "fast",
            )
        )
    return score_set(*pieces)


@pytest.fixture(scope="module")
def network() -> MusicVae:
    """Random weights, sharp enough that the noise does not decide alone."""
    torch.manual_seed(0)
    network = build_network(PRESETS["tiny"]).eval()
    with torch.no_grad():
        network.decoder.out.weight.mul_(4)
        network.decoder.from_latent.weight.mul_(3)
        torch.nn.init.normal_(network.decoder.change.out.weight, std=0.5)
    return network


@pytest.fixture(scope="module")
def network_with_flow(network: MusicVae) -> MusicVae:
    """The same with a flow that is not the identity."""
    torch.manual_seed(1)
    network = copy.deepcopy(network)
    flow = network.flow
    assert flow is not None
    flow.fit_components(torch.randn(500, N_LATENT) * torch.linspace(0.5, 2, N_LATENT) + 0.3)
    flow.temperature.fill_(0.8)
    with torch.no_grad():
        for coupling in flow.couplings:
            torch.nn.init.normal_(coupling.layers[-1].weight, std=0.05)
    return network


def latents(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, N_LATENT)).astype(np.float32))


def voices_of(network: MusicVae, n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Spans that a network writes: they obey the grammar."""
    return decode(network, latents(n, seed), uniform_noise(seed, n, 32, 4))


def relative_of(network: MusicVae, n: int, seed: int = 0, top_k: int = N_RELATIVE) -> torch.Tensor:
    one = torch.ones(n)
    return network.decoder.write_relative(
        latents(n, seed),
        torch.from_numpy(uniform_noise(seed, n, 32, 4)),
        temperature=one,
        top_k=torch.full((n,), top_k),
        top_p=one,
    )


# --- voices as tensors ---------------------------------------------------------------------------------------


def test_what_sounds_is_what_the_client_makes_of_the_voices() -> None:
    random = np.random.default_rng(0)
    voices = np.where(random.random((20, 32, 4)) < 0.5, 1, random.integers(0, 90, (20, 32, 4)))
    sounding = sounding_of(torch.from_numpy(voices))
    for span, sounds in zip(voices, sounding.numpy(), strict=True):
        grid = voices_to_grid(span)
        for row, pitches in zip(grid, sounds, strict=True):
            assert set(np.flatnonzero(row)) == {p - 1 for p in pitches if p > 0}
    step_by_step = torch.zeros(20, 4, dtype=torch.int64)
    for step in range(32):
        step_by_step = sounding_next(step_by_step, torch.from_numpy(voices[:, step]))
        assert torch.equal(step_by_step, sounding[:, step])
    marks = marks_of(torch.from_numpy(voices), sounding)
    assert torch.equal(marks == REST, sounding == 0)


def test_transposition_leaves_alone_what_would_not_fit() -> None:
    voices = torch.zeros(3, 2, 4, dtype=torch.int64)
    voices[:, 0, 0] = torch.tensor([2, 50, 89])
    voices[:, 1, 0] = HOLD
    assert transposed(voices, torch.tensor([-1, -1, -1]))[:, 0, 0].tolist() == [2, 49, 88]
    assert transposed(voices, torch.tensor([5, 5, 5]))[:, 0, 0].tolist() == [7, 55, 89]
    assert torch.equal(transposed(voices, torch.tensor([5, 5, 5]))[:, 1:], voices[:, 1:])


# --- spans --------------------------------------------------------------------------------------------------


def test_a_span_begins_at_every_bar() -> None:
    tune = melody(list(range(50, 66)))  # 64 steps: 4 bars
    spans = cut_spans(score_set(piece("a", tune)), "train")
    assert len(spans) == 3
    assert [span[0, 0] - 2 + 21 for span in spans.voices] == [50, 54, 58]
    with_ends = cut_spans(score_set(piece("a", tune)), "train", with_ends=True)
    assert with_ends.ends.tolist() == [False, False, False, True]
    assert len(with_ends.whole()) == 3
    assert not with_ends.voices[3, 16:].any()


@pytest.mark.parametrize(
    ("meter", "firsts"),
    [
        ((16, 12), [51, 55]),  # an upbeat of a quarter
        ((8, 4), [51, 55]),  # 2/4: pairs of bars
        ((32, 0), [50, 54, 58]),  # 4/2: halves of bars
        ((0, 0), [50, 54, 58]),
    ],
)
def test_bars_are_the_scores_own(meter: tuple[int, int], firsts: list[int]) -> None:
    spans = cut_spans(score_set(piece("a", melody(list(range(50, 66))), meter=meter)), "train")
    assert [span[0, 0] - 2 + 21 for span in spans.voices] == firsts


def test_what_has_no_two_bars_is_refused() -> None:
    waltz = piece("waltz", melody([60] * 30), meter=(12, 0))
    short = piece("short", melody([60] * 4))
    silent = piece("silent", np.zeros((32, 88), np.uint8))
    with pytest.raises(DataError):
        cut_spans(score_set(waltz, short), "train")
    good = piece("good", melody([60] * 8))
    assert cut_spans(score_set(waltz, short, silent, good), "train").report == {
        "n_spans": 1,
        "n_pieces": 4,
        "n_pieces_in_other_meters": 1,
        "n_pieces_too_short": 1,
        "n_silent_spans": 1,
    }
    with pytest.raises(DataError):
        cut_spans(score_set(good, frames_per_quarter=12), "train")


def test_styles_can_be_evened_out(scores: ScoreSet) -> None:
    spans = cut_spans(scores, "train")
    some = spans.at_most(3)
    assert np.bincount(some.styles).tolist() == [3, 3]
    assert len(spans.at_most(10**6)) == len(spans)


# --- network ------------------------------------------------------------------------------------------------


def test_what_is_written_obeys_the_grammar_and_becomes_a_score(network: MusicVae) -> None:
    voices = torch.from_numpy(voices_of(network, 64))
    sounding = sounding_of(voices)
    silent_before = torch.cat([torch.ones_like(voices[:, :1], dtype=torch.bool), sounding[:, :-1] == 0], dim=1)
    assert not ((voices == HOLD) & silent_before).any()
    assert (voices == HOLD).any()
    assert not (voices[:, 0] == HOLD).any()
    for span in voices.numpy():
        voices_to_grid(span)


def test_writing_follows_the_likelihoods_of_training(network: MusicVae) -> None:
    """With the same latent, what `write` chooses as likeliest is what `logits` says, step by step."""
    relative = relative_of(network, 16, top_k=1)
    assert torch.equal(network.decoder.logits(latents(16), relative).argmax(3), relative)
    assert len(relative.unique()) > 3


def test_lower_voices_depend_on_higher_voices_only(network: MusicVae) -> None:
    relative = relative_of(network, 1)
    changed = relative.clone()
    changed[0, 5, 1] = 40 if relative[0, 5, 1] != 40 else 41
    before, after = (network.decoder.logits(latents(1), each) for each in (relative, changed))
    differs = (before != after).any(3)[0]  # (N, V)
    assert not differs[:5].any()
    assert differs[5].tolist() == [False, False, True, True]
    assert differs[6].all()


def test_hidden_steps_hide_what_was_written(network: MusicVae) -> None:
    first, second = (relative_of(network, 1, seed) for seed in (1, 2))
    second[:, -1] = first[:, -1]
    hidden = torch.ones(1, 32, dtype=torch.bool)
    strikes = [
        network.decoder.logits(latents(1), relative, hidden_steps=steps)[:, -1, :, 2:]  # holds depend on the grammar
        for steps in (hidden, None)
        for relative in (first, second)
    ]
    assert torch.equal(strikes[0], strikes[1])
    assert not torch.equal(strikes[2], strikes[3])


def test_each_quarter_owns_a_part_of_the_latent(network: MusicVae) -> None:
    voices = torch.from_numpy(voices_of(network, 1))
    changed = voices.clone()
    changed[:, -STEPS_PER_QUARTER:, 1] = HOLD
    moved = (network(voices)[0] - network(changed)[0]).abs()[0, :-1].view(8, -1).mean(1)
    assert moved.argmax() == 7


def test_a_transposed_span_differs_in_its_level_alone(network: MusicVae) -> None:
    voices = np.full((3, 32, 4), HOLD)
    voices[:, ::4] = np.random.default_rng(0).integers(40, 60, (3, 8, 4))
    up = np.where(voices > HOLD, voices + 5, voices)
    before, after = (network(torch.from_numpy(each))[0] for each in (voices, up))
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert torch.equal(network.decoder.level(before) + 5, network.decoder.level(after))
    noise = uniform_noise(0, 3, 32, 4)
    low, high = decode(network, before, noise), decode(network, after, noise)
    inside = (low >= 2 + 12) & (low < 90 - 17)  # farther out, notes come back onto the keyboard
    np.testing.assert_array_equal(low[inside] + 5, high[inside])


def test_relative_spans_bring_back_all_that_is_within_reach() -> None:
    random = np.random.default_rng(0)
    voices = torch.from_numpy(np.where(random.random((50, 32, 4)) < 0.5, 1, random.integers(0, 90, (50, 32, 4))))
    for level in (torch.full((50,), 44), level_of(voices)):
        relative = to_relative(voices, level)
        assert (relative.min(), relative.max()) >= (0, 0)
        assert relative.max() < N_RELATIVE <= N_VOICE_VALUES, "a top_k of 90 keeps all"
        back = to_absolute(relative, level)
        near = (voices < 2) | ((voices - 2 - level[:, None, None]).abs() <= REACH)
        assert torch.equal(back[near], voices[near])
        assert ((back - voices) % 12 == 0).all()
    one = torch.zeros(1, 32, 4, dtype=torch.int64)
    assert int(level_of(one)) == 60 - 21
    one[0, 0] = torch.tensor([2, 3, 0, 0])
    assert int(level_of(one)) == 1, "halves go up"


def test_levels_are_exact_at_the_mean_and_likely_around_it(network: MusicVae) -> None:
    latent = torch.zeros(88, N_LATENT)
    latent[:, -1] = (torch.arange(88) - 39) / 8
    assert network.decoder.level(latent).tolist() == list(range(88))
    likely = network.decoder.level_logits(latent).softmax(1).diagonal()
    assert (likely > 0.99).all()
    latent[:, -1] = 1e6
    assert network.decoder.level(latent).unique().tolist() == [87]


def test_values_out_of_range_do_not_affect_other_rows(network: MusicVae) -> None:
    voices = torch.from_numpy(voices_of(network, 2))
    wild = voices.clone()
    wild[1, 0, 0] = 10**9
    wild[1, 1, 0] = -5
    assert torch.equal(network(voices)[0][0], network(wild)[0][0])
    assert network(wild)[0].isfinite().all()


def test_the_bound_is_made_of_nats(network: MusicVae) -> None:
    voices = torch.from_numpy(voices_of(network, 8))
    torch.manual_seed(0)
    reconstruction, divergence = elbo_parts(network, voices)
    mean, log_variance = network(voices)
    torch.manual_seed(0)
    latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    level = level_of(voices)
    relative = to_relative(voices, level)
    chosen = torch.gather(network.decoder.logits(latent, relative).log_softmax(3), 3, relative[..., None])
    chosen_level = torch.gather(network.decoder.level_logits(latent).log_softmax(1), 1, level[:, None])
    torch.testing.assert_close(reconstruction, -chosen.sum((1, 2, 3)) - chosen_level[:, 0])
    prior, posterior = torch.distributions.Normal(0, 1), torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(posterior, prior), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("edit_share", [0.0, 0.5])
def test_a_part_of_the_batch_is_edited(network: MusicVae, edit_share: float) -> None:
    config = PRESETS["tiny"].changed(edit_share=edit_share)
    module = VaeModule(network, config, torch.tensor([0.5, 4.0, 0.1]))
    voices = torch.from_numpy(voices_of(network, 40))
    torch.manual_seed(0)
    given, target, attributes = module._with_edits(voices)
    n_edited = int(edit_share * 40)
    assert torch.equal(given[n_edited:], voices[n_edited:])
    assert torch.equal(target[n_edited:], voices[n_edited:])
    assert not attributes[n_edited:].any()
    is_original = [(each[:n_edited] == voices[:n_edited]).all(2).all(1) for each in (given, target)]
    assert (is_original[0] | is_original[1]).all(), "one of the two is the real span"
    difference = (attributes_of(target) - attributes_of(given)) / module.deviation
    shown = attributes != 0
    torch.testing.assert_close(attributes[shown], difference.clamp(-5, 5)[shown])
    if n_edited:
        assert not torch.equal(given, target)
        assert attributes.any()


# --- attributes, interpolation ------------------------------------------------------------------------------


def counted(per_amount: Callable[[float], float]) -> Callable[..., np.ndarray[Any, Any]]:
    """Return a decoder that writes 16 notes, and as many more as a function of the density's amount says."""

    def decode(
        _network: MusicVae, _latent: torch.Tensor, noise: np.ndarray[Any, Any], *, top_k: int, attributes: torch.Tensor
    ) -> np.ndarray[Any, Any]:
        assert top_k == 1, "as the client's default"
        voices = np.zeros(noise.shape, np.int64)
        for span, (density, *_) in zip(voices, attributes.tolist(), strict=True):
            span[: max(0, round(16 + 4 * per_amount(density))), 0] = 40
        return voices

    return decode


DEVIATION = np.array([0.5, 1.0, 1e9])  # four notes in eight quarters


def test_changes_are_calibrated_to_what_comes_out(network: MusicVae, monkeypatch: pytest.MonkeyPatch) -> None:
    own = copy.deepcopy(network)
    monkeypatch.setattr("tritone_training.kinds.music_vae.attributes.decode", counted(lambda given: 0.5 * given))
    means, noise = np.zeros((2, N_LATENT)), uniform_noise(0, 2, 32, 4)
    curves = fit_attribute_curves(own, means, DEVIATION, noise)
    np.testing.assert_allclose(own.attribute_curves.numpy(), curves, atol=1e-6)
    amounts = np.array(AMOUNTS)
    assert curves[0, amounts == 1] == pytest.approx(2.0, abs=0.26)  # notes are whole
    assert curves[0, amounts == -2] == pytest.approx(-4.0, abs=0.26)
    assert curves[0, -1] <= 5.0, "no change reaches an amount of 5: the largest effect"
    assert not curves[1:].any(), "nothing changes these: nothing is asked for"
    latent = torch.zeros(3, N_LATENT)
    asked = torch.tensor([[1.0, 0, 0], [-1.5, 1, 1], [99.0, 0, 0]])
    _, given = own.decoder_inputs(latent, asked)
    assert given[0, 0] == pytest.approx(2.0, abs=0.26)
    assert given[1, 0] == pytest.approx(-3.0, abs=0.3), "linear between the measured amounts"
    assert given[2, 0] == pytest.approx(curves[0, -1]), "the last one beyond them"


def test_control_is_measured_on_what_comes_out(network: MusicVae, monkeypatch: pytest.MonkeyPatch) -> None:
    means, noise = np.zeros((8, N_LATENT)), uniform_noise(0, 8, 32, 4)
    decoders = {
        "linear": counted(lambda amount: amount),
        "bounded": counted(lambda amount: max(amount, -2.0)),
        "still": counted(lambda _: 0.0),
    }
    reports = {}
    for name, decoder in decoders.items():
        monkeypatch.setattr("tritone_training.kinds.music_vae.attributes.decode", decoder)
        reports[name] = attribute_control(network, means, DEVIATION, noise)["note_density"]
    linear, bounded, still = reports.values()
    assert linear["amounts"] == [-3, -2, -1, 0, 1, 2, 3]
    np.testing.assert_allclose(linear["shift"], linear["amounts"])
    np.testing.assert_allclose(linear["shift_per_unit"], np.ones(6))
    np.testing.assert_allclose(linear["measured"], 2 + 0.5 * np.arange(-3, 4))
    assert linear["is_monotone"]
    assert (linear["least_shift_per_unit"], linear["gain"], linear["correlation"]) == pytest.approx((1, 1, 1))
    np.testing.assert_allclose(bounded["shift"], [-2, -2, -1, 0, 1, 2, 3])
    assert not bounded["is_monotone"]
    assert bounded["least_shift_per_unit"] == pytest.approx(2 / 3)
    assert (still["least_shift_per_unit"], still["gain"], still["correlation"], still["n_rising"]) == (0, 0, 0, 0)


def test_a_change_of_attributes_changes_what_is_written(network: MusicVae) -> None:
    noise = uniform_noise(0, 16, 32, 4)
    before, after, none = (
        decode(network, latents(16), noise, attributes=torch.full((16, 3), amount)) for amount in (0.0, 3.0, 0.0)
    )
    assert (before != after).any()
    np.testing.assert_array_equal(before, none)
    np.testing.assert_array_equal(before, decode(network, latents(16), noise))


def test_a_network_of_an_earlier_version_moves_its_latent_vectors() -> None:
    torch.manual_seed(0)
    sizes = {
        name: value for name, value in PRESETS["tiny"].to_dict().items() if name not in ("prior_width", "n_couplings")
    }
    names = ("width", "step_width", "n_hidden", "embedding_width", "head_width")
    earlier = MusicVae(n_latent=N_LATENT, changes_attributes=False, **{name: sizes[name] for name in names}).eval()
    torch.nn.init.normal_(earlier.attribute_vectors)
    loaded = autoencoder_from(sizes, earlier.state_dict(), folder=Path("earlier"))
    assert loaded.flow is None
    attributes = torch.randn(4, 3)
    moved, _ = loaded.decoder_inputs(latents(4), attributes)
    torch.testing.assert_close(moved, latents(4) + attributes @ earlier.attribute_vectors)
    noise = uniform_noise(0, 4, 32, 4)
    np.testing.assert_array_equal(
        decode(loaded, latents(4), noise, attributes=attributes), decode(earlier, moved, noise)
    )


@pytest.mark.parametrize("edit", [-1, 3, None, True])
def test_a_flow_of_an_invalid_size_is_refused(network: MusicVae, edit: object) -> None:
    sizes = {**PRESETS["tiny"].to_dict(), "n_couplings": edit}
    with pytest.raises(CheckpointError):
        autoencoder_from(sizes, network.state_dict(), folder=Path("run"))


def test_spherical_interpolation_keeps_the_length() -> None:
    first, second = np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 1, 0], [1, 0, 0]])
    np.testing.assert_allclose(spherical(first, second, 0.0), first)
    np.testing.assert_allclose(spherical(first, second, 1.0), second, atol=1e-7)
    np.testing.assert_allclose(spherical(first, second, 0.5), [[np.sqrt(0.5), np.sqrt(0.5), 0], [1, 0, 0]], atol=1e-6)


def test_a_perfect_copy_scores_one(network: MusicVae, scores: ScoreSet, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = cut_spans(scores, "valid")

    def perfect(relative: torch.Tensor) -> torch.Tensor:
        return 50.0 * torch.nn.functional.one_hot(relative, N_RELATIVE).float()

    monkeypatch.setattr(network.decoder, "logits", lambda latent, voices, **_: perfect(voices))
    written = torch.from_numpy(spans.voices)
    monkeypatch.setattr(network.decoder, "write", lambda latent, noise, **_: written[: len(latent)])
    metrics = evaluate_network(network, spans, deviation=np.ones(3)).metrics
    for name in ("reconstruction_accuracy", "reconstruction_accuracy_teacher_forced", "strike_accuracy", "note_f1"):
        assert metrics[name] == 1.0
    assert metrics["elbo"]["reconstruction_nats"] == pytest.approx(0, abs=0.2)  # the level's own
    assert metrics["elbo"]["bound_nats"] == pytest.approx(metrics["elbo"]["kl_nats"], abs=0.2)
    half = written.clone()
    half[:, 16:] = REST
    monkeypatch.setattr(network.decoder, "write", lambda latent, noise, **_: half[: len(latent)])
    metrics = evaluate_network(network, spans, deviation=np.ones(3)).metrics
    assert metrics["strike_accuracy"] == pytest.approx(0.5, abs=0.01)
    assert metrics["note_f1"] == pytest.approx(2 / 3, abs=0.01)
    assert metrics["whole_span_accuracy"] == 0
    assert metrics["reconstruction_accuracy"] > 0.8  # three voices rest throughout: why the stricter ones are there


# --- the graph ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder_session(network_with_flow: MusicVae) -> Any:
    graph = DecoderGraph(network_with_flow).eval()
    return open_session(music_models.onnx_graph(graph, DECODER, decoder_example_inputs(2, 0)))


def settings_of_seed(seed: int) -> dict[str, npt.NDArray[Any]]:
    """One request, with settings that differ from seed to seed."""
    random = np.random.default_rng(seed)
    return {
        "latent": random.standard_normal((1, N_LATENT)).astype(np.float32),
        "attributes": random.uniform(-2, 2, (1, 3)).astype(np.float32),
        "noise": uniform_noise(seed, 1, 32, 4),
        "temperature": random.uniform(0.3, 1.5, 1).astype(np.float32),
        "top_k": random.integers(1, 91, 1),
        "top_p": random.uniform(0.3, 1.0, 1).astype(np.float32),
    }


@pytest.mark.slow
def test_two_hundred_seeds_give_the_same_notes_alone_and_among_strangers(
    network_with_flow: MusicVae, decoder_session: Any
) -> None:
    requests = [settings_of_seed(seed) for seed in range(N_SEEDS)]
    graph = DecoderGraph(network_with_flow).eval()
    with torch.inference_mode():
        batch = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        (expected,) = graph(*(torch.from_numpy(array) for array in batch.values()))
    alone = np.concatenate([decoder_session.run(["voices"], request)[0] for request in requests])
    np.testing.assert_array_equal(alone, expected.numpy())
    for start in range(0, N_SEEDS, 8):
        strangers = {name: array[start : start + 8] for name, array in batch.items()}
        np.testing.assert_array_equal(decoder_session.run(["voices"], strangers)[0], expected[start : start + 8])
    assert len(np.unique(alone.reshape(N_SEEDS, -1), axis=0)) == N_SEEDS


@pytest.mark.slow
def test_the_encoder_answers_as_in_pytorch(network_with_flow: MusicVae) -> None:
    network = network_with_flow
    session = open_session(music_models.onnx_graph(network, DECLARATION, KIND.example_inputs(2, 0)))
    voices = voices_of(network, 9)
    with torch.inference_mode():
        expected = network(torch.from_numpy(voices))
    for ours, theirs in zip(session.run(["mean", "log_variance"], {"voices": voices}), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- the whole path -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chorales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pieces of 64 sixteenths in the JSB form: four voices a step."""
    random = np.random.default_rng(0)

    def one() -> list[list[int]]:
        voices = [np.repeat(random.integers(low, low + 12, 16), 4) for low in (64, 55, 48, 40)]
        return np.stack(voices, axis=1).tolist()

    path = tmp_path_factory.mktemp("chorales") / "chorales.json"
    path.write_text(json.dumps({"train": [one() for _ in range(8)], "valid": [one() for _ in range(4)]}))
    return path


@pytest.fixture(scope="module")
def trained(chorales: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("music_vae") / "run"
    request = TrainRequest(out=out, data=chorales, preset="tiny", progress=False, command="tritone train music_vae")
    summary = KIND.train(request).to_dict()
    assert 0 < summary["metrics"]["valid"]["reconstruction_accuracy"] < 1
    assert summary["data"]["spans"]["train"]["n_spans"] == 8 * 4
    assert summary["data"]["spans"]["valid"]["n_spans"] == 4 * 3
    return out


@pytest.mark.slow
def test_a_checkpoint_can_be_evaluated_and_exported(trained: Path, chorales: Path, tmp_path: Path) -> None:
    request = EvaluateRequest(
        checkpoint=trained, data=chorales, split="valid", report=tmp_path / "report", progress=False
    )
    metrics = KIND.evaluate(request).to_dict()
    assert metrics["n_spans"] == 12
    assert metrics == {**KIND.evaluate(replace(request, report=None)).to_dict(), "report": metrics["report"]}, (
        "reproducible"
    )
    assert all(Path(path).stat().st_size > 1000 for path in metrics["report"])
    assert KIND.evaluate(replace(request, split=None, report=None)).to_dict()["n_spans"] == 12 * 3
    with pytest.raises(DataError):
        KIND.evaluate(replace(request, split="test"))
    served = exportable(trained)
    assert [each.declaration.name for each in (served, *served.companions)] == [d.name for d in KIND.declarations]
    curves = np.array(served.card["attributes"]["curves"])
    assert isinstance(served.network, MusicVae)
    np.testing.assert_allclose(curves, served.network.attribute_curves.numpy(), atol=1e-3)
    assert served.network.flow is not None
    assert served.network.flow.temperature == pytest.approx(PRESETS["tiny"].prior_temperature)


def test_export_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError):
        KIND.export(None)


@pytest.mark.parametrize("spoilt", ["config", "attributes", "weights"])
def test_a_checkpoint_that_does_not_fit_together_is_refused(trained: Path, tmp_path: Path, spoilt: str) -> None:
    saved = checkpoint.load(trained, kind="music_vae")
    info = {key: value for key, value in saved.info.items() if key not in ("format", "weights", "weights_sha256")}
    weights = dict(saved.weights)
    if spoilt == "config":
        info["config"] = {**info["config"], "depth": 3}
    elif spoilt == "attributes":
        info["attributes"] = {"mean": [0]}
    else:
        weights.pop(next(iter(weights)))
    checkpoint.save(tmp_path / "run", kind="music_vae", info=info, weights=weights)
    with pytest.raises(CheckpointError):
        exportable(tmp_path / "run")


@pytest.mark.slow
def test_training_learns_to_bring_spans_back(scores: ScoreSet, tmp_path: Path) -> None:
    """A few seconds are enough to tell the two styles apart; the untrained network is at chance."""
    overrides = {"width": 32, "n_hidden": 32, "max_epochs": 3, "spans_per_epoch": 320, "learning_rate": 1e-2}
    request = TrainRequest(out=tmp_path, preset="tiny", progress=False, overrides=overrides)
    spans = cut_spans(scores, "train")
    prepared = dataset.TrainingData(scores, spans, cut_spans(scores, "valid"))
    KIND.trainer(request, KIND.configure(request), prepared)
    network = exportable(tmp_path).network
    assert isinstance(network, MusicVae)
    metrics = evaluate_network(network, spans, deviation=np.ones(3)).metrics
    assert metrics["reconstruction_accuracy"] > 0.7
    means = encode(network, spans.voices)
    assert means.shape == (len(spans), N_LATENT)


def test_empty_sets_of_spans_are_no_excuse(network: MusicVae) -> None:
    one = cut_spans(score_set(piece("only", melody([60] * 8))), "train")
    assert evaluate_network(network, one, deviation=np.ones(3)).metrics["interpolation"] == {}
