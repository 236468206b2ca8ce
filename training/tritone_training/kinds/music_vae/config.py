"""Hyper-parameters of `music_vae`: presets, and the search space of `tritone tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from tritone_training.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import optuna


class VaeConfig(Hyperparameters):
    """Hyper-parameters of a training of `music_vae`."""

    width: int = Field(128, ge=1, le=4_096, description="Units for a quarter note of a voice, in encoder and decoder.")
    step_width: int = Field(48, ge=1, le=4_096, description="Units for a time step of a voice.")
    n_hidden: int = Field(128, ge=1, le=8_192, description="Hidden units of the decoder's GRU.")
    embedding_width: int = Field(
        24, ge=1, le=1_024, description="Size of the embedding of a voice's previous step, an input of the GRU."
    )
    head_width: int = Field(96, ge=1, le=4_096, description="Units of the last layer of each voice.")
    batch_size: int = Field(64, ge=2, le=65_536, description="Spans in a batch.")
    spans_per_epoch: int = Field(8192, ge=2, le=10_000_000, description="Spans drawn between two evaluations.")
    max_epochs: int = Field(24, ge=1, le=100_000, description="Maximum number of epochs.")
    patience: int = Field(24, ge=1, le=100_000, description="Epochs without improvement before training stops.")
    learning_rate: float = Field(3e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(1e-3, ge=0, description="Weight decay of AdamW.")
    beta: float = Field(
        0.25,
        ge=0,
        description="Weight of the divergence from the prior (Higgins et al. 2017); below 1 favours reconstruction.",
    )
    free_nats: float = Field(
        0.0,
        ge=0,
        description="Divergence of one latent dimension, averaged over a batch, that is not penalised "
        "(Kingma et al. 2016, arXiv:1606.04934).",
    )
    warmup: float = Field(0.2, ge=0, lt=1, description="Fraction of the training over which beta grows from 0.")
    word_dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Fraction of the steps at which the decoder's previous output is hidden from it "
        "(Bowman et al. 2016, arXiv:1511.06349).",
    )
    edit_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Fraction of the spans of a batch that come with an edited copy, from which the decoder learns to "
        "change attributes.",
    )
    prior_width: int = Field(
        192, ge=1, le=8_192, description="Units of a coupling of the flow between latent vectors and normal ones."
    )
    n_couplings: int = Field(8, ge=0, le=64, description="Couplings of the flow; 0 leaves principal components.")
    prior_epochs: int = Field(12, ge=1, le=100_000, description="Epochs of the flow, after those of the autoencoder.")
    prior_steps: int = Field(256, ge=1, le=1_000_000, description="Training steps of the flow in an epoch.")
    prior_learning_rate: float = Field(1e-3, gt=0, le=1, description="Learning rate of the flow.")
    prior_temperature: float = Field(
        0.7,
        gt=0,
        le=2,
        description="Deviation of the samples from nothing, in that of the training music; lower is more typical "
        "(Kingma & Dhariwal 2018, arXiv:1807.03039).",
    )
    style_balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="0 draws all spans equally often, 1 all styles; a style of n spans has weight n ** (1 - balance).",
    )
    average_decay: float = Field(
        0.995, ge=0, lt=1, description="Decay of the running average of the weights, which is kept."
    )


PRESETS: Final[Mapping[str, VaeConfig]] = {
    "default": VaeConfig(),
    # Still musical, in two or three minutes on one core.
    "demo": VaeConfig(
        width=96,
        n_hidden=96,
        head_width=64,
        max_epochs=6,
        spans_per_epoch=4096,
        beta=0.05,
        edit_share=0.25,
        prior_width=96,
        n_couplings=4,
        prior_epochs=4,
        prior_steps=64,
    ),
    # The starter weights: some 25 minutes on one core. A low beta, because the flow is the prior of samples.
    "starter": VaeConfig(
        beta=0.1, max_epochs=32, patience=32, spans_per_epoch=16_384, prior_epochs=16, prior_steps=512
    ),
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
        prior_width=16,
        n_couplings=2,
        prior_epochs=1,
        prior_steps=4,
    ),
}


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Draw the weight of the divergence and the learning rate."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-4, 3e-3, log=True),
        "beta": trial.suggest_float("beta", 0.05, 0.5, log=True),
        "word_dropout": trial.suggest_float("word_dropout", 0.2, 0.8),
    }
