"""Training step of `music_transformer`: the likelihood of frames, optimiser, a running average of the weights.

Shapes: B segments, M frames that count.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import lightning
import torch
from torch import Tensor

from tritone_training.kinds.music_transformer.config import TransformerConfig
from tritone_training.kinds.music_transformer.dataset import Batch
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.processes import loss_weight

MONITOR: Final = "valid_nll"
_ENDING_FRAMES: Final = 16
_WARM_UP_STEPS: Final = 10  # of the average: at first it follows closely, or the random start would stay in it


class TransformerModule(lightning.LightningModule):
    """Trains a MusicTransformer; `averaged`, an exponential mean of its weights, is validated and kept."""

    def __init__(self, network: MusicTransformer, config: TransformerConfig) -> None:
        super().__init__()
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self.config = config
        self._n_steps = 0
        self._position: tuple[int, int] | None = None

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the mean nats of the frames that count, the last bar of an ending with its own weight."""
        nll, weight = frame_nll(self.network, batch), ending_weights(batch, self.config.ending_weight)
        loss = (nll * weight).sum() / weight.sum() * loss_weight(weight.sum())
        self.log("train_nll", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the average and the position in the data."""
        checkpoint["n_steps"] = self._n_steps
        checkpoint["position"] = list(self._dataset().position)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the average of an interrupted training."""
        self._n_steps = checkpoint["n_steps"]
        self._position = tuple(checkpoint["position"])

    def on_train_start(self) -> None:
        """Restore the position in the data, which are not loaded before."""
        if self._position is not None:
            self._dataset().go_to(*self._position)
            self._position = None

    def _dataset(self) -> Any:
        """Return the training data set."""
        loader: Any = self.trainer.train_dataloader
        return loader.dataset

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average."""
        self._n_steps += 1
        weight = max(self.config.average_weight, 1 / (1 + self._n_steps / _WARM_UP_STEPS))
        with torch.no_grad():
            # As torch.optim.swa_utils does; private, under the upper bound of torch in pyproject.toml.
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), weight)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Evaluate the average; the mean over the epoch weighs every frame alike."""
        self.averaged.eval()
        nll = frame_nll(self.averaged, Batch(*(tensor[0] for tensor in batch)))
        self.log(MONITOR, nll.mean(), prog_bar=True, on_epoch=True, sync_dist=True, batch_size=len(nll))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (Smith 2018, arXiv:1708.07120); vectors do not decay."""
        parameters = list(self.network.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.98),
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=max(int(self.trainer.estimated_stepping_batches), 10),
            pct_start=0.15,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def ending_weights(batch: Batch, weight: float) -> Tensor:
    """Return the weight of each frame in the loss, (M,): 1, but another one in the last 16 frames of a known end."""
    steps = torch.arange(batch.counted.shape[1], device=batch.end.device)
    left = batch.end[:, None] - batch.n_before[:, None] - steps
    return torch.where((left > 0) & (left <= _ENDING_FRAMES), weight, 1.0)[batch.counted]


def frame_nll(network: MusicTransformer, batch: Batch) -> Tensor:
    """Return the nats of each frame, (M,)."""
    return network.nll(batch.shown, batch.repeated, batch.tokens, batch.setting, batch.counted)
