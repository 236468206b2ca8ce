"""Hyper-parameters of `music_vae`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class VaeConfig:
    """What a training run is made of.

    Attributes:
        width: of a quarter note of a voice, in encoder and decoder.
        step_width: of a time step of a voice.
        n_hidden: of the decoder's GRU.
        embedding_width: of what the GRU is told about each voice.
        head_width: of each voice's last layer.
        beta: weight of the divergence from the prior (Higgins et al. 2017); below 1 the latent says more.
        free_nats: divergence of one latent dimension, averaged over a batch, that costs nothing (Kingma et al. 2016,
            arXiv:1606.04934).
        warmup: share of the training over which beta grows from 0.
        word_dropout: share of steps at which the decoder may not see what it wrote before (Bowman et al. 2016,
            arXiv:1511.06349), so that it listens to the latent.
        spans_per_epoch: spans drawn between two looks at the validation part.
        style_balance: 0 draws all spans equally often, 1 all styles; between, a style's weight is n ** (1 - balance).
        average_decay: of the running average of the weights, which is what is kept.
        patience: epochs without improvement before training stops.
    """

    width: int = 128
    step_width: int = 48
    n_hidden: int = 128
    embedding_width: int = 24
    head_width: int = 96
    batch_size: int = 64
    spans_per_epoch: int = 8192
    max_epochs: int = 24
    patience: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    beta: float = 0.25
    free_nats: float = 0.0
    warmup: float = 0.2
    word_dropout: float = 0.5
    style_balance: float = 0.5
    average_decay: float = 0.995

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
        for name in ("warmup", "word_dropout", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be from 0 up to, not including, 1")
        for name in ("weight_decay", "beta", "free_nats"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if not 0 <= self.style_balance <= 1:
            raise TrainingError(f"style_balance is {self.style_balance}; expected 0 to 1")
        if self.learning_rate <= 0:
            raise TrainingError(f"learning_rate is {self.learning_rate}; it must be above 0")


# Smallest and largest; the largest keep a slip of the hand from asking for terabytes.
_WHOLE: Final = {
    "width": (1, 4_096),
    "step_width": (1, 4_096),
    "n_hidden": (1, 8_192),
    "embedding_width": (1, 1_024),
    "head_width": (1, 4_096),
    "batch_size": (2, 65_536),
    "spans_per_epoch": (2, 10_000_000),
    "max_epochs": (1, 100_000),
    "patience": (1, 100_000),
}


PRESETS: Final[Mapping[str, VaeConfig]] = {
    "default": VaeConfig(),
    # Still musical, in two or three minutes on one core.
    "demo": VaeConfig(width=96, n_hidden=96, head_width=64, max_epochs=4, spans_per_epoch=4096),
    # For tests.
    "tiny": VaeConfig(
        width=16,
        step_width=8,
        n_hidden=16,
        embedding_width=8,
        head_width=16,
        batch_size=16,
        spans_per_epoch=64,
        max_epochs=1,
    ),
}


def build_config(preset: str, overrides: Mapping[str, Any]) -> VaeConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    known = [field.name for field in fields(VaeConfig)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise TrainingError(f"no hyper-parameter {', '.join(unknown)}; there are: {', '.join(known)}")
    return replace(PRESETS[preset], **overrides)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: how much the latent says, and how fast it is learnt."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 3e-3, log=True),
        "beta": trial.suggest_float("beta", 0.05, 0.5, log=True),
        "word_dropout": trial.suggest_float("word_dropout", 0.2, 0.8),
    }


def to_dict(config: VaeConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
