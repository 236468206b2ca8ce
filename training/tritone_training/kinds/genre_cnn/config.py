"""Hyper-parameters of `genre_cnn`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import Field, field_validator

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna

NONE: Final = "none"
BALANCED: Final = "balanced"
ClassWeights: TypeAlias = str | Mapping[str, float]


class GenreConfig(Hyperparameters):
    """Hyper-parameters of a training of `genre_cnn`."""

    width: int = Field(
        16, ge=1, le=512, description="Channels of the first convolution; later layers have multiples of it."
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout before the heads.")
    batch_size: int = Field(64, ge=2, le=65_536, description="Windows in a batch.")
    crops_per_recording: int = Field(
        4, ge=1, le=1_000, description="Random windows drawn from each recording in an epoch."
    )
    max_epochs: int = Field(60, ge=1, le=100_000, description="Maximum number of epochs.")
    patience: int = Field(
        25, ge=1, le=100_000, description="Epochs without improvement on the validation split before training stops."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Maximum of the one-cycle learning rate.")
    weight_decay: float = Field(2e-2, ge=0, description="Weight decay of AdamW.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the genre loss.")
    mixup_alpha: float = Field(
        0.2, ge=0, description="Parameter of the Beta distribution that mixes pairs of windows; 0 turns mixup off."
    )
    gain_db: float = Field(6.0, ge=0, description="Largest random change of a window's level, in dB.")
    mask_fraction: float = Field(
        0.2, ge=0, lt=1, description="Largest fraction of the bands, and of the frames, that a mask hides."
    )
    average_from: float = Field(
        0.3, ge=0, lt=1, description="Fraction of the epochs after which the weights' running average begins."
    )
    emotion_weight: float = Field(3.0, ge=0, description="Weight of the emotion loss relative to the genre loss.")
    # With a few hundred recordings, the validation split is worth more as training data.
    refit: bool = Field(
        True,
        description="After early stopping has chosen the number of epochs, train again on training and validation "
        "split together.",
    )
    variants: int = Field(4, ge=1, le=1_000, description="Seeded renderings of each corpus piece (embedded data only).")
    class_weights: ClassWeights = Field(
        NONE, description="Weights of the labels in the loss: none, balanced (inverse frequency), or label -> weight."
    )

    @field_validator("class_weights", mode="plain")
    @classmethod
    def _check_class_weights(cls, value: object) -> ClassWeights:
        return check_class_weights(value)


PRESETS: Final[Mapping[str, GenreConfig]] = {
    "default": GenreConfig(),
    # A few minutes on two cores.
    "demo": GenreConfig(
        width=16, max_epochs=20, crops_per_recording=2, gain_db=3.0, label_smoothing=0.02, refit=False, variants=2
    ),
    # For tests.
    "tiny": GenreConfig(width=4, max_epochs=2, crops_per_recording=1, gain_db=3.0, refit=False, variants=1),
}
# Replace the preset's values where the network is a head on a pretrained backbone, whose features are few and strong:
# small steps, more crops, no masks.
PRETRAINED_CHANGES: Final[Mapping[str, Any]] = {
    "dropout": 0.5,
    "learning_rate": 1e-3,
    "weight_decay": 5e-2,
    "mixup_alpha": 1.0,
    "max_epochs": 20,
    "mask_fraction": 0.0,
    "gain_db": 0.0,
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the hyper-parameters that matter most for small data sets."""
    return {
        "dropout": trial.suggest_float("dropout", 0.1, 0.6),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1e-1, log=True),
        "mixup_alpha": trial.suggest_float("mixup_alpha", 0.0, 1.0),
        "mask_fraction": trial.suggest_float("mask_fraction", 0.0, 0.4),
        "emotion_weight": trial.suggest_float("emotion_weight", 0.0, 10.0),
        "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2),
        "refit": False,  # trials are compared on the validation split; the final training may refit
    }


def check_class_weights(value: object) -> ClassWeights:
    """Return the value if it is `none`, `balanced` or a mapping from labels to positive numbers.

    Raises:
        ValueError: it is something else.
    """
    if value in (NONE, BALANCED):
        return str(value)
    weights = dict(value) if isinstance(value, Mapping) else {}
    if weights and all(isinstance(label, str) and _is_weight(weight) for label, weight in weights.items()):
        return {label: float(weight) for label, weight in weights.items()}
    raise ValueError(
        f"expected none, balanced, or a mapping from labels to numbers above 0 such as {{'jazz': 2.0}}, got {value!r}"
    )


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
