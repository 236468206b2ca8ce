"""Training steps of `music_vae`: evidence lower bound of spans and edited spans; likelihood of the flow.

Shapes: B batch, N = 32 time steps, V = 4 voices, K = 90 values, Z latent, A = 3 attributes.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import lightning
import torch
from torch import Tensor, nn

from tritone_training.bars.attribute_edits import attributes_of, edited
from tritone_training.bars.autoencoder import AMOUNTS, MusicVae
from tritone_training.bars.latent_flow import LatentFlow, negative_log_likelihood
from tritone_training.bars.spans import level_of, to_relative, transposed
from tritone_training.kinds.music_vae.config import VaeConfig
from tritone_training.musicality import ATTRIBUTES
from tritone_training.processes import global_mean

MONITOR: Final = "valid_loss"
PRIOR_MONITOR: Final = "valid_prior_nats"
TRANSPOSITIONS: Final = (-6, 6)  # semitones, the upper end excluded: every key once
_SHARE_TO_EDITED: Final = 0.5  # of the edited spans, those in which the edited copy is written, not the real span
_SHARE_OF_ALL_ATTRIBUTES: Final = 0.3  # of the edited spans, those for which the changes of all attributes are given
_LOSS_SCALE: Final = 1 / 32  # nats a time step: gradients of a size that the clipping of `fitting` leaves alone


class VaeModule(lightning.LightningModule):
    """Trains a MusicVae; `averaged`, the running mean of its weights, is validated and kept.

    Args:
        deviation: (A,) of the attributes over the training set.
    """

    def __init__(self, network: MusicVae, config: VaeConfig, deviation: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("deviation", deviation.float())
        self.deviation: Tensor
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.config = config

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss of one batch of spans, each in a random key."""
        (voices,) = batch
        semitones = torch.randint(*TRANSPOSITIONS, (len(voices),), device=voices.device)
        voices = transposed(voices, semitones)
        given, target, attributes = self._with_edits(voices)
        hidden_steps = torch.rand(voices.shape[:2], device=voices.device) < self.config.word_dropout
        reconstruction, divergence = elbo_parts(
            self.network, given, target=target, attributes=attributes, hidden_steps=hidden_steps
        )
        paid = global_mean(divergence.mean(0)).clamp_min(self.config.free_nats).sum()
        loss = reconstruction.mean() + self._beta() * paid
        self.log("train_reconstruction_nats", reconstruction.mean(), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train_kl_nats", divergence.sum(1).mean(), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss * _LOSS_SCALE

    def _with_edits(self, voices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return spans to encode, spans to decode, (B, N, V) each, and the change of attributes between them (B, A).

        In most edited spans only the change of one attribute is given: the others change as they usually do with it.
        """
        n_edited = round(self.config.edit_share * len(voices))
        attributes = torch.zeros(len(voices), len(ATTRIBUTES), device=voices.device)
        if not n_edited:
            return voices, voices, attributes
        original = voices[:n_edited]
        changed, attribute = edited(original)
        to_changed = torch.rand(n_edited, device=voices.device) < _SHARE_TO_EDITED
        given = torch.where(to_changed[:, None, None], original, changed)
        target = torch.where(to_changed[:, None, None], changed, original)
        difference = (attributes_of(target) - attributes_of(given)) / self.deviation
        shown = torch.rand(n_edited, 1, device=voices.device) < _SHARE_OF_ALL_ATTRIBUTES
        shown = shown | (attribute[:, None] == torch.arange(len(ATTRIBUTES), device=voices.device))
        attributes[:n_edited] = torch.where(shown, difference, 0.0).clamp(AMOUNTS[0], AMOUNTS[-1])
        rest = voices[n_edited:]
        return torch.cat([given, rest]), torch.cat([target, rest]), attributes

    def _beta(self) -> float:
        """Return the weight of the divergence, which grows from 0 (annealing: Bowman et al. 2016)."""
        n_warmup = self.config.warmup * float(self.trainer.estimated_stepping_batches)
        return self.config.beta * min(1.0, (self.global_step + 1) / max(n_warmup, 1.0))

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average."""
        _update_average(self.averaged, self.network, self.global_step, self.config.average_decay)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the bound of the averaged network, with the full weight of the divergence."""
        (voices,) = batch
        self.averaged.eval()
        reconstruction, divergence = elbo_parts(self.averaged, voices)
        loss = reconstruction.mean() + self.config.beta * divergence.sum(1).mean()
        self.log(MONITOR, loss, prog_bar=True, sync_dist=True, batch_size=len(voices))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        return _one_cycle(self, self.network, self.config.learning_rate, self.config.weight_decay)


class PriorModule(lightning.LightningModule):
    """Trains the flow of a MusicVae on draws of posteriors; `averaged`, the running mean of its weights, is kept."""

    def __init__(self, flow: LatentFlow, config: VaeConfig) -> None:
        super().__init__()
        self.flow = flow
        self.averaged = copy.deepcopy(flow).requires_grad_(False)
        self.config = config

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the negative log-likelihood of one draw of each posterior."""
        mean, deviation = batch
        loss = negative_log_likelihood(self.flow, mean + deviation * torch.randn_like(mean)).mean()
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss * _LOSS_SCALE

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average."""
        _update_average(self.averaged, self.flow, self.global_step, self.config.average_decay)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the negative log-likelihood of held-out latent vectors, which are drawn once."""
        (latent,) = batch
        self.averaged.eval()
        loss = negative_log_likelihood(self.averaged, latent).mean()
        self.log(PRIOR_MONITOR, loss, prog_bar=True, sync_dist=True, batch_size=len(latent))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        return _one_cycle(self, self.flow, self.config.prior_learning_rate, self.config.weight_decay)


def _update_average(averaged: nn.Module, network: nn.Module, n_steps: int, average_decay: float) -> None:
    """Update a running average, faster at first, so that it is not dominated by the initial weights."""
    decay = min(average_decay, n_steps / (n_steps + 9))
    for ours, theirs in zip(averaged.parameters(), network.parameters(), strict=True):
        ours.lerp_(theirs.detach(), 1 - decay)


def _one_cycle(
    module: lightning.LightningModule, network: nn.Module, learning_rate: float, weight_decay: float
) -> dict[str, Any]:
    """Return AdamW with one cycle of the learning rate (Smith 2018, arXiv:1708.07120)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=learning_rate,
        total_steps=max(int(module.trainer.estimated_stepping_batches), 20),
        pct_start=0.1,
        cycle_momentum=False,
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def elbo_parts(
    network: MusicVae,
    voices: Tensor,
    *,
    target: Tensor | None = None,
    attributes: Tensor | None = None,
    hidden_steps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the two parts of the evidence lower bound of each span, for one draw of the latent.

    Other levels with other distances would give the same notes, so this bounds the likelihood from below twice. The
    prior is normal in the space of the decoder, as in training; `LatentFlow` is a better one.

    Args:
        voices: (B, N, V).
        target: (B, N, V) that the decoder has to write; None for `voices`.
        attributes: (B, A) change of the attributes from `voices` to `target`, in standard deviations.
        hidden_steps: (B, N) bool, see `SpanDecoder.logits`.

    Returns:
        reconstruction in nats (B,), divergence from the prior in nats (B, Z).
    """
    mean, log_variance = network.encoder(voices)
    latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
    level = level_of(voices)
    relative = to_relative(voices if target is None else target, level)
    logits = network.decoder.logits(latent, relative, attributes=attributes, hidden_steps=hidden_steps)
    nats = nn.functional.cross_entropy(logits.flatten(0, 2), relative.flatten(), reduction="none")
    level_nats = nn.functional.cross_entropy(network.decoder.level_logits(latent), level, reduction="none")
    divergence = 0.5 * (mean * mean + torch.exp(log_variance) - 1 - log_variance)
    return nats.view(len(voices), -1).sum(1) + level_nats, divergence
