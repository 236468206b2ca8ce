"""Hyper-parameters of `taste_sequence`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, model_validator

from tritone_training.hyperparameters import Hyperparameters
from tritone_training.kinds.taste_sequence.declaration import MAX_HISTORY

if TYPE_CHECKING:
    import optuna


class SequenceConfig(Hyperparameters):
    """Hyper-parameters of a training of `taste_sequence`."""

    size: int = Field(128, ge=4, le=4_096, description="Size of item vectors and of the history embedding.")
    n_networks: int = Field(
        3, ge=1, le=32, description="Networks that are trained together and whose scores are averaged."
    )
    n_decays: int = Field(
        1,
        ge=1,
        le=64,
        description="Slices of the item vectors, each with a recency decay of its own.",
    )
    initial_decay: float = Field(
        4.0,
        ge=0,
        le=16,
        description="Largest of the initial decays if n_decays > 1; an event weighs 1 / (1 + distance) ** decay.",
    )
    n_layers: int = Field(1, ge=0, le=12, description="Transformer layers; 0 uses the recency-weighted means only.")
    n_heads: int = Field(4, ge=1, le=64, description="Attention heads of a layer.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout in the attention layers.")
    input_dropout: float = Field(0.4, ge=0, lt=1, description="Dropout of the item vectors before the first layer.")
    event_dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Fraction of the events of each history that is hidden from later ones in training.",
    )
    item_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Fraction of items that are represented by their words alone in a training step, which teaches the "
        "words to stand for items without listeners; without words it has no effect.",
    )
    temperature: float = Field(
        0.1, ge=0.01, le=10, description="Divisor of the cosines; smaller values favour the best items more."
    )
    popularity_exponent: float = Field(
        0.4,
        ge=0,
        le=1,
        description="An item's weight in a history is divided by (its number of listeners) ** popularity_exponent.",
    )
    n_negatives: int = Field(
        1_024,
        ge=256,
        le=1_000_000,
        description="Sampled negatives of the softmax, shared by a batch; a smaller catalogue is used completely.",
    )
    negative_power: float = Field(
        0.5, ge=0, le=1, description="Negatives are drawn in proportion to (number of listeners) ** this."
    )
    skip_loss: float = Field(
        0.5, ge=0, le=10, description="Weight of the loss that lowers the probability of the item that is skipped next."
    )
    n_items: int = Field(100_000, ge=1, le=10_000_000, description="Only that many most popular items are modelled.")
    max_length: int = Field(
        200, ge=2, le=MAX_HISTORY, description="Events of a history that the network sees, the latest ones."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Histories in a batch.")
    learning_rate: float = Field(7e-3, gt=0, description="Initial learning rate of AdamW; decays along half a cosine.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_epochs: int = Field(10, ge=1, le=100_000, description="Maximum number of epochs.")
    patience: int = Field(
        8, ge=1, le=100_000, description="Epochs without improvement on the validation split before training stops."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> SequenceConfig:
        for name in ("n_decays", "n_heads"):
            if self.size % getattr(self, name):
                raise ValueError(f"size: expected a multiple of {name} ({getattr(self, name)}), got {self.size}")
        return self


PRESETS: Final[Mapping[str, SequenceConfig]] = {
    "default": SequenceConfig(),
    "demo": SequenceConfig(size=64, n_networks=1, max_epochs=8),
    "tiny": SequenceConfig(size=8, n_networks=2, n_decays=2, n_heads=2, max_epochs=2),
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Return hyper-parameters drawn from the search space."""
    return {
        "size": trial.suggest_categorical("size", [64, 128, 256]),
        "n_decays": trial.suggest_categorical("n_decays", [1, 2, 4, 8]),
        "n_layers": trial.suggest_int("n_layers", 0, 2),
        "temperature": trial.suggest_float("temperature", 0.05, 0.2, log=True),
        "popularity_exponent": trial.suggest_float("popularity_exponent", 0.0, 0.6),
        "event_dropout": trial.suggest_float("event_dropout", 0.0, 0.6),
        "dropout": trial.suggest_float("dropout", 0.1, 0.6),
        "learning_rate": trial.suggest_float("learning_rate", 2e-3, 2e-2, log=True),
    }
