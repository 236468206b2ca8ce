"""Training and validation steps of `taste_sequence`: the next item of each event, by sampled softmax.

Shapes: B histories, L events, P events with a target, N negatives, T items, D size.
"""

from __future__ import annotations

import math
from typing import Any, Final

import lightning
import torch
from torch import Tensor
from torch.nn import functional

from tritone_training.kinds.taste_sequence.config import SequenceConfig
from tritone_training.kinds.taste_sequence.dataset import EvaluationBatch, TrainingBatch
from tritone_training.kinds.taste_sequence.network import (
    EnsembleMember,
    SequenceLearner,
    SequenceNetwork,
    next_item_loss,
)
from tritone_training.processes import loss_weight

MONITOR: Final = "valid_one_minus_ndcg@10"
_K: Final = 10


class SequenceModule(lightning.LightningModule):
    """Trains a SequenceLearner; validation ranks all items that are not in the history.

    Args:
        learner: the model.
        config: hyper-parameters.
        listeners: (T,) number of listeners of each item, by which negatives are drawn.
        n_steps: length of the learning rate's schedule in steps; that of the training if None.
    """

    def __init__(
        self, learner: SequenceLearner, config: SequenceConfig, listeners: Tensor, n_steps: int | None = None
    ) -> None:
        super().__init__()
        self.learner = learner
        self.config = config
        self.n_steps = n_steps
        weights = (listeners.float() + 0.5) ** config.negative_power
        self.register_buffer("chances", weights / weights.sum(), persistent=False)
        self._gains: list[float] = []
        self._served: tuple[SequenceNetwork, ...] = ()

    def training_step(self, batch: TrainingBatch, _: int) -> Tensor:
        """Return the mean over members of the loss of predicting the next item of each event."""
        own_items = self._own_items(batch)
        losses = torch.stack([self._loss_of(member, batch, own_items) for member in self.learner.typed_members])
        self.log("train_loss", losses.mean(), prog_bar=True, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return losses.sum()  # not the mean: each member is trained as if it were alone

    def _loss_of(self, member: EnsembleMember, batch: TrainingBatch, own_items: Tensor) -> Tensor:
        """Return the loss of a member; some events are hidden from later ones, different ones for each member."""
        vectors, output_vectors = member.vectors(self.config.item_dropout)
        output_vectors = output_vectors / member.temperature
        known = (batch.items >= 0) & (torch.rand_like(batch.gaps) >= self.config.event_dropout)
        embeddings = member.encoder(
            member.history(vectors, batch.items, batch.gaps, batch.skipped * known, known)
        )  # (B, L, D)
        queried = ((batch.targets >= 0) | (batch.avoided >= 0)) & (known.cumsum(1) > 0)
        embedding, targets, avoided = (
            embeddings[queried],
            batch.targets[queried],
            batch.avoided[queried],
        )  # (P, D), (P,), (P,)
        rows = torch.arange(len(queried), device=self.device).unsqueeze(1).expand_as(queried)[queried]
        negatives, correction = self._negatives()
        logits = embedding @ output_vectors[negatives].T - correction  # (P, N)
        logits = logits.masked_fill(own_items[:, negatives][rows], -math.inf)
        loss = next_item_loss(
            (embedding * output_vectors[targets.clamp_min(0)]).sum(1),
            logits,
            (embedding * output_vectors[avoided.clamp_min(0)]).sum(1).masked_fill(avoided < 0, -math.inf),
            targets >= 0,
            self.config.skip_loss,
        )
        return loss * loss_weight((targets >= 0).sum().clamp_min(1))

    def _negatives(self) -> tuple[Tensor, Tensor]:
        """Return the items that the batch's targets are compared with, and the logarithm of their expected counts."""
        chances = self.get_buffer("chances")
        n = self.config.n_negatives
        if len(chances) <= n:
            return torch.arange(len(chances), device=self.device), torch.zeros(len(chances), device=self.device)
        drawn = torch.multinomial(chances, n, replacement=True)
        return drawn, torch.log(chances[drawn] * n)

    def _own_items(self, batch: TrainingBatch) -> Tensor:
        """Return which items are in each history or are its targets (B, T); they are no negatives for it."""
        own = torch.zeros(len(batch.items), len(self.get_buffer("chances")) + 1, device=self.device, dtype=torch.bool)
        for part in (batch.items, batch.targets, batch.avoided):
            own.scatter_(1, torch.where(part >= 0, part, own.shape[1] - 1), True)
        return own[:, :-1]

    def on_validation_epoch_start(self) -> None:
        """Reset the metric and build the served network from the current weights."""
        self._gains = []
        self._served = (self.learner.network(),)  # in a tuple, so that it is not registered as a submodule

    def validation_step(self, query: EvaluationBatch, _: int) -> None:
        """Compute NDCG@10 of the held-out items; the loader adds a leading axis of 1."""
        items, ages, skipped, targets, _users = (part[0] for part in query)
        scores = self._served[0](items, ages, skipped)[0]
        target = scores.gather(1, targets.unsqueeze(1))
        scores = functional.pad(scores, (0, 1))  # a column for padding and skipped items
        scores.scatter_(1, torch.where((items >= 0) & (skipped == 0), items, scores.shape[1] - 1), -math.inf)
        scores = scores[:, :-1]
        rank = (scores > target).sum(1)
        self._gains += torch.where(rank < _K, 1 / torch.log2(rank + 2.0), torch.zeros(())).tolist()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over users."""
        self.log(MONITOR, 1 - sum(self._gains) / len(self._gains), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a learning rate that decays along half a cosine."""
        optimizer = torch.optim.AdamW(
            self.learner.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        n_steps = max(1, self.n_steps or int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps, self.config.learning_rate / 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
