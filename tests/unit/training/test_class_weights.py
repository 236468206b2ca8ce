"""Weights of the labels in `genre_cnn`'s loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tritone_training import HyperparameterError, TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kinds.genre_cnn import module
from tritone_training.kinds.genre_cnn.config import PRESETS
from tritone_training.kinds.genre_cnn.frontend import MelFeatures
from tritone_training.kinds.genre_cnn.module import label_weights
from tritone_training.kinds.genre_cnn.network import build_network


def config(value: Any) -> Any:
    return from_preset(PRESETS, "tiny", {"class_weights": value})


def test_balanced_weighs_labels_by_how_rare_they_are() -> None:
    weights = label_weights("balanced", ["a"] * 6 + ["b"] * 2, ["a", "b"])
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([8 / 12, 8 / 4]))  # n / (L x count)


def test_a_mapping_sets_single_weights_and_none_sets_nothing() -> None:
    weights = label_weights({"b": 3}, ["a", "b", "c"], ["a", "b", "c"])
    assert weights is not None
    assert weights.tolist() == [1, 3, 1]
    assert label_weights("none", ["a"], ["a", "b"]) is None


def test_a_label_that_is_not_in_the_data_is_refused() -> None:
    with pytest.raises(TrainingError):
        label_weights({"jaz": 2.0}, ["jazz"], ["blues", "jazz"])


@pytest.mark.parametrize("value", ["some", 3, {}, {"a": 0}, {"a": -1.0}, {"a": True}, {"a": float("nan")}, {1: 2.0}])
def test_what_is_no_weighting_is_refused(value: Any) -> None:
    with pytest.raises(HyperparameterError) as caught:
        config(value)
    assert caught.value.fields == ("class_weights",)


def test_the_loss_of_a_heavy_label_counts_more() -> None:
    plain = config("none")
    assert config({"a": 2.0}).to_dict()["class_weights"] == {"a": 2.0}

    def gradients(weights: torch.Tensor | None) -> torch.Tensor:
        torch.manual_seed(0)
        network = build_network(plain, MelFeatures(), n_labels=2, with_emotions=False).eval()
        trained = module.GenreModule(network, plain, n_labels=2, on_spectrogram=False, class_weights=weights)
        trained.log = lambda *_, **__: None  # type: ignore[assignment]
        features = torch.randn(4, 128, network.frontend.n_features)  # type: ignore[arg-type, operator]
        unknown = torch.full((4, 9), float("nan"))
        trained.training_step((features, torch.tensor([0, 1, 1, 1]), unknown), 0).backward()
        bias = network.genre_head.bias.grad
        assert bias is not None
        return bias

    torch.testing.assert_close(gradients(torch.ones(2)), gradients(None))
    assert gradients(torch.tensor([9.0, 1.0]))[0] < gradients(None)[0], "pulled more towards the label that weighs more"
