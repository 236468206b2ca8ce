"""Hyper-parameters of `music_transformer`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import Field, model_validator

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


class TransformerConfig(Hyperparameters):
    """Hyper-parameters of a training of `music_transformer`."""

    width: int = Field(128, ge=4, le=4_096, description="Units of the frame decoder; a multiple of n_heads.")
    n_layers: int = Field(3, ge=1, le=64, description="Layers of the frame decoder.")
    n_heads: int = Field(4, ge=1, le=64, description="Attention heads of a layer.")
    window: int = Field(128, ge=1, le=4_096, description="Frames that a frame attends to, itself included.")
    n_copies: int = Field(
        4, ge=1, le=64, description="Copy-attention heads: they find similar frames and copy what followed."
    )
    copy_width: int = Field(16, ge=1, le=1_024, description="Units of a copy-attention head.")
    copy_window: int = Field(256, ge=2, le=4_096, description="Frames that copy attention searches.")
    note_width: int = Field(192, ge=4, le=4_096, description="Units of the note decoder.")
    n_channels: int = Field(16, ge=1, le=512, description="Features of each pitch of a frame.")
    reader_width: int = Field(64, ge=1, le=4_096, description="Units of the encoder of given notes ahead.")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout; null chooses it by the size of the training split (0.25 or 0.1)."
    )
    stretch_frames: int = Field(
        384, ge=64, le=16_384, description="Maximum length of a training segment of a piece, in frames."
    )
    most_stretches: int = Field(
        1, ge=1, le=1_000_000, description="Maximum number of segments of one piece in a pass over the data."
    )
    batch_frames: int = Field(512, ge=64, le=1_000_000, description="Frames in a batch, padding included.")
    epoch_frames: int = Field(
        100_000, ge=1, le=1_000_000_000, description="Frames in an epoch, regardless of the size of the data."
    )
    valid_frames: int = Field(
        1_000_000_000,
        ge=1,
        le=10**12,
        description="Frames of the validation split that are evaluated after each epoch, in evenly chosen pieces.",
    )
    max_epochs: int = Field(12, ge=1, le=100_000, description="Number of epochs of the one-cycle learning rate.")
    patience: int = Field(
        20, ge=1, le=100_000, description="Epochs without improvement on the validation split before training stops."
    )
    learning_rate: float = Field(1.5e-3, gt=0, le=1, description="Maximum of the one-cycle learning rate.")
    weight_decay: float = Field(5e-2, ge=0, lt=1, description="Weight decay of AdamW.")
    average_weight: float = Field(
        5e-3, gt=0, le=1, description="Weight of the newest weights in their running average, which is kept."
    )
    transpose: int = Field(1, ge=0, le=1, description="1 transposes each piece to a random key each time.")
    given_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Fraction of the segments trained on harmonising or infilling; only for data with onsets.",
    )
    unknown_share: float = Field(
        0.2, ge=0, le=1, description="Fraction of the segments without a style, and without a metre, as a condition."
    )

    temperature: float = Field(1.0, ge=0.01, le=100, description="Sampling temperature of requests that set none.")
    top_p: float = Field(1.0, gt=0, le=1, description="top_p of requests that set none.")
    ending_weight: float = Field(
        1.0, ge=1, le=100, description="Weight in the loss of the last 16 frames of pieces whose end is a condition."
    )
    style_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How often a pass has the pieces of rare styles: 0 once, 1 as many as of the most frequent style.",
    )

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.n_heads:
            raise ValueError(f"width: expected a multiple of n_heads ({self.n_heads}), got {self.width}")
        return self

    def fitted_to(self, n_frames: int) -> TransformerConfig:
        """Return a copy with the dropout for a training split of that many frames, if none is set."""
        if self.dropout is not None:
            return self
        return self.changed(dropout=_DROPOUT_OF_SMALL_DATA if n_frames < _SMALL_DATA_FRAMES else _DROPOUT)


_SMALL_DATA_FRAMES: Final = 50_000
_DROPOUT_OF_SMALL_DATA: Final = 0.25
_DROPOUT: Final = 0.1
_NETWORK: Final = (
    "width", "n_layers", "n_heads", "window", "n_copies", "copy_width", "copy_window", "note_width", "n_channels",
    "reader_width", "dropout",
)  # fmt: skip
_DEFAULT: Final = TransformerConfig()

PRESETS: Final[Mapping[str, TransformerConfig]] = {
    "default": _DEFAULT,
    # For demonstrations: trained in less than two minutes on one core.
    "demo": _DEFAULT.changed(n_layers=2, epoch_frames=40_000, valid_frames=12_000, max_epochs=3, learning_rate=2e-3
    ),
    # The weights in weights/: about an hour and a half on one core.
    "starter": _DEFAULT.changed(
        epoch_frames=500_000, valid_frames=40_000, max_epochs=24, batch_frames=1024, dropout=0.1, style_balance=0.8,
        given_share=0.4, unknown_share=0.1, ending_weight=4.0, learning_rate=2e-3,
        temperature=0.95, top_p=0.98,
    ),
    # For tests.
    "tiny": TransformerConfig(
        width=16, n_layers=1, n_heads=2, window=8, n_copies=1, copy_width=4, copy_window=128, note_width=16,
        n_channels=4, reader_width=8, stretch_frames=64, batch_frames=512, epoch_frames=2_000, max_epochs=2,
    ),
}  # fmt: skip


def network_arguments(config: TransformerConfig) -> dict[str, Any]:
    """Return the arguments of the network."""
    arguments = {name: getattr(config, name) for name in _NETWORK}
    return {**arguments, "dropout": _DROPOUT if config.dropout is None else config.dropout}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Return the hyper-parameters of a trial: those that matter most for small data sets."""
    return {
        "dropout": trial.suggest_float("dropout", 0.05, 0.4),
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 2e-1, log=True),
        "batch_frames": trial.suggest_categorical("batch_frames", [512, 1024, 2048]),
        "width": trial.suggest_categorical("width", [96, 128, 192]),
        "n_layers": trial.suggest_int("n_layers", 2, 4),
        "note_width": trial.suggest_categorical("note_width", [128, 192, 256]),
        "n_channels": trial.suggest_categorical("n_channels", [8, 16, 24]),
    }
