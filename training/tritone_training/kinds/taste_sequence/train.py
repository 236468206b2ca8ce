"""Training of `taste_sequence`: the validation item selects the epoch, then the network is trained on all events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from tritone_training import checkpoint, fitting
from tritone_training.checkpoint import (
    METRICS_OF_SELECTION,
    SELECTION_FOLDER,
    WarmStart,
    saved_checkpoint,
    warm_start_info,
)
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.fitting import Fitted
from tritone_training.kind import TrainRequest
from tritone_training.kinds.taste_sequence import export
from tritone_training.kinds.taste_sequence.config import SequenceConfig
from tritone_training.kinds.taste_sequence.dataset import (
    LengthBatches,
    TrainingHistories,
    collate,
    validation_batches,
)
from tritone_training.kinds.taste_sequence.module import MONITOR, SequenceModule
from tritone_training.kinds.taste_sequence.network import EnsembleMember, SequenceLearner
from tritone_training.kinds.taste_sequence.sequence_data import EventArrays, SequenceData, cut_items
from tritone_training.training_state import Snapshot

_VALID_BATCH: Final = 128


def train_sequences(request: TrainRequest, config: SequenceConfig, data: SequenceData) -> Mapping[str, Any]:
    """Train and write a checkpoint.

    The first training leaves out each user's validation item, which selects the epoch. Unless `request.refit_on_all` is
    False, a second training of as many epochs and with the same schedule includes it; the first network is kept in
    the folder `selection`, for evaluation on the validation items.

    Raises:
        DataError: no user has a history and a validation item among the modelled items.
        TrainingError: training diverged.
    """
    data = cut_items(data, config.n_items)
    if not (data.held_out >= 0).any():
        raise DataError("no user has two items among those that are modelled; raise n_items, or train on a larger log")
    info = _described(request, config, data)
    training = _Training(request, config, data, info)
    selected, learner, loaded = training.run(data.events.until(data.held_out))
    info |= warm_start_info(loaded)
    metrics = {"valid": {"ndcg@10": 1 - selected.best_score, "n": int((data.held_out >= 0).sum())}}
    info |= {"n_epochs": selected.n_epochs, "best_epoch": selected.best_epoch, "metrics": metrics}
    n_train = int((data.events.until(data.held_out).targets() >= 0).sum())
    out = request.out
    if request.refit_on_all is not False:
        checkpoint.save(
            out / SELECTION_FOLDER, kind=export.KIND_NAME, info=info, weights=learner.network().state_dict()
        )
        _, learner, _ = training.run(data.events, selected)
        info |= {"metrics_of": METRICS_OF_SELECTION, "refit_on_all": True}
        n_train = int((data.events.targets() >= 0).sum())
    checkpoint.save(out, kind=export.KIND_NAME, info=info, weights=learner.network().state_dict())
    return {
        "checkpoint": str(out),
        "n_items": len(data.items),
        "n_parameters": sum(parameter.numel() for parameter in learner.network().parameters()),
        "n_train": n_train,
        "n_epochs": selected.n_epochs,
        "best_epoch": selected.best_epoch,
        "metrics": metrics,
        "data": data.report,
        **warm_start_info(loaded),
    }


def train_on_all(
    request: TrainRequest, config: SequenceConfig, data: SequenceData, *, selected: Mapping[str, Any]
) -> None:
    """Train on all events for as many epochs as an earlier selection, and write a checkpoint.

    Args:
        request: seed, preset and folder.
        config: hyper-parameters.
        data: all its events are trained on.
        selected: content of checkpoint.json of the training that selected the epoch; its metrics are kept.

    Raises:
        TrainingError: training diverged.
    """
    data = cut_items(data, config.n_items)
    kept = {name: selected[name] for name in ("n_epochs", "best_epoch", "metrics")}
    info: dict[str, Any] = {**_described(request, config, data), **kept, "metrics_of": METRICS_OF_SELECTION}
    epochs = Fitted({}, 0.0, int(selected["n_epochs"]), int(selected["best_epoch"]))
    _, learner, _ = _Training(request, config, data, info).run(data.events, epochs)
    checkpoint.save(request.out, kind=export.KIND_NAME, info=info, weights=learner.network().state_dict())


def _described(request: TrainRequest, config: SequenceConfig, data: SequenceData) -> dict[str, Any]:
    return {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "items": list(data.items),
        "learned_from": data.fingerprint(),
        "data": data.report,
    }


class _Training:
    """Both trainings of a request, which differ in their events and in when they end."""

    def __init__(
        self, request: TrainRequest, config: SequenceConfig, data: SequenceData, info: Mapping[str, Any]
    ) -> None:
        self.request = request
        self.config = config
        self.data = data
        self.info = info
        self.valid = validation_batches(data, max_length=config.max_length, batch_size=_VALID_BATCH)

    def run(
        self, events: EventArrays, selected: Fitted | None = None
    ) -> tuple[Fitted, SequenceLearner, WarmStart | None]:
        """Train on events; with `selected`, for as many epochs as that training's best."""
        config, data = self.config, self.data
        fitting.seed_everything(self.request.seed)
        listeners = torch.from_numpy(np.bincount(events.item[events.is_new], minlength=len(data.items)))
        members = [
            EnsembleMember(
                listeners,
                data.words,
                encoder=export.build_encoder(config),
                size=config.size,
                popularity_exponent=config.popularity_exponent,
                temperature=config.temperature,
            )
            for _ in range(config.n_networks)
        ]
        learner = SequenceLearner(members, listeners)
        loaded = _start_from(saved_checkpoint(self.request, export.KIND_NAME), learner, data.items)
        histories = TrainingHistories(events, config.max_length)
        batches = LengthBatches(histories.lengths(), fitting.global_batch_size(self.request, config.batch_size))
        module = SequenceModule(learner, config, listeners, n_steps=len(batches) * config.max_epochs)
        fitted = fitting.fit(
            module,
            DataLoader(histories, batch_sampler=batches, collate_fn=collate),
            self.valid,
            request=self.request,
            settings={**config.to_dict(), "fingerprint": data.fingerprint()},
            batch_size=1,  # each entry is already a batch
            monitor=MONITOR,
            max_epochs=config.max_epochs if selected is None else selected.best_epoch,
            patience=config.patience,
            keep="best" if selected is None else "last",
            stage="fit" if selected is None else "refit",
            snapshot=Snapshot(export.KIND_NAME, self.info, _served_weights) if selected is None else None,
        )
        prefix = "learner."
        learner.load_state_dict(
            {name.removeprefix(prefix): each for name, each in fitted.best_weights.items() if name.startswith(prefix)}
        )
        return fitted, learner, loaded


@torch.no_grad()
def _start_from(
    saved: checkpoint.Checkpoint | None, learner: SequenceLearner, items: Sequence[str]
) -> WarmStart | None:
    """Warm start: copy the encoders, and the vectors of items in both, matched by id.

    Raises:
        TrainingError: the networks differ in their number of members or in size, or no item is in both.
    """
    if saved is None:
        return None
    own = {name: tensor for name, tensor in learner.network().state_dict().items() if ".encoder." in name}
    theirs = {name: tensor for name, tensor in saved.weights.items() if ".encoder." in name}
    if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in theirs.items()}:
        raise TrainingError(
            f"{saved.folder}: expected encoders of the same number and size, got others; train with the "
            f"hyper-parameters of that checkpoint, or leave --warm-start out"
        )
    old_index = {name: index for index, name in enumerate(saved.info["items"])}
    rows = torch.tensor([row for row, name in enumerate(items) if name in old_index], dtype=torch.int64)
    if not len(rows):
        raise TrainingError(f"{saved.folder}: expected items of this log, got none of them; leave --warm-start out")
    old = torch.tensor([old_index[items[row]] for row in rows.tolist()], dtype=torch.int64)
    for number, member in enumerate(learner.typed_members):
        prefix = f"members.{number}."
        encoder = f"{prefix}encoder."
        member.encoder.load_state_dict(
            {name.removeprefix(encoder): each for name, each in theirs.items() if name.startswith(encoder)}
        )
        side_info = member.vectors()[0][rows] - member.items[rows]  # contribution of the items' words, which is kept
        vectors = saved.weights[f"{prefix}embedding.weight"][old]  # (T', D) of the checkpoint
        member.items[rows] = vectors - side_info
        lengths = vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)
        output_vectors = functional.normalize(saved.weights[f"{prefix}output_vectors"][old], dim=1)
        member.output_offsets[rows] = output_vectors * lengths - vectors
    not_loaded = {
        "words": "not in the checkpoint",
        "items": f"{len(items) - len(rows)} of {len(items)} are not in the checkpoint",
    }
    return WarmStart(saved.folder, n_loaded=2 * len(learner.typed_members) + len(own), not_loaded=not_loaded)


def _served_weights(module: SequenceModule) -> dict[str, torch.Tensor]:
    return dict(module.learner.network().state_dict())
