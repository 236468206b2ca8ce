"""Hyper-parameters of `taste_vae`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


class TasteConfig(Hyperparameters):
    """Hyper-parameters of a training of `taste_vae`."""

    latent: int = Field(256, ge=1, le=8_192, description="Size of the latent code of a listening history.")
    temperature: float = Field(
        0.1, ge=0.01, le=10, description="Divisor of the cosines; smaller values favour the best items more."
    )
    rarity: float = Field(
        0.4, ge=0, le=1, description="An item's weight in a history is divided by (its number of listeners) ** rarity."
    )
    dropout: float = Field(
        0.6, ge=0, lt=1, description="Fraction of each history that is hidden from the encoder in training."
    )
    beta: float = Field(
        0.02, ge=0, description="Weight of the divergence from the prior, reached after a third of the training."
    )
    power: float = Field(
        0.25, ge=0, le=1, description="Exponent from play counts to weights; see `tritone_serving.recommender`."
    )
    n_items: int = Field(20_000, ge=1, le=10_000_000, description="Only that many most popular items are modelled.")
    batch_size: int = Field(512, ge=1, le=65_536, description="Histories in a batch.")
    learning_rate: float = Field(7e-3, gt=0, description="Initial learning rate of AdamW; decays along half a cosine.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_epochs: int = Field(30, ge=1, le=100_000, description="Maximum number of epochs.")
    patience: int = Field(
        30, ge=1, le=100_000, description="Epochs without improvement on the validation split before training stops."
    )


PRESETS: Final[Mapping[str, TasteConfig]] = {
    "default": TasteConfig(),
    "demo": TasteConfig(latent=64, batch_size=64, max_epochs=25),
    "tiny": TasteConfig(latent=4, max_epochs=2),
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Return hyper-parameters drawn from the search space."""
    return {
        "latent": trial.suggest_categorical("latent", [64, 128, 256, 512]),
        "temperature": trial.suggest_float("temperature", 0.05, 0.3, log=True),
        "rarity": trial.suggest_float("rarity", 0.0, 0.6),
        "dropout": trial.suggest_float("dropout", 0.3, 0.7),
        "beta": trial.suggest_float("beta", 0.005, 0.5, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 2e-3, 2e-2, log=True),
    }
