from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from tests.unit.training import sounds

from tritone.constants import EMBEDDING_SIZE, EMOTIONS, WINDOW_SAMPLES
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.frontend import MelFeatures
from tritone_training.kinds.genre_cnn.network import GenreNetwork, build_network, learned_weights, unit_length


@pytest.fixture(scope="module", params=[True, False], ids=["emotions", "no emotions"])
def network(request: pytest.FixtureRequest) -> GenreNetwork:
    torch.manual_seed(0)
    config = GenreConfig(width=4)
    return build_network(config, MelFeatures(), n_labels=5, with_emotions=request.param).eval()


def windows() -> torch.Tensor:
    """Loud, soft, short-lived and silent sounds."""
    made = [sounds.hum(1), sounds.hiss(2), 0.001 * sounds.hum(3), np.zeros(70_000, np.float32)]
    return torch.from_numpy(np.stack([samples[:WINDOW_SAMPLES] for samples in made]))


def test_shapes_and_ranges(network: GenreNetwork) -> None:
    with torch.inference_mode():
        probabilities, emotions, embedding = network(windows())
    assert probabilities.shape == (4, 5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert embedding.shape == (4, EMBEDDING_SIZE)
    np.testing.assert_allclose(embedding.norm(dim=1), 1, atol=1e-4)
    assert emotions.shape == (4, len(EMOTIONS))
    if network.emotion_head is None:
        assert (emotions == -1).all()
    else:
        assert ((emotions >= 0) & (emotions <= 1)).all()


def test_an_answer_does_not_depend_on_its_neighbours_or_the_time_of_asking(network: GenreNetwork) -> None:
    audio = windows()
    with torch.inference_mode():
        together, again = network(audio), network(audio)
        alone = [network(audio[i : i + 1]) for i in range(len(audio))]
    for index, (a, b) in enumerate(zip(together, again, strict=True)):
        assert torch.equal(a, b)
        np.testing.assert_allclose(a, torch.cat([answers[index] for answers in alone]), atol=2e-5)


def test_a_zero_embedding_stays_finite() -> None:
    assert torch.isfinite(unit_length(torch.zeros(2, 256))).all()


def test_the_front_end_is_frozen_and_not_saved(network: GenreNetwork) -> None:
    assert not any(name.startswith("frontend.") for name in learned_weights(network.state_dict()))
    assert all(p.requires_grad for p in network.body.parameters())


def test_builder_and_config_agree() -> None:
    config = GenreConfig()
    network = build_network(config, MelFeatures(), n_labels=2, with_emotions=False)
    assert network.genre_head.out_features == 2
    body = inspect.signature(type(network.body).__init__).parameters
    for name in ("width", "dropout"):  # flat keyword-only values; the config stops at the builder
        assert body[name].kind is inspect.Parameter.KEYWORD_ONLY
    wider = build_network(GenreConfig(width=2 * config.width), MelFeatures(), n_labels=2, with_emotions=False)
    assert sum(p.numel() for p in wider.parameters()) > sum(p.numel() for p in network.parameters())
    dropouts = {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}
    assert config.dropout in dropouts
