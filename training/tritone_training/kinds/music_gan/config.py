"""Hyper-parameters of `music_gan`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class GanConfig:
    """What a training run is made of.

    Attributes:
        width: of the generator's layers.
        n_layers: of the generator, and of the critic.
        critic_width: of the critic's layers.
        critic_steps: of the critic for each one of the generator.
        gradient_penalty: weight of the penalty that keeps the critic's slope near 1 (Gulrajani et al. 2017).
        condition_weight: of the loss that makes the music keep to the mode and the density asked for.
        pool_size: how many training spans are drawn, style by style, and encoded; batches come from these.
        steps_per_epoch: generator steps between two looks at held-out music.
        style_balance: as in `music_vae`: 0 draws all spans equally often, 1 all styles.
        average_decay: of the running average of the generator, which is what is kept.
        n_judged: spans that are generated to be evaluated, and held-out ones that they are compared with.
        patience: epochs without improvement before training stops.
    """

    width: int = 512
    n_layers: int = 3
    critic_width: int = 512
    batch_size: int = 256
    critic_steps: int = 3
    steps_per_epoch: int = 100
    max_epochs: int = 20
    patience: int = 8
    learning_rate: float = 2e-4
    gradient_penalty: float = 10.0
    condition_weight: float = 0.5
    pool_size: int = 32_768
    style_balance: float = 0.5
    average_decay: float = 0.99
    n_judged: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name in _WHOLE
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else int | float)
                or not math.isfinite(value)
            ):
                raise TrainingError(f"{field.name} is {value!r}; expected a {'whole ' * whole}number")
        for name, (least, most) in _WHOLE.items():
            if not least <= getattr(self, name) <= most:
                raise TrainingError(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        for name in ("gradient_penalty", "condition_weight"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if not 0 <= self.style_balance <= 1:
            raise TrainingError(f"style_balance is {self.style_balance}; expected 0 to 1")
        if not 0 <= self.average_decay < 1:
            raise TrainingError(f"average_decay is {self.average_decay}; it must be from 0 up to, not including, 1")
        if self.learning_rate <= 0:
            raise TrainingError(f"learning_rate is {self.learning_rate}; it must be above 0")


# Smallest and largest; the largest keep a slip of the hand from asking for terabytes.
_WHOLE: Final = {
    "width": (1, 8_192),
    "n_layers": (1, 64),
    "critic_width": (1, 8_192),
    "batch_size": (2, 65_536),
    "critic_steps": (1, 100),
    "steps_per_epoch": (1, 100_000),
    "max_epochs": (1, 100_000),
    "patience": (1, 100_000),
    "pool_size": (2, 10_000_000),
    "n_judged": (2, 1_000_000),
}


PRESETS: Final[Mapping[str, GanConfig]] = {
    "default": GanConfig(),
    # Beside the minutes that the demo preset of music_vae takes, less than one more.
    "demo": GanConfig(
        width=256, critic_width=256, batch_size=128, max_epochs=4, steps_per_epoch=75, pool_size=8_192, n_judged=300
    ),
    # For tests.
    "tiny": GanConfig(
        width=16, n_layers=1, critic_width=16, batch_size=16, critic_steps=1, steps_per_epoch=4, max_epochs=1,
        pool_size=64, n_judged=100,
    ),
}  # fmt: skip


def build_config(preset: str, overrides: Mapping[str, Any]) -> GanConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    known = [field.name for field in fields(GanConfig)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise TrainingError(f"no hyper-parameter {', '.join(unknown)}; there are: {', '.join(known)}")
    return replace(PRESETS[preset], **overrides)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: how critic and generator balance."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 1e-3, log=True),
        "critic_steps": trial.suggest_int("critic_steps", 1, 5),
        "gradient_penalty": trial.suggest_float("gradient_penalty", 1.0, 20.0, log=True),
        "condition_weight": trial.suggest_float("condition_weight", 0.05, 5.0, log=True),
    }


def to_dict(config: GanConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
