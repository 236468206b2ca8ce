"""Hyper-parameters of `genre_cnn`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError
from tritone_training.kinds.genre_cnn.class_weights import NONE, ClassWeights, check_class_weights

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class GenreConfig:
    """What a training run is made of.

    Attributes:
        width: channels of the first convolution; the later ones are multiples of it.
        crops_per_recording: random windows drawn from each recording in an epoch.
        mixup_alpha: of the Beta distribution that mixes pairs of windows; 0 turns mixing off.
        gain_db: windows are made louder or softer by up to this much.
        mask_fraction: largest part of the bands, and of the frames, that a mask hides.
        average_from: share of the epochs after which the weights' running average begins.
        emotion_weight: of the emotions' loss beside the genre's.
        patience: epochs without improvement on the validation part before training stops.
        refit: once the validation part has told how long to train, train anew on all but the held-out fold; with
            a few hundred recordings the validation part is worth more as something to learn from.
        variants: seeded renderings of each catalogue piece (embedded data only).
        class_weights: of the labels in the loss: `none`, `balanced` (rare labels count more), or label -> weight.
    """

    width: int = 16
    dropout: float = 0.3
    batch_size: int = 64
    crops_per_recording: int = 4
    max_epochs: int = 60
    patience: int = 25
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.2
    gain_db: float = 6.0
    mask_fraction: float = 0.2
    average_from: float = 0.3
    emotion_weight: float = 3.0
    refit: bool = True
    variants: int = 4
    class_weights: ClassWeights = NONE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "refit":
                if not isinstance(value, bool):
                    raise TrainingError(f"refit is {value!r}; expected true or false")
                continue
            if field.name == "class_weights":
                check_class_weights(value)
                continue
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
        for name in ("dropout", "label_smoothing", "mask_fraction", "average_from"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be from 0 up to, not including, 1")
        for name in ("weight_decay", "mixup_alpha", "gain_db", "emotion_weight"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.learning_rate <= 0:
            raise TrainingError(f"learning_rate is {self.learning_rate}; it must be above 0")


# Smallest and largest; the largest keep a slip of the hand from asking for terabytes.
_WHOLE: Final = {
    "width": (1, 512),
    "batch_size": (2, 65_536),
    "crops_per_recording": (1, 1_000),
    "max_epochs": (1, 100_000),
    "patience": (1, 100_000),
    "variants": (1, 1_000),
}


PRESETS: Final[Mapping[str, GenreConfig]] = {
    "default": GenreConfig(),
    # A first look at an idea, in a few minutes on two cores.
    "demo": GenreConfig(
        width=16, max_epochs=20, crops_per_recording=2, gain_db=3.0, label_smoothing=0.02, refit=False, variants=2
    ),
    # For tests.
    "tiny": GenreConfig(width=4, max_epochs=2, crops_per_recording=1, gain_db=3.0, refit=False, variants=1),
}
# A backbone's features are few and strong: small steps, more crops, no masks.
PRETRAINED_CHANGES: Final[Mapping[str, Any]] = {
    "dropout": 0.5,
    "learning_rate": 1e-3,
    "weight_decay": 5e-2,
    "mixup_alpha": 1.0,
    "max_epochs": 20,
    "mask_fraction": 0.0,
    "gain_db": 0.0,
}


def build_config(preset: str, *, pretrained: bool, overrides: Mapping[str, Any]) -> GenreConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(GenreConfig)}
    if unknown:
        known = ", ".join(field.name for field in fields(GenreConfig))
        raise TrainingError(f"no hyper-parameter {', '.join(sorted(unknown))}; there are: {known}")
    changes = {**(PRETRAINED_CHANGES if pretrained else {}), **overrides}
    return replace(PRESETS[preset], **changes)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: what matters most when recordings are few."""
    return {
        "dropout": trial.suggest_float("dropout", 0.1, 0.6),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1e-1, log=True),
        "mixup_alpha": trial.suggest_float("mixup_alpha", 0.0, 1.0),
        "mask_fraction": trial.suggest_float("mask_fraction", 0.0, 0.4),
        "emotion_weight": trial.suggest_float("emotion_weight", 0.0, 10.0),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "refit": False,  # trials are compared on the validation part; the training that follows may refit
    }


def to_dict(config: GenreConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
