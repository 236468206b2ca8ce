"""Training step of `music_vae`: evidence lower bound, transposition, word dropout, running average of the weights.

Shapes: B batch, N = 32 time steps, V = 4 voices, K = 90 values, Z latent.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import lightning
import torch
from torch import Tensor, nn

from tritone_training.bars.autoencoder import MusicVae
from tritone_training.bars.spans import level_of, to_relative, transposed
from tritone_training.kinds.music_vae.config import VaeConfig

MONITOR: Final = "valid_loss"
TRANSPOSITIONS: Final = (-6, 6)  # semitones, the upper end excluded: every key once
_LOSS_SCALE: Final = 1 / 32  # nats a time step: gradients of a size that the clipping of `fitting` leaves alone


class VaeModule(lightning.LightningModule):
    """Trains a MusicVae; `averaged`, the running mean of its weights, is validated and kept."""

    def __init__(self, network: MusicVae, config: VaeConfig) -> None:
        super().__init__()
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.config = config

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss of one batch of spans, each in a random key."""
        (voices,) = batch
        semitones = torch.randint(*TRANSPOSITIONS, (len(voices),), device=voices.device)
        voices = transposed(voices, semitones)
        hidden_steps = torch.rand(voices.shape[:2], device=voices.device) < self.config.word_dropout
        reconstruction, divergence = elbo_parts(self.network, voices, hidden_steps=hidden_steps)
        paid = divergence.mean(0).clamp_min(self.config.free_nats).sum()
        loss = reconstruction.mean() + self._beta() * paid
        self.log("train_reconstruction_nats", reconstruction.mean(), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train_kl_nats", divergence.sum(1).mean(), on_step=False, on_epoch=True, sync_dist=True)
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss * _LOSS_SCALE

    def _beta(self) -> float:
        """Return the weight of the divergence, which grows from 0 (annealing: Bowman et al. 2016)."""
        n_warmup = self.config.warmup * float(self.trainer.estimated_stepping_batches)
        return self.config.beta * min(1.0, (self.global_step + 1) / max(n_warmup, 1.0))

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average, faster at first, so that it is not dominated by the initial weights."""
        n_steps = self.global_step
        decay = min(self.config.average_decay, n_steps / (n_steps + 9))
        for ours, theirs in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Log the bound of the averaged network, with the full weight of the divergence."""
        (voices,) = batch
        self.averaged.eval()
        reconstruction, divergence = elbo_parts(self.averaged, voices)
        loss = reconstruction.mean() + self.config.beta * divergence.sum(1).mean()
        self.log(MONITOR, loss, prog_bar=True, sync_dist=True, batch_size=len(voices))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (Smith 2018, arXiv:1708.07120)."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            betas=(0.9, 0.98),
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=max(int(self.trainer.estimated_stepping_batches), 20),
            pct_start=0.1,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def elbo_parts(network: MusicVae, voices: Tensor, *, hidden_steps: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the two parts of the evidence lower bound of each span, for one draw of the latent.

    Other levels with other distances would give the same notes, so this bounds the likelihood from below twice.

    Args:
        voices: (B, N, V).
        hidden_steps: (B, N) bool, see `SpanDecoder.logits`.

    Returns:
        reconstruction in nats (B,), divergence from the prior in nats (B, Z).
    """
    mean, log_variance = network(voices)
    latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
    level = level_of(voices)
    relative = to_relative(voices, level)
    logits = network.decoder.logits(latent, relative, hidden_steps=hidden_steps)
    nats = nn.functional.cross_entropy(logits.flatten(0, 2), relative.flatten(), reduction="none")
    level_nats = nn.functional.cross_entropy(network.decoder.level_logits(latent), level, reduction="none")
    divergence = 0.5 * (mean * mean + torch.exp(log_variance) - 1 - log_variance)
    return nats.view(len(voices), -1).sum(1) + level_nats, divergence
