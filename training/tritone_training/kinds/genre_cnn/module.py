"""Training step of `genre_cnn`: losses, augmentation, optimiser, running average of the weights.

Shapes: B batch, T units of a window, D features of a unit, L labels.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from tritone_training.exceptions import TrainingError
from tritone_training.kinds.genre_cnn.config import NONE, ClassWeights, GenreConfig
from tritone_training.kinds.genre_cnn.dataset import Batch, augment_log_mel, by_recording, mix_pairs
from tritone_training.kinds.genre_cnn.network import GenreNetwork
from tritone_training.processes import loss_weight

MONITOR = "selection_loss"  # valid_loss, once the average has begun
_NOT_YET = 1_000.0  # added before: epochs while the learning rate climbs look good or bad on few recordings by luck


class GenreModule(lightning.LightningModule):
    """Trains body and heads of a GenreNetwork on cached features.

    Validation looks at `averaged`, the running mean of the weights over the later epochs (Izmailov et al. 2018,
    arXiv:1803.05407): with few recordings, single epochs vary by chance, and their mean varies less.
    """

    def __init__(
        self,
        network: GenreNetwork,
        config: GenreConfig,
        *,
        n_labels: int,
        on_spectrogram: bool,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        # On CPUs, convolutions and pooling are faster with channels last; the values are the same up to rounding.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.config = config
        self.n_labels = n_labels
        self.on_spectrogram = on_spectrogram
        self.register_buffer("class_weights", class_weights, persistent=False)  # (L,), or None
        self.class_weights: Tensor | None
        self._n_averaged = 0
        self._valid: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of one batch of random crops."""
        features, label, emotions = batch
        if self.on_spectrogram:
            features = augment_log_mel(features, gain_db=self.config.gain_db, mask_fraction=self.config.mask_fraction)
        targets = nn.functional.one_hot(label, self.n_labels).float()
        if self.config.mixup_alpha > 0:
            features, targets, emotions = mix_pairs(
                features, targets, emotions, alpha=self.config.mixup_alpha, in_power=self.on_spectrogram
            )
        logits, felt, _embedding = self.network.heads(features)
        loss = nn.functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.config.label_smoothing
        )
        known = torch.isfinite(emotions).sum()
        loss = loss * loss_weight(len(label)) + self.config.emotion_weight * loss_weight(known) * self._emotion_loss(
            felt, emotions
        )
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def _emotion_loss(self, felt: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean squared error over known fractions; 0 if none is known."""
        known = torch.isfinite(wanted)
        if self.network.emotion_head is None or not known.any():
            return felt.new_zeros(())
        return nn.functional.mse_loss(felt[known], wanted[known])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the average."""
        checkpoint["n_averaged"] = self._n_averaged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the average of an interrupted training."""
        self._n_averaged = checkpoint["n_averaged"]

    def on_train_epoch_start(self) -> None:
        """Keep frozen parts in eval mode."""
        for part in self.network.frozen_eval():
            part.eval()

    def on_validation_start(self) -> None:
        """Update the running average before it is validated."""
        begins = int(self.config.average_from * self.config.max_epochs)
        self._n_averaged = 1 if self.current_epoch <= begins else self._n_averaged + 1
        # An exponential mean over about ten epochs, so that early ones fade.
        weight = max(1 / self._n_averaged, 0.1)
        ours, theirs = self.averaged.state_dict(), self.network.state_dict()
        for name, tensor in ours.items():
            if tensor.dtype.is_floating_point:
                tensor.lerp_(theirs[name], weight)
            else:
                tensor.copy_(theirs[name])

    def validation_step(self, batch: Batch, _: int) -> None:
        """Collect the predictions of the averaged network."""
        features, label, emotions = batch
        self.averaged.eval()
        logits, felt, _embedding = self.averaged.heads(features)
        self._valid.append((torch.softmax(logits, 1), felt, label, emotions))

    def on_validation_epoch_end(self) -> None:
        """Evaluate by whole recordings, as `evaluate` does."""
        probabilities, felt, label, emotions = (
            by_recording(torch.cat(part).float()) for part in zip(*self._valid, strict=True)
        )
        self._valid.clear()
        truth = label.long()
        likelihood = probabilities.gather(1, truth[:, None]).clamp_min(1e-6)
        loss = -likelihood.log().mean() + self.config.emotion_weight * self._emotion_loss(felt, emotions)
        self.log("valid_loss", loss, prog_bar=True, sync_dist=True)
        self.log(MONITOR, loss if self._n_averaged > 1 else loss + _NOT_YET, sync_dist=True)
        self.log("valid_accuracy", (probabilities.argmax(1) == truth).float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate (Smith 2018, arXiv:1708.07120)."""
        optimizer = torch.optim.AdamW(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=max(int(self.trainer.estimated_stepping_batches), 10),
            pct_start=0.2,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def label_weights(given: ClassWeights, learned_from: Sequence[str], labels: Sequence[str]) -> Tensor | None:
    """Return the weight of each label, (L,), or None if all count the same.

    `balanced` weighs a label by n / (L x its recordings), as scikit-learn does; labels that a mapping does not name
    weigh 1.

    Args:
        given: see `check_class_weights`.
        learned_from: label of each recording that is trained on.
        labels: the L labels in the order of the network's outputs.

    Raises:
        TrainingError: the mapping names a label that is not in the data.
    """
    if isinstance(given, str):
        if given == NONE:
            return None
        counts = Counter(learned_from)
        return torch.tensor([len(learned_from) / (len(labels) * max(counts[label], 1)) for label in labels])
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise TrainingError(
            f"class_weights names {unknown[0]!r}; expected labels of the data, which are: {', '.join(labels)}"
        )
    return torch.tensor([float(given.get(label, 1.0)) for label in labels])
