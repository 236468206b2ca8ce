"""Training step of `polyphony_rnn`: likelihood, optimiser, a running average of the weights.

Shapes: B excerpts, T frames.
"""

from __future__ import annotations

import copy
from typing import Any

import lightning
import torch
from torch import Tensor

from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.dataset import Batch
from tritone_training.kinds.polyphony_rnn.features import SOUNDING
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameDecoder
from tritone_training.kinds.polyphony_rnn.network import PolyphonyNetwork, frame_nll
from tritone_training.processes import loss_weight

MONITOR = "valid_nll_per_frame"


class PolyphonyModule(lightning.LightningModule):
    """Trains a PolyphonyNetwork; `averaged`, the running mean of its weights, is validated and kept."""

    def __init__(self, network: PolyphonyNetwork, config: PolyphonyConfig) -> None:
        super().__init__()
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self.config = config
        self._n_averaged = 0
        self._valid = (0.0, 0.0, 0.0)  # nats, nats of joint frames, frames

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the mean nats per frame of one batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            return self._loss(batch)

    def _loss(self, batch: Batch) -> Tensor:
        hidden, seen = self.network.hidden_states(batch.pitch, batch.frame)
        n_frames = batch.counts.sum().clamp_min(1)
        nll = frame_nll(self.network.readout(hidden, seen).float(), batch.notes)  # (B, T)
        weight = loss_weight(n_frames)
        loss = (nll * batch.counts).sum() / n_frames * weight
        self.log("train_nll_per_frame", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        if self.network.decoder is not None:
            share = self.config.joint_gradient
            notes, strikes = joint_nll(
                self.network.decoder, batch, *(share * part + (1 - share) * part.detach() for part in (hidden, seen))
            )
            joint = ((notes + strikes) * batch.counts).sum() / n_frames * weight
            self.log("train_joint_nll_per_frame", joint, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            loss = loss + joint
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the average."""
        checkpoint["n_averaged"] = self._n_averaged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the average of an interrupted training."""
        self._n_averaged = checkpoint["n_averaged"]

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average: a plain mean at first, an exponential one later."""
        self._n_averaged += 1
        keeps = min(self.config.average_keeps, (1 + self._n_averaged) / (10 + self._n_averaged))
        with torch.no_grad():
            for ours, theirs in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                ours.lerp_(theirs, 1 - keeps)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self.averaged.eval()
        self._valid = (0.0, 0.0, 0.0)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Evaluate whole pieces; the loader adds an axis before that of the batch."""
        whole = Batch(*(part[0] for part in batch))
        hidden, seen = self.averaged.hidden_states(whole.pitch, whole.frame)
        nll = frame_nll(self.averaged.readout(hidden, seen), whole.notes) * whole.counts
        nats, joint, n_frames = self._valid
        if self.averaged.decoder is not None:
            of_notes, _of_strikes = joint_nll(self.averaged.decoder, whole, hidden, seen)
            joint += float((of_notes * whole.counts).sum())
        self._valid = (nats + float(nll.sum()), joint, n_frames + float(whole.counts.sum()))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all frames of the split, as `evaluate` computes them."""
        nats, joint, n_frames = self._valid
        self.log(MONITOR, nats / n_frames, prog_bar=True, sync_dist=True)
        if self.averaged.decoder is not None:
            self.log("valid_joint_nll_per_frame", joint / n_frames, prog_bar=True, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of the decoder by itself, so that it has no influence on the rest of the network."""
        decoder = self.network.decoder
        ours = [] if decoder is None else list(decoder.parameters())
        theirs = [p for p in self.network.parameters() if all(p is not each for each in ours)]
        for group in (theirs, ours):
            if group and gradient_clip_val is not None:
                torch.nn.utils.clip_grad_norm_(group, float(gradient_clip_val))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (Smith 2018, arXiv:1708.07120); only matrices decay."""
        parameters = list(self.network.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.99),
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=max(int(self.trainer.estimated_stepping_batches), 10),
            pct_start=0.15,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def joint_nll(decoder: FrameDecoder, batch: Batch, hidden: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of the notes of each frame, and of what is struck again: (B, T) each.

    Args:
        hidden: (B, T, 88, H) of the recurrent layer.
        seen: (B, T, 88, M) its input.
    """
    base = decoder.base(
        hidden.flatten(0, 1), seen.flatten(0, 1), batch.history.flatten(0, 1), batch.conditions.flatten(0, 1)
    )
    before = batch.pitch[:, :, SOUNDING].flatten(0, 1)
    nll = decoder.nll(base, batch.notes.flatten(0, 1), batch.struck.flatten(0, 1), before)
    notes, strikes = (part.reshape(batch.counts.shape) for part in nll)
    return notes, strikes
