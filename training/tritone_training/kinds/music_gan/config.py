"""Hyper-parameters of `music_gan`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


class GanConfig(Hyperparameters):
    """Hyper-parameters of a training of `music_gan`."""

    width: int = Field(512, ge=1, le=8_192, description="Units of the generator's layers.")
    n_layers: int = Field(3, ge=1, le=64, description="Layers of the generator, and of the critic.")
    critic_width: int = Field(512, ge=1, le=8_192, description="Units of the critic's layers.")
    batch_size: int = Field(256, ge=2, le=65_536, description="Spans in a batch.")
    critic_steps: int = Field(3, ge=1, le=100, description="Steps of the critic for each step of the generator.")
    steps_per_epoch: int = Field(100, ge=1, le=100_000, description="Generator steps between two evaluations.")
    max_epochs: int = Field(20, ge=1, le=100_000, description="Maximum number of epochs.")
    patience: int = Field(8, ge=1, le=100_000, description="Epochs without improvement before training stops.")
    learning_rate: float = Field(2e-4, gt=0, description="Learning rate of Adam.")
    gradient_penalty: float = Field(
        10.0, ge=0, description="Weight of the gradient penalty of the critic (Gulrajani et al. 2017)."
    )
    condition_weight: float = Field(
        0.5, ge=0, description="Weight of the loss that ties the music to the requested mode and density."
    )
    pool_size: int = Field(
        32_768, ge=2, le=10_000_000, description="Training spans that are encoded once and drawn from."
    )
    style_balance: float = Field(
        0.5, ge=0, le=1, description="0 draws all spans equally often, 1 all styles; see `music_vae`."
    )
    average_decay: float = Field(
        0.99, ge=0, lt=1, description="Decay of the running average of the generator's weights, which is kept."
    )
    n_judged: int = Field(
        1000, ge=2, le=1_000_000, description="Generated spans, and held-out spans, that are compared in an evaluation."
    )


PRESETS: Final[Mapping[str, GanConfig]] = {
    "default": GanConfig(),
    # Less than a minute in addition to the demo preset of music_vae.
    "demo": GanConfig(
        width=256, critic_width=256, batch_size=128, max_epochs=4, steps_per_epoch=75, pool_size=8_192, n_judged=300
    ),
    # For tests.
    "tiny": GanConfig(
        width=16, n_layers=1, critic_width=16, batch_size=16, critic_steps=1, steps_per_epoch=4, max_epochs=1,
        pool_size=64, n_judged=100,
    ),
}  # fmt: skip


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the hyper-parameters that balance critic and generator."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 1e-3, log=True),
        "critic_steps": trial.suggest_int("critic_steps", 1, 5),
        "gradient_penalty": trial.suggest_float("gradient_penalty", 1.0, 20.0, log=True),
        "condition_weight": trial.suggest_float("condition_weight", 0.05, 5.0, log=True),
    }
