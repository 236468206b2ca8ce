"""Hyper-parameters of `music_transformer`: presets and the space that `tritone tune` searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

from tritone_training.exceptions import TrainingError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class TransformerConfig:
    """What a training run is made of.

    Attributes:
        width: of the frame decoder.
        window: frames that a frame attends to, itself included.
        n_copies: heads that look for moments like the present one and show what stood there.
        copy_width: of each such head.
        copy_window: frames that they search.
        note_width: of the note level.
        n_channels: features of each pitch of a frame.
        reader_width: of what reads the given frames to come.
        dropout: None: by the amount of data, see `fitted_to`.
        stretch_frames: longest part of a piece that is trained on at once.
        most_stretches: of one piece in a pass over the data; so that a few long pieces do not outweigh the others.
        batch_frames: of a batch, padding included.
        epoch_frames: of an epoch, however many times the data that is; so training takes the same time on any data.
        valid_frames: of a larger validation portion only evenly chosen pieces with so many frames are looked at.
        max_epochs: whole length of the learning rate's cycle.
        patience: epochs without improvement on the validation part before training stops.
        average_weight: share of the newest weights in their running average.
        transpose: 1: every piece in a random key each time; 0: as it is.
        given_share: of the segments, how many are to be harmonised or filled in rather than composed; none in a set
            without onsets, which is there for likelihoods.
        unknown_share: of the segments, how many do not tell their style, and how many not their meter.
    """

    width: int = 128
    n_layers: int = 3
    n_heads: int = 4
    window: int = 128
    n_copies: int = 4
    copy_width: int = 16
    copy_window: int = 256
    note_width: int = 192
    n_channels: int = 16
    reader_width: int = 64
    dropout: float | None = None
    stretch_frames: int = 384
    most_stretches: int = 1
    batch_frames: int = 512
    epoch_frames: int = 100_000
    valid_frames: int = 1_000_000_000
    max_epochs: int = 12
    patience: int = 20
    learning_rate: float = 1.5e-3
    weight_decay: float = 5e-2
    average_weight: float = 5e-3
    transpose: int = 1
    given_share: float = 0.5
    unknown_share: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "dropout" and value is None:
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
        for name in ("dropout", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise TrainingError(f"{name} is {value}; it must be from 0 up to, not including, 1")
        for name in ("given_share", "unknown_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("learning_rate", "average_weight"):
            if not 0 < getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1")
        if self.width % self.n_heads:
            raise TrainingError(f"width is {self.width} and n_heads {self.n_heads}; heads must share the width evenly")

    def fitted_to(self, n_frames: int) -> TransformerConfig:
        """The configuration for a training set of that many frames: what is seen often wants more dropout."""
        if self.dropout is not None:
            return self
        return replace(self, dropout=_DROPOUT_OF_FEW if n_frames < _FEW_FRAMES else _DROPOUT)


_FEW_FRAMES: Final = 50_000
_DROPOUT_OF_FEW: Final = 0.25
_DROPOUT: Final = 0.1
# Smallest and largest; the largest keep a slip of the hand from asking for terabytes.
_WHOLE: Final = {
    "width": (4, 4_096),
    "n_layers": (1, 64),
    "n_heads": (1, 64),
    "window": (1, 4_096),
    "n_copies": (1, 64),
    "copy_width": (1, 1_024),
    "copy_window": (2, 4_096),
    "note_width": (4, 4_096),
    "n_channels": (1, 512),
    "reader_width": (1, 4_096),
    "stretch_frames": (64, 16_384),
    "most_stretches": (1, 1_000_000),
    "batch_frames": (64, 1_000_000),
    "epoch_frames": (1, 1_000_000_000),
    "valid_frames": (1, 10**12),
    "max_epochs": (1, 100_000),
    "patience": (1, 100_000),
    "transpose": (0, 1),
}
_NETWORK: Final = (
    "width", "n_layers", "n_heads", "window", "n_copies", "copy_width", "copy_window", "note_width", "n_channels",
    "reader_width", "dropout",
)  # fmt: skip

_DEFAULT: Final = TransformerConfig()

PRESETS: Final[Mapping[str, TransformerConfig]] = {
    "default": _DEFAULT,
    # Something to listen to, in less than two minutes on one core.
    "demo": replace(
        _DEFAULT, n_layers=2, epoch_frames=40_000, valid_frames=12_000, max_epochs=3, learning_rate=2e-3
    ),
    # For tests.
    "tiny": TransformerConfig(
        width=16, n_layers=1, n_heads=2, window=8, n_copies=1, copy_width=4, copy_window=12, note_width=16,
        n_channels=4, reader_width=8, stretch_frames=64, batch_frames=512, epoch_frames=2_000, max_epochs=2,
    ),
}  # fmt: skip


def build_config(preset: str, *, overrides: Mapping[str, Any]) -> TransformerConfig:
    """Start from a preset and replace single values.

    Raises:
        TrainingError: no such preset or field, or a value out of range.
    """
    if preset not in PRESETS:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = set(overrides) - {field.name for field in fields(TransformerConfig)}
    if unknown:
        known = ", ".join(field.name for field in fields(TransformerConfig))
        raise TrainingError(f"no hyper-parameter {', '.join(sorted(unknown))}; there are: {known}")
    return replace(PRESETS[preset], **overrides)


def network_arguments(config: TransformerConfig) -> dict[str, Any]:
    """The part of a configuration that the network is built from."""
    arguments = {name: getattr(config, name) for name in _NETWORK}
    return {**arguments, "dropout": _DROPOUT if config.dropout is None else config.dropout}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The search space: what matters most when pieces are few."""
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


def to_dict(config: TransformerConfig) -> dict[str, Any]:
    """For the checkpoint."""
    return asdict(config)
