"""Training and validation steps of `taste_vae`: denoising of histories, with annealing of the KL divergence.

Shapes: B listeners, L items of the longest history, T items.
"""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from tritone_training.kinds.taste_vae.config import TasteConfig
from tritone_training.kinds.taste_vae.dataset import Batch
from tritone_training.kinds.taste_vae.network import TasteLearner, TasteNetwork, elbo_loss
from tritone_training.processes import loss_weight

MONITOR = "valid_one_minus_ndcg@40"
_K = 40


class TasteModule(lightning.LightningModule):
    """Trains a TasteLearner; validation ranks all items that are not in the history."""

    def __init__(self, learner: TasteLearner, config: TasteConfig) -> None:
        super().__init__()
        self.learner = learner
        self.config = config
        self._gains: list[float] = []
        self._served: tuple[TasteNetwork, ...] = ()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of predicting items of each history that were hidden from the encoder."""
        kept = (torch.rand_like(batch.weights) >= self.config.dropout) & (batch.weights > 0)
        vectors = self.learner.vectors()
        mean, log_variance = self.learner.code(vectors, batch.items, batch.weights * kept)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        logits = self.learner.logits(vectors, code)
        targets = torch.zeros_like(logits).scatter_add_(1, batch.items, batch.weights * ~kept)
        is_input = torch.zeros_like(logits).scatter_add_(1, batch.items, kept.float()) > 0
        n_steps = max(1, int(self.trainer.estimated_stepping_batches) // 3)
        beta = self.config.beta * min(1.0, self.global_step / n_steps)
        loss = elbo_loss(logits.masked_fill(is_input, -math.inf), targets, mean, log_variance, beta)
        loss = loss * loss_weight(len(mean))
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Reset the metric and build the served network from the current weights."""
        self._gains = []
        self._served = (self.learner.network(),)  # in a tuple, so that it is not registered as a submodule

    def validation_step(self, batch: Batch, _: int) -> None:
        """Compute NDCG@40 of the held-out items; the loader adds a leading axis of 1."""
        items, weights, held_out = (part[0] for part in batch)
        scores = self._served[0](items, weights)[0]
        scores.scatter_(1, torch.where(weights > 0, items, items[:, :1]), -math.inf)
        best = scores.topk(min(_K, scores.shape[1])).indices  # (B, K)
        hits = (best.unsqueeze(2) == held_out.unsqueeze(1)).any(2).float()
        discounts = 1 / torch.log2(torch.arange(2, 2 + best.shape[1], device=best.device))
        n_ideal = (held_out >= 0).sum(1).clamp_max(best.shape[1])
        ideal = discounts.cumsum(0)[n_ideal - 1]
        self._gains += ((hits * discounts).sum(1) / ideal).tolist()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over users."""
        self.log(MONITOR, 1 - sum(self._gains) / len(self._gains), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a learning rate that decays along half a cosine."""
        optimizer = torch.optim.AdamW(
            self.learner.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        n_steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps, self.config.learning_rate / 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
