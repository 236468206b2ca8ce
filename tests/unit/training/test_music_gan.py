from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.support import music_models

from tritone.music.voices import HOLD, voices_to_grid
from tritone.sampling import uniform_noise
from tritone_export.parity import open_session
from tritone_training import checkpoint
from tritone_training.bars.spans import N_RELATIVE, SpanSet, sounding_of
from tritone_training.exceptions import CheckpointError, DataError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.music_gan import KIND
from tritone_training.kinds.music_gan.conditions import (
    ConditionEncoder,
    KeyEstimate,
    KeyTilt,
    SpanConditions,
    measure_conditions,
    n_features,
    nearest_shift,
    style_of,
)
from tritone_training.kinds.music_gan.config import PRESETS
from tritone_training.kinds.music_gan.dataset import draw_pool, draw_spans, style_shares
from tritone_training.kinds.music_gan.declaration import DECLARATION, N_LATENT_NOISE
from tritone_training.kinds.music_gan.evaluate import generate
from tritone_training.kinds.music_gan.export import exportable
from tritone_training.kinds.music_gan.module import gradient_penalty
from tritone_training.kinds.music_gan.network import Critic, Generator, MusicGan, box_muller, build_network
from tritone_training.kinds.music_gan.train import autoencoder_epochs
from tritone_training.kinds.music_vae.config import PRESETS as VAE_PRESETS
from tritone_training.kinds.music_vae.network import build_network as build_vae
from tritone_training.musicality import estimate_keys, spans_to_frames

N_SEEDS = 200
N_STYLES = 2
N_FEATURES = n_features(N_STYLES)


@pytest.fixture(scope="module")
def network() -> MusicGan:
    """Random weights, sharp enough that the noise of the notes does not decide alone.

    Of an untrained network about one choice in 50,000 lies so near the edge of a nucleus that PyTorch and ONNX Runtime
    round it to different sides. Seed 0 meets one.
    """
    torch.manual_seed(1)
    vae = build_vae(VAE_PRESETS["tiny"])
    with torch.no_grad():
        vae.decoder.out.weight.mul_(4)
        vae.decoder.from_latent.weight.mul_(3)
    network = build_network(PRESETS["tiny"], vae, n_styles=N_STYLES)
    random = np.random.default_rng(0)
    densities = random.gamma(4, 0.5, 500).astype(np.float32)
    network.conditions.learn(SpanConditions(random.integers(0, 2, 500), densities, random.integers(0, N_STYLES, 500)))
    torch.nn.init.normal_(network.generator.from_conditions, std=0.5)
    for parameter in network.generator.correction[-1].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def span_set(n_per_style: dict[str, int]) -> SpanSet:
    """Spans of one note each; its pitch (30 + 10 * style) tells the style, its step the span."""
    rows = [(style, i) for style, n in enumerate(n_per_style.values()) for i in range(n)]
    voices = np.zeros((len(rows), 32, 4), np.int64)
    for row, (style, i) in enumerate(rows):
        voices[row, i % 32, 0] = 30 + 10 * style
    styles = np.array([style for style, _ in rows])
    return SpanSet(voices, np.arange(len(rows)) // 4, styles, np.zeros(len(rows), bool), tuple(n_per_style), {})


# --- noise and conditions -----------------------------------------------------------------------------------


def test_uniform_noise_becomes_normal() -> None:
    uniform = torch.from_numpy(uniform_noise(0, 20_000, 4))
    normal = box_muller(uniform).double()
    assert normal.isfinite().all()
    torch.testing.assert_close(normal.mean(0), torch.zeros(4, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(normal.T), torch.eye(4, dtype=torch.float64), atol=0.04, rtol=0)
    assert ((normal**4).mean(0) - 3).abs().max() < 0.3
    edges = box_muller(torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]))
    assert edges.isfinite().all()


def test_open_conditions_are_drawn_as_the_training_set_has_them() -> None:
    random = np.random.default_rng(1)
    mode = (random.random(4000) < 0.3).astype(np.int64)
    density = np.where(mode == 0, random.uniform(1, 2, 4000), random.uniform(5, 9, 4000)).astype(np.float32)
    style = np.where(mode == 1, 2, (density > 1.5).astype(np.int64))
    conditions = ConditionEncoder(3)
    conditions.learn(SpanConditions(mode, density, style))
    chance = torch.from_numpy(uniform_noise(0, 5000, 3))
    nothing = torch.full((5000,), -1)
    modes, densities, styles = conditions.resolve(chance, nothing, nothing.float())
    assert float((modes == 0).float().mean()) == pytest.approx(0.7, abs=0.03)
    assert densities[modes == 0].max() <= 2
    assert densities[modes == 1].min() >= 5
    assert float(densities[modes == 1].mean()) == pytest.approx(7, abs=0.2)
    assert (styles[modes == 1] == 2).float().mean() > 0.99
    assert (styles[(modes == 0) & (densities > 1.8)] == 1).float().mean() > 0.95
    assert (styles[(modes == 0) & (densities < 1.2)] == 0).float().mean() > 0.95
    asked = conditions.resolve(chance, torch.zeros(5000, dtype=torch.int64), torch.full((5000,), 1.9))[2]
    assert (asked == 1).float().mean() > 0.95, "the style follows from what is asked for, too"


def test_conditions_out_of_range_go_to_the_nearest() -> None:
    conditions = ConditionEncoder(2)
    density = np.linspace(1, 4, 12, dtype=np.float32)
    conditions.learn(SpanConditions(np.arange(12) % 2, density, np.arange(12) % 2))
    asked = torch.tensor([0, 1, 9, 0]), torch.tensor([2.0, 100.0, 0.0, float("nan")])
    modes, densities, styles = conditions.resolve(torch.full((4, 3), 0.5), *asked)
    assert modes.tolist() == [0, 1, 1, 0]
    low, high = conditions.density_quantiles[1, 0], conditions.density_quantiles[1, -1]
    assert densities[:3].tolist() == [2.0, float(high), float(low)]
    assert 1 <= densities[3] <= 4
    features = conditions(modes, densities, styles)
    assert features[:, :2].tolist() == features[:, 2:4].tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    assert style_of(features).tolist() == styles.tolist()
    assert float(features[1, -1]) > 0 > float(features[2, -1])


def test_conditions_of_spans_are_measured() -> None:
    voices = np.ones((2, 32, 4), np.int64)
    voices[0, 0] = (2 + 76 - 21, 2 + 72 - 21, 2 + 67 - 21, 2 + 48 - 21)  # C major
    voices[1] = 0
    measured = measure_conditions(replace(span_set({"one": 2}), voices=voices))
    assert measured.style.tolist() == [0, 0]
    assert measured.mode.tolist() == [0, 0]
    assert measured.density.tolist() == [0.5, 0]


# --- the key ------------------------------------------------------------------------------------------------


def test_a_key_favours_its_own_notes() -> None:
    tonic, mode, level = torch.tensor([0, 9, 2]), torch.tensor([0, 1, 0]), torch.tensor([39, 39, 50])
    tilt = KeyTilt()(tonic, mode, level)
    assert tilt.shape == (3, N_RELATIVE)
    assert not tilt[:, :2].any(), "rest and hold"
    for row, white in zip(tilt[:2], ({0, 2, 4, 5, 7, 9, 11}, {9, 11, 0, 2, 4, 5, 7, 8}), strict=True):
        for value in range(2, N_RELATIVE):
            pitch_class = (value - 2 - 43 + 39 + 21) % 12
            assert (row[value] > -3) == (pitch_class in white)
    assert (tilt[2, 2 + 43] - tilt[2].max()).abs() > 1, "level 50 is B, not the tonic D"
    assert tilt[2, 2 + 43 + 3] == tilt[2].max()


def test_the_key_in_the_graph_is_the_key_of_the_measures() -> None:
    random = np.random.default_rng(0)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    voices = np.ones((300, 32, 4), np.int64)
    voices[:, ::2] = 30 + random.choice(scale, (300, 16, 4)) + 12 * random.integers(0, 3, (300, 16, 4))
    voices += np.where(voices > 1, random.integers(0, 12, (300, 1, 1)), 0)
    tonic, mode = estimate_keys(spans_to_frames(voices))
    given = torch.from_numpy(voices)
    estimate = KeyEstimate()
    assert (estimate(given, torch.full((300,), -1)).numpy() == tonic).mean() > 0.99
    assert (estimate(given, torch.from_numpy(mode)).numpy() == tonic).mean() > 0.99
    other = estimate(given, 1 - torch.from_numpy(mode))
    assert (other.numpy() != tonic).mean() > 0.5


def test_shifts_are_the_nearest() -> None:
    tonic, key = (torch.arange(12).repeat_interleave(13), torch.arange(-1, 12).repeat(12))
    shift = nearest_shift(tonic, key)
    asked = key >= 0
    assert torch.equal((tonic + shift)[asked] % 12, key[asked])
    assert (int(shift.min()), int(shift.max())) == (-6, 5)
    assert not shift[~asked].any()


def test_music_comes_in_the_key_that_was_asked_for(network: MusicGan) -> None:
    asked = np.arange(120) % 12
    voices = generate(network, 120, seed=0, key=asked)
    tonic, _ = estimate_keys(spans_to_frames(voices))
    assert (tonic == asked).mean() > 0.97
    plain = generate(network, 120, seed=0)
    moved = np.where((voices > HOLD) & (plain > HOLD), voices - plain, 0)
    for span in moved:
        assert len({int(each) % 12 for each in span[span != 0]}) <= 1, "all notes of a span by the same interval"
    np.testing.assert_array_equal(voices > HOLD, plain > HOLD)


# --- what is drawn from ------------------------------------------------------------------------------------


def test_styles_come_in_their_shares() -> None:
    spans = span_set({"much": 400, "little": 100, "none": 0})
    shares = style_shares(spans, 0.5)
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(style_shares(spans, 0), [0.8, 0.2, 0])
    np.testing.assert_allclose(style_shares(spans, 1), [0.5, 0.5, 0])
    drawn = draw_spans(spans, shares, 90, seed=0)
    assert np.bincount(drawn.styles).tolist() == [60, 30]
    assert drawn.voices.max((1, 2)).tolist() == (30 + 10 * drawn.styles).tolist()
    assert len(draw_spans(spans, shares, 10_000, seed=0)) == 300, "no repeats: the little style is used up"
    pool = draw_pool(spans, shares, 6000, seed=0)
    assert np.bincount(pool.styles)[0] / 6000 == pytest.approx(2 / 3, abs=0.03)
    again = draw_spans(spans, shares, 90, seed=0)
    np.testing.assert_array_equal(drawn.voices, again.voices)


# --- networks -----------------------------------------------------------------------------------------------


def test_the_generator_begins_as_the_normal_distribution_fitted_to_each_style() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.zeros(6000, N_FEATURES)
    modes, styles = (torch.randint(2, (6000,), generator=random) for _ in range(2))
    features[torch.arange(6000), modes] = 1
    features[torch.arange(6000), 2 + styles] = 1
    mixing = torch.randn(2, 6, 6, generator=random)
    effect = torch.randn(N_FEATURES, 6, generator=random)
    noise = torch.randn(6000, 6, generator=random)
    latents = 5 + features @ effect + (noise[:, None] @ mixing[styles])[:, 0]
    generator = Generator(n_latent=6, n_styles=2, width=8, n_layers=2)
    generator.fit_linear(latents, features)
    made = generator(torch.randn(6000, 6, generator=random), features)
    for style in range(2):
        own = styles == style
        torch.testing.assert_close(made[own].mean(0), latents[own].mean(0), atol=0.25, rtol=0)
        torch.testing.assert_close(torch.cov(made[own].T), torch.cov(latents[own].T), atol=0.8, rtol=0.1)
        for mode in range(2):
            both = own & (modes == mode)
            torch.testing.assert_close(made[both].mean(0), latents[both].mean(0), atol=0.4, rtol=0)


def test_a_style_of_one_span_borrows_how_spans_vary() -> None:
    features = torch.zeros(500, N_FEATURES)
    features[:, 0] = features[:, 2] = 1
    features[0, 2:4] = torch.tensor([0, 1])
    latents = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    generator = Generator(n_latent=6, n_styles=2, width=8, n_layers=2)
    generator.fit_linear(latents, features)
    made = generator(torch.randn(500, 6), features[:1].expand(500, -1))
    assert made.isfinite().all()
    assert made.std(0).min() > 0.3


def test_the_penalty_is_zero_where_the_slope_is_one() -> None:
    torch.manual_seed(0)
    critic = Critic(n_latent=4, n_styles=N_STYLES, width=8, n_layers=1)
    real, fake, features = torch.randn(32, 4), torch.randn(32, 4), torch.zeros(32, N_FEATURES)
    assert gradient_penalty(critic, real, fake, features) > 0
    direction = torch.tensor([0.6, 0.8, 0, 0])
    critic.forward = lambda scaled, features: scaled @ direction  # type: ignore[method-assign]
    assert float(gradient_penalty(critic, real, fake, features)) == pytest.approx(0, abs=1e-10)


def test_truncation_makes_latents_less_varied(network: MusicGan) -> None:
    noise = torch.from_numpy(uniform_noise(0, 200, N_LATENT_NOISE))
    mode, density = torch.zeros(200, dtype=torch.int64), torch.full((200,), 2.0)
    spreads = [
        float(network.latent(noise, truncation=torch.full((200,), t), mode=mode, density=density).std(0).mean())
        for t in (1.0, 0.5, 0.1)
    ]
    assert spreads[0] > 1.5 * spreads[1] > 2 * spreads[2]


def test_what_is_made_obeys_the_grammar(network: MusicGan) -> None:
    voices = generate(network, 40, seed=3)
    assert not (voices[:, 0] == HOLD).any()
    sounding = sounding_of(torch.from_numpy(voices)).numpy()
    assert not ((voices[:, 1:] == HOLD) & (sounding[:, :-1] == 0)).any()
    for span in voices:
        voices_to_grid(span)
    np.testing.assert_array_equal(voices, generate(network, 40, seed=3))
    assert (voices != generate(network, 40, seed=4)).any()


# --- the graph ----------------------------------------------------------------------------------------------


def request_of(seed: int) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {
        "latent_noise": uniform_noise(seed, 1, N_LATENT_NOISE, stream=1),
        "truncation": random.uniform(0.3, 1, 1).astype(np.float32),
        "key": random.integers(-1, 12, 1),
        "mode": random.integers(-1, 2, 1),
        "density": random.uniform(-1, 5, 1).astype(np.float32),
        "noise": uniform_noise(seed, 1, 32, 4),
        "temperature": random.uniform(0.3, 1.5, 1).astype(np.float32),
        "top_k": random.integers(1, 91, 1),
        "top_p": random.uniform(0.3, 1.0, 1).astype(np.float32),
    }


@pytest.mark.slow
def test_two_hundred_seeds_give_the_same_notes_alone_and_in_a_batch(network: MusicGan) -> None:
    session = open_session(music_models.onnx_graph(network, DECLARATION, KIND.example_inputs(2, 0)))
    requests = [request_of(seed) for seed in range(N_SEEDS)]
    batch = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
    with torch.inference_mode():
        (expected,) = network(*(torch.from_numpy(array) for array in batch.values()))
    alone = np.concatenate([session.run(["voices"], request)[0] for request in requests])
    np.testing.assert_array_equal(alone, expected.numpy())
    for start in range(0, N_SEEDS, 8):
        several = {name: array[start : start + 8] for name, array in batch.items()}
        np.testing.assert_array_equal(session.run(["voices"], several)[0], expected[start : start + 8])
    assert len(np.unique(alone.reshape(N_SEEDS, -1), axis=0)) == N_SEEDS


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
    out = tmp_path_factory.mktemp("runs") / "music_gan"
    summary = KIND.train(TrainRequest(out=out, data=chorales, preset="tiny", progress=False)).to_dict()
    assert summary["music_vae"] == str(out / "music_vae"), "it trained one of its own"
    assert {"likeness", "frechet_ratio", "duplicate_rate"} <= summary["metrics"]["valid"].keys()
    return out


@pytest.mark.slow
def test_a_checkpoint_can_be_evaluated_and_exported(trained: Path, chorales: Path, tmp_path: Path) -> None:
    request = EvaluateRequest(checkpoint=trained, data=chorales, report=tmp_path / "report", progress=False)
    metrics = KIND.evaluate(request).to_dict()
    assert (metrics["n_samples"], metrics["n_held_out"], metrics["split"]) == (1000, 12, "valid")
    assert metrics["frechet"]["n"] == 12
    assert metrics["frechet"]["ratio"] == pytest.approx(metrics["frechet"]["distance"] / metrics["frechet"]["floor"])
    assert metrics["measures"]["train"]["note_length"] > 3
    assert set(metrics["measures"]) == {"generated", "held_out", "train"}
    assert all(Path(path).stat().st_size > 1000 for path in metrics["report"])
    served = exportable(trained)
    assert served.declaration == DECLARATION
    assert isinstance(served.network, MusicGan)
    for ours, theirs in zip(generate(served.network, 3, seed=0), generate(served.network, 5, seed=0), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("max_epochs", "expected"), [(None, None), (3, 3), (22, 22), (30, 24)])
def test_the_limit_on_epochs_bounds_the_autoencoder_too(max_epochs: int | None, expected: int | None) -> None:
    request = TrainRequest(out=Path("runs/music_gan"), max_epochs=max_epochs)
    assert PRESETS["default"].max_epochs == 20, "22 is above the preset of the generator, and below that of music_vae"
    assert autoencoder_epochs(request) == expected


def test_a_vae_in_the_sibling_folder_is_used(trained: Path, chorales: Path) -> None:
    out = trained / "second"  # beside it lies trained/music_vae
    summary = KIND.train(TrainRequest(out=out, data=chorales, preset="tiny", progress=False)).to_dict()
    assert summary["music_vae"] == str(trained / "music_vae")
    assert not (out / "music_vae").exists()
    ours, theirs = (checkpoint.load(each, kind="music_gan").info["vae"] for each in (out, trained))
    assert ours == theirs


def test_export_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError):
        KIND.export(None)


def test_other_data_than_it_learnt_from_are_refused(trained: Path, chorales: Path, tmp_path: Path) -> None:
    other = tmp_path / "tunes.json"
    other.write_text(chorales.read_text())
    with pytest.raises(DataError):
        KIND.evaluate(EvaluateRequest(checkpoint=trained, data=other, progress=False))


@pytest.mark.parametrize("spoilt", ["config", "vae", "weights"])
def test_a_checkpoint_that_does_not_fit_together_is_refused(trained: Path, tmp_path: Path, spoilt: str) -> None:
    saved = checkpoint.load(trained, kind="music_gan")
    info = {key: value for key, value in saved.info.items() if key not in ("format", "weights", "weights_sha256")}
    weights = dict(saved.weights)
    if spoilt == "config":
        info["config"] = {**info["config"], "depth": 3}
    elif spoilt == "vae":
        info["vae"] = None
    else:
        weights.pop("generator.mean")
    checkpoint.save(tmp_path / "run", kind="music_gan", info=info, weights=weights)
    with pytest.raises(CheckpointError):
        exportable(tmp_path / "run")
