"""Hyper-parameters of `polyphony_rnn`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class PolyphonyConfig:
    """What a training run is made of.

    Attributes:
        units: width of what each pitch sees.
        hidden: width of the recurrent layer at each pitch.
        reach: how many semitones to either side a pitch sees.
        crop_frames: longer pieces are learnt in excerpts of at most this length (they are always evaluated whole).
        warmup_frames: so many frames of an excerpt that begins within a piece are history but not learnt.
        transpose_down: pieces are transposed at random, as far as the keyboard allows: down by so many semitones
        transpose_up: and up by so many.
        average_keeps: share of itself that the running average of the weights keeps at each step.
        max_epochs: fewer are run where `max_frames` says so.
        max_frames: frames that are learnt in all, so that large data sets take no longer; at least one epoch.
        piece_frames: of a longer piece only the beginning is learnt (all of it is evaluated).
        valid_frames: of a larger validation portion only evenly chosen pieces with so many frames are looked at.
        patience: epochs without improvement on the validation part before training stops.
    """

    units: int = 64
    hidden: int = 64
    reach: int = 16
    dropout: float = 0.3
    batch_size: int = 4
    crop_frames: int = 200
    warmup_frames: int = 8
    transpose_down: int = 5
    transpose_up: int = 6
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    average_keeps: float = 0.99
    max_epochs: int = 40
    max_frames: int = 800_000
    piece_frames: int = 1_000_000
    valid_frames: int = 1_000_000_000
    patience: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name in _WHOLE
            kinds = int if whole else int | float
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                raise TrainingError(f"{field.name} is {value!r}; expected a {'whole ' * whole}number")
        for name, (least, most) in _WHOLE.items():
            if not least <= getattr(self, name) <= most:
                raise TrainingError(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        for name in ("dropout", "average_keeps"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be from 0 up to, not including, 1")
        if self.weight_decay < 0:
            raise TrainingError(f"weight_decay is {self.weight_decay}; it must not be below 0")
        if self.learning_rate <= 0:
            raise TrainingError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.warmup_frames >= self.crop_frames:
            raise TrainingError(
                f"warmup_frames is {self.warmup_frames}; it must be below crop_frames ({self.crop_frames}), "
                f"or nothing is learnt"
            )

    def n_epochs(self, n_frames: int) -> int:
        """Epochs to run on a training part of so many frames."""
        return max(1, min(self.max_epochs, round(self.max_frames / n_frames)))


# Smallest and largest; the largest keep a slip of the hand from asking for terabytes.
_WHOLE: Final = {
    "units": (1, 1_024),
    "hidden": (1, 1_024),
    "reach": (0, 87),
    "batch_size": (1, 4_096),
    "crop_frames": (2, 16_384),
    "warmup_frames": (0, 16_384),
    "transpose_down": (0, 87),
    "transpose_up": (0, 87),
    "max_epochs": (1, 100_000),
    "max_frames": (1, 10**12),
    "piece_frames": (1, 10**9),
    "valid_frames": (1, 10**12),
    "patience": (1, 100_000),
}


PRESETS: Final[Mapping[str, PolyphonyConfig]] = {
    "default": PolyphonyConfig(),
    # A first look, in less than a minute on one core.
    "demo": PolyphonyConfig(
        units=24, hidden=24, reach=12, max_frames=80_000, piece_frames=256, valid_frames=6_000, learning_rate=4e-3
    ),
    # For tests.
    "tiny": PolyphonyConfig(
        units=4, hidden=4, reach=2, crop_frames=48, batch_size=32, max_epochs=2, max_frames=2_000, dropout=0.0
    ),
}


def build_config(preset: str, *, overrides: Mapping[str, Any]) -> PolyphonyConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(PolyphonyConfig)}
    if unknown:
        known = ", ".join(field.name for field in fields(PolyphonyConfig))
        raise TrainingError(f"no hyper-parameter {', '.join(sorted(unknown))}; there are: {known}")
    return replace(PRESETS[preset], **overrides)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: size, and what keeps a large network from learning few pieces by heart."""
    return {
        "hidden": trial.suggest_categorical("hidden", [32, 48, 64, 96]),
        "reach": trial.suggest_int("reach", 7, 24),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1e-1, log=True),
    }


def to_dict(config: PolyphonyConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
