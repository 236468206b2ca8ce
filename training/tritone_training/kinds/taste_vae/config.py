"""Hyper-parameters of `taste_vae`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class TasteConfig:
    """What a training run is made of.

    Attributes:
        latent: size of the code of a taste.
        temperature: cosines are divided by it; the smaller, the more the best items stand out.
        rarity: an item's listeners to this power divide its say in a history's code.
        dropout: share of each history that is hidden from the encoder in training, and to be found.
        beta: weight of the divergence from the prior once it has been warmed up over the first third of training.
        power: plays to weights, see `tritone_serving.recommender.batch.weigh`.
        n_items: only the best-known items are learnt.
        patience: epochs without improvement on the validation part before training stops.
    """

    latent: int = 256
    temperature: float = 0.1
    rarity: float = 0.4
    dropout: float = 0.6
    beta: float = 0.02
    power: float = 0.25
    n_items: int = 20_000
    batch_size: int = 512
    learning_rate: float = 7e-3
    weight_decay: float = 0.0
    max_epochs: int = 30
    patience: int = 30

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = int if field.name in _WHOLE else int | float
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                raise TrainingError(f"{field.name} is {value!r}; expected a {'whole ' * (kinds is int)}number")
        for name, most in _WHOLE.items():
            if not 1 <= getattr(self, name) <= most:
                raise TrainingError(f"{name} is {getattr(self, name)}; expected 1 to {most}")
        if not 0 <= self.dropout < 1:
            raise TrainingError(f"dropout is {self.dropout}; it must be from 0 up to, not including, 1")
        for name in ("power", "rarity"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not 0.01 <= self.temperature <= 10:
            raise TrainingError(f"temperature is {self.temperature}; expected 0.01 to 10")
        if self.beta < 0 or self.weight_decay < 0 or self.learning_rate <= 0:
            raise TrainingError("beta and weight_decay must not be below 0, and learning_rate must be above 0")


_WHOLE: Final = {
    "latent": 8_192,
    "n_items": 10_000_000,
    "batch_size": 65_536,
    "max_epochs": 100_000,
    "patience": 100_000,
}

PRESETS: Final[Mapping[str, TasteConfig]] = {
    "default": TasteConfig(),
    "demo": TasteConfig(latent=64, batch_size=64, max_epochs=25),
    "tiny": TasteConfig(latent=4, max_epochs=2),
}


def build_config(preset: str, *, overrides: Mapping[str, Any]) -> TasteConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(TasteConfig)}
    if unknown:
        known = ", ".join(field.name for field in fields(TasteConfig))
        raise TrainingError(f"no hyper-parameter {', '.join(sorted(unknown))}; there are: {known}")
    return replace(PRESETS[preset], **overrides)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space."""
    return {
        "latent": trial.suggest_categorical("latent", [64, 128, 256, 512]),
        "temperature": trial.suggest_float("temperature", 0.05, 0.3, log=True),
        "rarity": trial.suggest_float("rarity", 0.0, 0.6),
        "dropout": trial.suggest_float("dropout", 0.3, 0.7),
        "beta": trial.suggest_float("beta", 0.005, 0.5, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 2e-3, 2e-2, log=True),
    }


def to_dict(config: TasteConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
