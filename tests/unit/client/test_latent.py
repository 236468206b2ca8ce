"""reconstruct, interpolate, vary and sample, with models in memory; each test runs for both clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.client.test_composing import chords, melody
from tests.unit.client.writers import FakeWriters, G, decoded

from tritone import Grid, InvalidInputError, ModelNotFoundError, ServerError
from tritone.music.keys import key_correlations, tonic_number
from tritone.music.voices import voices_to_grid
from tritone.operations.latent import slerp, to_spans
from tritone.operations.sample import _normal, seeds_of
from tritone.sampling import uniform_noise


@pytest.fixture
def model() -> FakeWriters:
    return FakeWriters()


def waltz(n_bars: int = 3) -> Grid:
    frames = np.zeros((12 * n_bars, 88), np.uint8)
    frames[:, 30] = 1
    frames[::12, 30] = 2
    return Grid(frames, meter=(12, 0))


# --- reconstruct and vary -----------------------------------------------------------------------


@pytest.mark.parametrize("n_bars", [1, 2, 3, 40])
def test_results_are_as_long_as_their_scores(connect: Any, model: FakeWriters, n_bars: int) -> None:
    score = melody(n_bars)
    piece = connect()("reconstruct", score, seed=4)
    np.testing.assert_array_equal(piece.grid.frames > 0, score.frames > 0)
    assert (piece.grid.meter, piece.grid.tempo_qpm) == (score.meter, 90)
    assert (piece.seed, piece.model, piece.model_version) == (4, "music_vae", "3")
    sizes = [len(request.inputs["voices"]) for request in model.asked("music_vae")]
    assert sum(sizes) == -(-n_bars // 2)
    assert max(sizes) <= 8
    (first, *_) = model.asked("music_vae_decoder")
    assert (first.inputs["top_k"] == 1).all()
    assert not first.inputs["attributes"].any()


def test_spans_begin_with_bars(connect: Any, model: FakeWriters) -> None:
    upbeat = Grid(melody(3).frames[:36], meter=(16, 12))
    spans = to_spans(upbeat)
    assert spans.n_before == 12
    assert spans.voices.shape == (2, 32, 4)
    assert not spans.voices[0, :12].any()
    piece = connect()("reconstruct", upbeat)
    np.testing.assert_array_equal(piece.grid.frames > 0, upbeat.frames > 0)
    assert to_spans(waltz()).n_before == 0
    assert connect()("reconstruct", waltz()).grid.n_frames == 36


def test_notes_beyond_four_voices_are_counted(connect: Any) -> None:
    piece = connect()("reconstruct", chords(6))
    assert piece.grid.dropped == {"beyond_four_voices": 2}
    assert (piece.grid.frames[0] > 0).sum() == 4


def test_every_span_has_noise_of_its_own_that_the_seed_fixes(connect: Any, model: FakeWriters) -> None:
    connect()("reconstruct", melody(20), seed=6, top_k=None, temperature=0.5)
    noise = np.concatenate([request.inputs["noise"] for request in model.asked("music_vae_decoder")])
    np.testing.assert_array_equal(noise, uniform_noise(6, 10, 32, 4))
    assert (model.asked("music_vae_decoder")[0].inputs["temperature"] == 0.5).all()


@pytest.mark.parametrize(("attribute", "index"), [("note_density", 0), ("pitch_range", 1), ("rhythmic_complexity", 2)])
def test_vary(connect: Any, model: FakeWriters, attribute: str, index: int) -> None:
    connect()("vary", melody(4), attribute=attribute, amount=1.5)
    expected = np.zeros((2, 3))
    expected[:, index] = 1.5
    np.testing.assert_array_equal(model.asked("music_vae_decoder")[0].inputs["attributes"], expected)


def test_vary_by_zero_reconstructs(connect: Any) -> None:
    ask = connect()
    moved = ask("vary", melody(2, pitch=60), attribute="note_density", amount=-1)
    assert np.flatnonzero(moved.grid.frames[0]).tolist() == [58 - 21]
    same = ask("vary", melody(2), attribute="note_density", amount=0, seed=1)
    np.testing.assert_array_equal(same.grid.frames, ask("reconstruct", melody(2), seed=1).grid.frames)


@pytest.mark.parametrize("attribute", ["loudness", "", None, 0, ["note_density"], np.array([1, 2])])
def test_unknown_attributes(connect: Any, model: FakeWriters, attribute: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("vary", melody(), attribute=attribute, amount=1)
    assert caught.value.argument == "attribute"
    assert not model.requests


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), 11, -10.5, "1", None, True])
def test_invalid_amounts(connect: Any, model: FakeWriters, amount: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("vary", melody(), attribute="pitch_range", amount=amount)
    assert caught.value.argument == "amount"
    assert not model.requests


# --- interpolate --------------------------------------------------------------------------------


def test_interpolate(connect: Any, model: FakeWriters) -> None:
    a, b = melody(4, pitch=60), replace(melody(6, pitch=72), tempo_qpm=130.0)
    pieces = connect()("interpolate", a, b, steps=3, seed=8)
    assert len(pieces) == 3
    np.testing.assert_array_equal(pieces[0].grid.frames > 0, a.frames > 0)
    np.testing.assert_array_equal(pieces[-1].grid.frames > 0, b.frames[:64] > 0)
    assert [piece.grid.tempo_qpm for piece in pieces] == [90, 110, 130]
    between = set(np.nonzero(pieces[1].grid.frames)[1].tolist())
    assert all(60 - 21 < column < 72 - 21 for column in between)
    assert {piece.seed for piece in pieces} == {8}
    noise = np.concatenate([request.inputs["noise"] for request in model.asked("music_vae_decoder")])
    np.testing.assert_array_equal(noise, np.tile(uniform_noise(8, 2, 32, 4), (3, 1, 1)))


def test_interpolated_pieces_are_as_long_as_the_shorter_score(connect: Any) -> None:
    for pair in ((melody(3), melody(4)), (melody(4), melody(3))):
        assert {piece.grid.n_frames for piece in connect()("interpolate", *pair)} == {48}


def test_the_ends_are_reconstructions(connect: Any) -> None:
    ask = connect()
    a, b = melody(2, pitch=60), melody(2, pitch=67)
    pieces = ask("interpolate", a, b, seed=8)
    assert len(pieces) == 5
    for end, score in ((pieces[0], a), (pieces[-1], b)):
        np.testing.assert_array_equal(end.grid.frames, ask("reconstruct", score, seed=8).grid.frames)


@pytest.mark.parametrize("steps", [0, 1, 65, 2.0, "5", True])
def test_invalid_steps(connect: Any, model: FakeWriters, steps: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("interpolate", melody(), melody(), steps=steps)
    assert (caught.value.argument, caught.value.reason) == ("steps", None)
    assert not model.requests


def test_too_many_bars_at_once(connect: Any, model: FakeWriters) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("interpolate", melody(100), melody(100), steps=64)
    assert (caught.value.argument, caught.value.reason) == ("steps", "too_long")
    assert not model.asked("music_vae")


def test_slerp() -> None:
    a, b = np.array([[2.0, 0]], np.float32), np.array([[0, 2.0]], np.float32)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-7)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, atol=1e-7)
    middle = slerp(a, b, 0.5)
    np.testing.assert_allclose(middle, [[2**0.5, 2**0.5]], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(slerp(a, b, 0.3)), 2, rtol=1e-6)  # on the sphere, not on the chord
    for odd in (a, -a, 0 * a):
        assert np.isfinite(slerp(a, odd, 0.4)).all()
    np.testing.assert_allclose(slerp(a, 3 * a, 0.5), 2 * a)


# --- sample -------------------------------------------------------------------------------------


def columns(piece: Any) -> list[list[int]]:
    return [np.flatnonzero(row == 2).tolist() for row in piece.grid.frames]


def test_sample(connect: Any, model: FakeWriters) -> None:
    pieces = connect()("sample", n=20, seed=3)
    assert len(pieces) == 20
    assert [len(request.inputs["key"]) for request in model.asked("music_gan")] == [8, 8, 4]
    for piece in pieces:
        assert (piece.grid.n_frames, piece.grid.meter, piece.model, piece.model_version) == (
            32,
            (16, 0),
            "music_gan",
            "3",
        )
        latent = (uniform_noise(piece.seed, G, stream=1) * 88).astype(int)
        assert all(column in row for column, row in zip(latent, columns(piece)[:G], strict=True))
    assert len({piece.seed for piece in pieces}) == 20


def test_each_piece_has_a_seed_of_its_own(connect: Any) -> None:
    ask = connect()
    pieces = ask("sample", "music_gan", 5, 17, key="G", density=2)
    assert pieces[0].seed == 17
    for piece in pieces:
        (again,) = ask("sample", n=1, seed=piece.seed, key="G", density=2)
        np.testing.assert_array_equal(again.grid.frames, piece.grid.frames)
    assert not {piece.seed for piece in pieces[1:]} & {piece.seed for piece in ask("sample", n=5, seed=18)}


def test_conditions_reach_the_model(connect: Any, model: FakeWriters) -> None:
    pieces = connect()(
        "sample", n=2, key="Bb", mode="minor", density=2.5, truncation=0.5, temperature=0.7, top_k=4, tempo_qpm=70
    )
    (request,) = model.asked("music_gan")
    found = {name: request.inputs[name].ravel().tolist() for name in ("key", "mode", "density", "truncation", "top_k")}
    assert found == {"key": [10, 10], "mode": [1, 1], "density": [2.5, 2.5], "truncation": [0.5, 0.5], "top_k": [4, 4]}
    assert pieces[0].grid.tempo_qpm == 70


def test_missing_conditions_mean_any(connect: Any, model: FakeWriters) -> None:
    connect()("sample", n=1, key=None)
    inputs = model.asked("music_gan")[0].inputs
    assert [float(inputs[name][0, 0]) for name in ("key", "mode", "density", "truncation")] == [-1, -1, -1, 1]


@pytest.mark.parametrize("name", ["music_vae", "music_vae_decoder"])
def test_sample_from_the_vae(connect: Any, model: FakeWriters, name: str) -> None:
    pieces = connect()("sample", name, n=300, seed=5, pitch_range=2.0)
    asked = model.asked("music_vae_decoder")
    latents = np.concatenate([request.inputs["latent"] for request in asked])
    assert latents.shape == (300, 128)
    assert abs(latents.mean()) < 0.02
    assert abs(latents.std() - 1) < 0.02
    assert abs(np.mean(np.abs(latents) < 1) - 0.6827) < 0.01
    assert (asked[0].inputs["attributes"] == [0, 2, 0]).all()
    assert not model.asked("music_vae")
    noise = np.concatenate([request.inputs["noise"] for request in asked])
    np.testing.assert_array_equal(noise[7], uniform_noise(pieces[7].seed, 32, 4))


def test_a_sample_of_the_vae_is_the_candidate_with_the_clearest_key(connect: Any, model: FakeWriters) -> None:
    model.parameters["sample_candidates"] = "6"
    pieces = connect()("sample", "music_vae", n=3, seed=5)
    asked = model.asked("music_vae_decoder")
    latents = np.concatenate([request.inputs["latent"] for request in asked])
    noise = np.concatenate([request.inputs["noise"] for request in asked])
    assert len(latents) == len(np.unique(latents, axis=0)) == 18
    assert [piece.seed for piece in pieces] == list(seeds_of(5, 3))
    for index, piece in enumerate(pieces):
        rows = slice(6 * index, 6 * index + 6)
        np.testing.assert_array_equal(noise[rows][0], uniform_noise(piece.seed, 32, 4))
        frames = [
            voices_to_grid(span)
            for span in decoded({"latent": latents[rows], "attributes": np.zeros((6, 3))})["voices"]
        ]
        clearest = key_correlations(np.stack(frames)).max(1).argmax()
        np.testing.assert_array_equal(piece.grid.frames, frames[clearest])
        (again,) = connect()("sample", "music_vae", n=1, seed=piece.seed)
        np.testing.assert_array_equal(again.grid.frames, piece.grid.frames)


@pytest.mark.parametrize("said", ["0", "-2", "many", "999999999"])
def test_a_number_of_candidates_is_bounded(connect: Any, model: FakeWriters, said: str) -> None:
    model.parameters["sample_candidates"] = said
    assert len(connect()("sample", "music_vae", n=1, seed=5)) == 1
    assert sum(len(request.inputs["latent"]) for request in model.asked("music_vae_decoder")) in {1, 64}


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "H"},
        {"key": "C##"},
        {"key": ""},
        {"key": 12},
        {"key": -1},
        {"key": 1.0},
        {"mode": "dorian"},
        {"mode": 1},
        {"density": 0},
        {"density": float("nan")},
        {"density": 17},
        {"truncation": 0},
        {"truncation": 1.5},
        {"truncation": float("nan")},
        {"temperature": -1},
        {"top_p": 0},
        {"n": 0},
        {"n": 1_001},
        {"n": 2.0},
        {"seed": -1},
        {"tempo_qpm": -5},
        {"note_density": 1.0},
        {"loudness": 3},
    ],
    ids=str,
)
def test_invalid_conditions(connect: Any, model: FakeWriters, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("sample", **wrong)
    own = {"note_density": "condition", "loudness": "condition"}  # not conditions of this model
    assert caught.value.argument == own.get(next(iter(wrong)), next(iter(wrong)))
    assert not model.asked("music_gan")


def test_extreme_noise_stays_finite() -> None:
    extremes = _normal(np.array([0, 0.5, 1 - 2.0**-24], np.float32))
    assert np.isfinite(extremes).all()
    np.testing.assert_allclose(extremes, [-5.42, 0, 5.42], atol=0.01)


def test_conditions_of_another_model(connect: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("sample", "music_vae", key="C")
    assert (caught.value.model, caught.value.argument) == ("music_vae", "condition")


@pytest.mark.parametrize(
    ("key", "number"), [(None, None), ("C", 0), ("c#", 1), ("Db", 1), ("Cb", 11), ("B♭", 10), ("F♯", 6), (11, 11)]
)
def test_keys(key: Any, number: int) -> None:
    assert tonic_number(key) == number


def test_derived_seeds() -> None:
    assert seeds_of(5, 1) == (5,)
    assert seeds_of(5, 4) == seeds_of(5, 9)[:4]
    assert all(0 <= seed < 2**63 for seed in seeds_of(2**63 - 1, 1_000))
    # They must never change, or old seeds would give other pieces.
    assert seeds_of(5, 3) == (5, 3408106289409078375, 4464650224815488352)


# --- the server ---------------------------------------------------------------------------------


def test_a_new_version_with_other_sizes(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    ask("sample", n=1)
    takes, answers, rule = model.models["music_gan"]
    model.models["music_gan"] = ({**takes, "latent_noise": (-1, 9)}, answers, lambda inputs: _short(rule, inputs))
    model.version = "4"
    (piece,) = ask("sample", n=1)
    assert piece.model_version == "4"
    assert model.asked("music_gan")[-1].inputs["latent_noise"].shape == (1, 9)


def _short(rule: Any, inputs: Any) -> Any:
    padded = np.pad(inputs["latent_noise"], ((0, 0), (0, G - inputs["latent_noise"].shape[1])))
    return rule({**inputs, "latent_noise": padded})


def test_a_new_version_between_encoder_and_decoder(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    ask("reconstruct", melody())

    def go_live(request: Any) -> None:
        if getattr(request, "model", "") == "music_vae_decoder" and len(model.asked("music_vae_decoder")) == 2:
            model.version = "4"

    model.before = go_live
    assert ask("reconstruct", melody()).model_version == "4"
    assert len(model.asked("music_vae")) == 3  # encoded again, by the version that the decoder belongs to


def test_an_encoder_without_its_decoder(connect: Any, model: FakeWriters) -> None:
    del model.models["music_vae_decoder"]
    for method, arguments in (("reconstruct", (melody(),)), ("sample", ("music_vae",))):
        with pytest.raises(ModelNotFoundError) as caught:
            connect()(method, *arguments)
        assert caught.value.model == "music_vae_decoder"


def test_unsuitable_models(connect: Any) -> None:
    with pytest.raises(ServerError) as caught:
        connect()("reconstruct", melody(), model="music_transformer")
    assert (caught.value.model, caught.value.reason) == ("music_transformer", "unsuitable_model")
    with pytest.raises(ServerError) as caught:
        connect()("sample", model="polyphony_rnn")
    assert (caught.value.model, caught.value.reason) == ("polyphony_rnn", "unsuitable_model")


@pytest.mark.parametrize("voices", [np.full((1, 32, 4), 90), np.full((1, 32, 4), -1), np.zeros((1, 16, 4), np.int64)])
def test_invalid_responses(connect: Any, model: FakeWriters, voices: Any) -> None:
    model.spoil = lambda name, outputs: outputs.update(voices=voices) if name.endswith("decoder") else None
    with pytest.raises(ServerError) as caught:
        connect()("reconstruct", melody())
    assert (caught.value.reason, caught.value.output) == ("invalid_output", "voices")


def test_spans_contain_all_notes_of_the_score() -> None:
    score = melody(5)
    spans = to_spans(score)
    frames = np.concatenate([voices_to_grid(span) for span in spans.voices])[: score.n_frames]
    np.testing.assert_array_equal(frames, score.frames)
