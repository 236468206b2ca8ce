"""Hyper-parameters of `polyphony_rnn`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import Field, model_validator

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


class PolyphonyConfig(Hyperparameters):
    """Hyper-parameters of a training of `polyphony_rnn`."""

    units: int = Field(64, ge=1, le=1_024, description="Features that each pitch sees of its surroundings.")
    hidden: int = Field(64, ge=1, le=1_024, description="Hidden units of the recurrent layer at each pitch.")
    reach: int = Field(16, ge=0, le=87, description="Semitones above and below that a pitch sees.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout.")
    width: int = Field(
        64,
        ge=0,
        le=1_024,
        description="Units of the decoder that samples the notes of a frame jointly; 0 samples them independently.",
    )
    joint_gradient: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the decoder's gradient that reaches the recurrent layer; with 0 it learns the likelihood "
        "of independent notes only, with 1 samples are better.",
    )
    hidden_conditions: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the excerpts that are learned without their key, style, metre, ending, density, voices "
        "or repetitions (each).",
    )
    cadence_excerpts: int = Field(
        2,
        ge=0,
        le=100,
        description="Excerpts of each piece, from a bar line to a cadence, that are learned as pieces of their own.",
    )
    style_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How often excerpts of rare styles are learned: 0 as often as others, 1 all styles equally often.",
    )
    temperature: float = Field(
        0.9, ge=0.01, le=100, description="Sampling temperature of joint frames where a request chooses none."
    )
    top_p: float = Field(0.98, gt=0, le=1, description="top_p of joint frames where a request chooses none.")
    guidance: float = Field(
        1.5,
        ge=0,
        le=10,
        description="How far joint frames are led away from those of unknown key and ending; 0 for not at all.",
    )
    ending_temperature: float = Field(
        0.5,
        ge=0.01,
        le=1,
        description="Factor of the temperature in the last bar of a piece that is asked to end.",
    )
    batch_size: int = Field(4, ge=1, le=4_096, description="Excerpts in a batch.")
    crop_frames: int = Field(
        200,
        ge=2,
        le=16_384,
        description="Maximum length of an excerpt in training, in frames; evaluation uses whole pieces.",
    )
    warmup_frames: int = Field(
        8,
        ge=0,
        le=16_384,
        description="Frames at the start of an excerpt from within a piece that do not count in the loss.",
    )
    transpose_down: int = Field(5, ge=0, le=87, description="Largest random transposition down, in semitones.")
    transpose_up: int = Field(6, ge=0, le=87, description="Largest random transposition up, in semitones.")
    learning_rate: float = Field(2e-3, gt=0, description="Maximum of the one-cycle learning rate.")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay of AdamW.")
    bfloat16: bool = Field(
        False, description="Train with products in bfloat16; 1.5 times as fast on processors that support it."
    )
    average_keeps: float = Field(0.99, ge=0, lt=1, description="Decay of the running average of the weights.")
    max_epochs: int = Field(40, ge=1, le=100_000, description="Maximum number of epochs; see also max_frames.")
    max_frames: int = Field(
        800_000,
        ge=1,
        le=10**12,
        description="Maximum number of frames in the whole training (at least one epoch), which bounds its time.",
    )
    epoch_frames: int = Field(
        1_000_000_000,
        ge=1,
        le=10**12,
        description="Frames of an epoch: of a larger data set, each epoch uses other excerpts, chosen at random. A "
        "training is saved after each epoch.",
    )
    piece_frames: int = Field(
        1_000_000,
        ge=1,
        le=10**9,
        description="Frames at the start of a piece that are trained on; evaluation uses whole pieces.",
    )
    valid_frames: int = Field(
        1_000_000_000,
        ge=1,
        le=10**12,
        description="Frames of the validation split that are evaluated after each epoch, in evenly chosen pieces.",
    )
    patience: int = Field(
        10, ge=1, le=100_000, description="Epochs without improvement on the validation split before training stops."
    )

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_frames >= self.crop_frames:
            raise ValueError(
                f"warmup_frames: expected less than crop_frames ({self.crop_frames}), got {self.warmup_frames}"
            )
        return self

    def n_epochs(self, n_frames: int) -> int:
        """Return the number of epochs on a training split of that many frames."""
        return max(1, min(self.max_epochs, round(self.max_frames / min(n_frames, self.epoch_frames))))

    def n_excerpts(self, n_excerpts: int, n_frames: int) -> int:
        """Return how many of the excerpts of a training split of that many frames are used in an epoch."""
        return max(1, round(n_excerpts * min(1.0, self.epoch_frames / n_frames)))


PRESETS: Final[Mapping[str, PolyphonyConfig]] = {
    "default": PolyphonyConfig(),
    # A first look, in less than a minute on one core.
    "demo": PolyphonyConfig(
        units=24,
        hidden=24,
        reach=12,
        width=32,
        joint_gradient=1.0,
        max_frames=80_000,
        piece_frames=256,
        cadence_excerpts=0,
        valid_frames=6_000,
        learning_rate=4e-3,
    ),
    # The weights in weights/: about 40 minutes on one core.
    "starter": PolyphonyConfig(
        joint_gradient=1.0,
        dropout=0.1,
        hidden_conditions=0.15,
        style_balance=0.5,
        learning_rate=3e-3,
        bfloat16=True,
        temperature=0.85,
        top_p=0.9,
        max_frames=3_000_000,
        epoch_frames=100_000,
        piece_frames=512,
        valid_frames=8_000,
    ),
    # For tests.
    "tiny": PolyphonyConfig(
        units=4, hidden=4, reach=2, width=8, crop_frames=48, batch_size=32, max_epochs=2, max_frames=2_000, dropout=0.0
    ),
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the size of the network and its regularisation."""
    return {
        "hidden": trial.suggest_categorical("hidden", [32, 48, 64, 96]),
        "reach": trial.suggest_int("reach", 7, 24),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1e-1, log=True),
    }
