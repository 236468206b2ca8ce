"""musicnn's architecture with weights made up here, so that no download is needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.unit.training import sounds
from torch import nn

from tritone.constants import EMBEDDING_SIZE, WINDOW_SAMPLES
from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.export import UntrainedNetwork
from tritone_training.kinds.genre_cnn.frontend import MusicnnFeatures
from tritone_training.kinds.genre_cnn.network import build_network
from tritone_training.pretrained import musicnn
from tritone_training.pretrained.musicnn import N_PENULTIMATE, N_POOLED, N_TAGS, Musicnn, from_tensorflow
from tritone_training.pretrained.weights import PRETRAINED, get_pretrained


def made_up_variables() -> dict[str, sounds.Array]:
    """Variables as TensorFlow names and lays them out: kernels (height, width, in, out)."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> sounds.Array:
        return random.normal(0, max(1, math.prod(shape[:-1])) ** -0.5, shape).astype(np.float32)

    kernels = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    variables = {}
    for index, shape in enumerate(kernels):
        prefix = f"conv2d_{index}".removesuffix("_0")
        variables[f"{prefix}/kernel"] = draw(*shape)
        variables[f"{prefix}/bias"] = draw(shape[-1])
    sizes = [1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200]
    for index, size in enumerate(sizes):
        prefix = f"batch_normalization_{index}".removesuffix("_0")
        variables[f"{prefix}/gamma"] = random.uniform(-1.5, 1.5, size).astype(np.float32)
        variables[f"{prefix}/beta"] = random.normal(0, 0.3, size).astype(np.float32)
        variables[f"{prefix}/moving_mean"] = random.normal(0, 0.3, size).astype(np.float32)
        variables[f"{prefix}/moving_variance"] = random.uniform(0.5, 2, size).astype(np.float32)
    for prefix, n_in, n_out in (("dense", 1506, 200), ("dense_1", 200, 50)):
        variables[f"{prefix}/kernel"] = draw(n_in, n_out)
        variables[f"{prefix}/bias"] = draw(n_out)
    return variables


VARIABLES = made_up_variables()
NETWORK = from_tensorflow(VARIABLES)


def by_numpy(mel_power: sounds.Array) -> dict[str, sounds.Array]:
    """(M, T) -> the network's answers, layer by layer as its paper has them, in double precision and channels last."""
    v = {name: array.astype(np.float64) for name, array in VARIABLES.items()}

    def norm(x: sounds.Array, index: int) -> sounds.Array:
        p = f"batch_normalization_{index}".removesuffix("_0")
        scale = v[f"{p}/gamma"] / np.sqrt(v[f"{p}/moving_variance"] + 1e-3)
        normed: sounds.Array = (x - v[f"{p}/moving_mean"]) * scale + v[f"{p}/beta"]
        return normed

    def convolve(x: sounds.Array, index: int) -> sounds.Array:
        """(T, M) with its time padded already -> (T', M', out)."""
        p = f"conv2d_{index}".removesuffix("_0")
        kernel = v[f"{p}/kernel"][:, :, 0]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2])  # (T', M', height, width)
        answer: sounds.Array = np.maximum(
            np.einsum("tmhw,hwo->tmo", windows, kernel, optimize=True) + v[f"{p}/bias"], 0
        )
        return answer

    def pad_time(x: sounds.Array, n: int) -> sounds.Array:
        before = (n - 1) // 2
        return np.pad(x, ((before, n - 1 - before), (0, 0)))

    x = norm(np.log10(10_000 * mel_power.T + 1)[..., None], 0)[..., 0]  # (T, M)
    front = [norm(convolve(pad_time(x, 7), i), i + 1).max(1) for i in (0, 1)]
    front += [norm(convolve(pad_time(x, n), i), i + 1).max(1) for i, n in ((2, 128), (3, 64), (4, 32))]
    layers = [np.concatenate(front, 1)]  # (T, 561)
    first = norm(convolve(pad_time(layers[0], 7), 5)[:, 0], 6)
    second = first + norm(convolve(pad_time(first, 7), 6)[:, 0], 7)
    third = second + norm(convolve(pad_time(second, 7), 7)[:, 0], 8)
    stacked = np.concatenate([layers[0], first, second, third], 1)  # (T, 753)
    pooled = norm(np.stack([stacked.max(0), stacked.mean(0)], 1).reshape(-1), 9)  # max and mean side by side
    penultimate = norm(np.maximum(pooled @ v["dense/kernel"] + v["dense/bias"], 0), 10)
    tags = 1 / (1 + np.exp(-(penultimate @ v["dense_1/kernel"] + v["dense_1/bias"])))
    return {"pooled": pooled, "penultimate": penultimate, "tags": tags}


def test_the_network_matches_its_paper() -> None:
    mel_power = np.random.default_rng(1).gamma(0.5, 1.0, (96, 60)).astype(np.float32)
    with torch.inference_mode():
        answers = NETWORK(torch.from_numpy(mel_power[None]))
    expected = by_numpy(mel_power.astype(np.float64))
    for name, found in zip(("pooled", "penultimate", "tags"), answers, strict=True):
        np.testing.assert_allclose(found[0].numpy(), expected[name], atol=5e-4, err_msg=name)


def test_shapes_and_ranges() -> None:
    with torch.inference_mode():
        pooled, penultimate, tags = NETWORK(torch.rand(3, 96, 188))
    assert (pooled.shape, penultimate.shape, tags.shape) == ((3, N_POOLED), (3, N_PENULTIMATE), (3, N_TAGS))
    assert ((tags >= 0) & (tags <= 1)).all()


def test_a_missing_or_misshapen_variable_is_named() -> None:
    without = {name: array for name, array in VARIABLES.items() if name != "conv2d_3/bias"}
    with pytest.raises(PretrainedWeightsError):
        from_tensorflow(without)
    with pytest.raises(PretrainedWeightsError):
        from_tensorflow({**VARIABLES, "dense_1/kernel": np.zeros((200, 7), np.float32)})


@pytest.mark.parametrize("name", sorted(PRETRAINED))
def test_backbones_name_licence_and_fifty_tags(name: str) -> None:
    backbone = get_pretrained(name)
    assert len(set(backbone.tags)) == len(backbone.tags) == N_TAGS
    assert "ISC" in backbone.licence
    assert backbone.trained_on


def test_an_unknown_backbone_names_the_known() -> None:
    with pytest.raises(PretrainedWeightsError):
        get_pretrained("vgg")


def windows(n: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([sounds.SOUNDS[("hum", "hiss")[i % 2]](i)[:WINDOW_SAMPLES] for i in range(n)]))


def test_an_untrained_network_answers_tags_and_nothing_it_does_not_know() -> None:
    genres = [0, 1, 2, 10, 20]
    frontend = MusicnnFeatures(NETWORK)
    network = UntrainedNetwork(frontend, genres).eval()
    audio = torch.cat([windows(3), torch.zeros(1, WINDOW_SAMPLES)])
    with torch.inference_mode():
        probabilities, emotions, embedding, tags = network(audio)
        features = frontend(audio)[:, 0]
    assert probabilities.shape == (4, 5)
    assert torch.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(tags, features[:, frontend.tag_slice])
    np.testing.assert_allclose(probabilities, tags[:, genres] / tags[:, genres].sum(1, keepdim=True), rtol=1e-4)
    assert (emotions == -1).all()
    assert emotions.shape == (4, 9)
    assert embedding.shape == (4, EMBEDDING_SIZE)
    np.testing.assert_allclose(embedding.norm(dim=1), 1, atol=1e-5)
    # The embedding turns the layer before the tags without changing an angle.
    before = nn.functional.normalize(features[:, frontend.penultimate_slice])
    np.testing.assert_allclose(embedding @ embedding.T, before @ before.T, atol=1e-4)


def test_features_hold_pooled_penultimate_and_tags_where_the_slices_say() -> None:
    frontend = MusicnnFeatures(NETWORK)
    audio = windows(2)
    with torch.inference_mode():
        features = frontend(audio)
        pooled, penultimate, tags = NETWORK(frontend.power(audio))
    assert features.shape == (2, frontend.n_units, frontend.n_features) == (2, 1, 1756)
    np.testing.assert_array_equal(features[:, 0, :N_POOLED], pooled)
    np.testing.assert_array_equal(features[:, 0, frontend.penultimate_slice], penultimate)
    np.testing.assert_array_equal(features[:, 0, frontend.tag_slice], tags)


def test_a_trained_network_on_the_backbone_serves_its_tags_too() -> None:
    network = build_network(GenreConfig(), MusicnnFeatures(NETWORK), n_labels=3, with_emotions=True).eval()
    with torch.inference_mode():
        probabilities, emotions, embedding, tags = network(windows(2))
    assert [tuple(x.shape) for x in (probabilities, emotions, embedding, tags)] == [(2, 3), (2, 9), (2, 256), (2, 50)]
    assert not any(p.requires_grad for p in network.frontend.parameters())


def test_the_tag_lists_are_of_different_data_sets() -> None:
    assert set(musicnn.MSD_TAGS) != set(musicnn.MTT_TAGS)
    assert isinstance(NETWORK, Musicnn)
