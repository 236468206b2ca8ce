"""Training `music_vae`: scores, spans, fit, the attributes' directions, measure, save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tritone.sampling import uniform_noise
from tritone_training import checkpoint, fitting
from tritone_training.bars.autoencoder import MusicVae, encode
from tritone_training.bars.spans import SpanSet
from tritone_training.checkpoint import load_matching, saved_checkpoint, warm_start_info
from tritone_training.kind import TrainRequest
from tritone_training.kinds.music_vae.attributes import attribute_statistics, attribute_vectors, stretched
from tritone_training.kinds.music_vae.config import VaeConfig
from tritone_training.kinds.music_vae.dataset import TrainingData
from tritone_training.kinds.music_vae.declaration import KIND_NAME
from tritone_training.kinds.music_vae.evaluate import evaluate_network
from tritone_training.kinds.music_vae.module import MONITOR, VaeModule
from tritone_training.kinds.music_vae.network import build_network
from tritone_training.musicality import ATTRIBUTES
from tritone_training.progress import progress_bar
from tritone_training.training_state import Snapshot

_N_VALID_PER_STYLE: Final = 200  # looked at after each epoch
_N_REGRESSED_PER_STYLE: Final = 1000  # that the attributes' directions are measured on
_N_TRIED_PER_STYLE: Final = 64  # whose attributes are moved to find how far a vector has to reach
_HEADLINE: Final = ("reconstruction_accuracy", "strike_accuracy", "note_f1")


def train_prepared(request: TrainRequest, config: VaeConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Train once, write the checkpoint and return the summary."""
    fitting.seed_everything(request.seed)
    network = build_network(config)
    saved = saved_checkpoint(request, KIND_NAME)
    loaded = load_matching(saved, network, skipped={"attribute_vectors": "measured after training"})
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "data": {
            **prepared.scores.report(),
            "spans": {"train": prepared.train.report, "valid": prepared.valid.report},
        },
        **warm_start_info(loaded),
    }
    watched = prepared.valid.at_most(_N_VALID_PER_STYLE)
    fitted = fitting.fit(
        VaeModule(network, config),
        _loader(prepared.train, config),
        TensorDataset(torch.from_numpy(watched.voices)),
        request=request,
        settings={**config.to_dict(), "fingerprint": prepared.scores.fingerprint},
        batch_size=4 * config.batch_size,
        monitor=MONITOR,
        max_epochs=config.max_epochs,
        patience=config.patience,
        # The directions of the attributes are measured after training; until then they are 0 and have no effect.
        snapshot=Snapshot(KIND_NAME, {**info, "attributes": _statistics(prepared.train)}, _averaged_weights),
    )
    network.load_state_dict(_averaged(fitted.best_weights))
    network.eval()
    statistics = _measure_attributes(network, prepared.train)
    with progress_bar("evaluating held-out spans", shown=request.progress) as on_progress:
        evaluation = evaluate_network(
            network, watched, deviation=np.array(statistics["deviation"]), on_progress=on_progress
        )
    info |= {"n_epochs": fitted.n_epochs, "attributes": statistics, "metrics": {"valid": evaluation.metrics}}
    checkpoint.save(request.out, kind=KIND_NAME, info=info, weights=network.state_dict())
    return {
        "checkpoint": str(request.out),
        "n_train": len(prepared.train),
        "n_epochs": fitted.n_epochs,
        "metrics": {"valid": {name: evaluation.metrics[name] for name in _HEADLINE}},
        "data": info["data"],
        **warm_start_info(loaded),
    }


def _averaged_weights(module: VaeModule) -> dict[str, torch.Tensor]:
    return dict(module.averaged.state_dict())


def _statistics(spans: SpanSet) -> dict[str, Any]:
    mean, deviation = attribute_statistics(spans)
    return {"names": list(ATTRIBUTES), "mean": mean.tolist(), "deviation": deviation.tolist()}


def _loader(spans: SpanSet, config: VaeConfig) -> DataLoader[Any]:
    counts = np.bincount(spans.styles, minlength=len(spans.style_names))
    weights = counts[spans.styles].astype(np.float64) ** -config.style_balance
    sampler = WeightedRandomSampler(weights.tolist(), config.spans_per_epoch, replacement=True)
    return DataLoader(
        TensorDataset(torch.from_numpy(spans.voices)), batch_size=config.batch_size, sampler=sampler, drop_last=True
    )


def _averaged(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "averaged."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _measure_attributes(network: MusicVae, spans: SpanSet) -> dict[str, Any]:
    """Store the directions of the attributes in the network; return the entry for the model card."""
    mean, deviation = attribute_statistics(spans)
    # As many of each style: with all of them, the largest would have the word.
    even, tried = spans.at_most(_N_REGRESSED_PER_STYLE), spans.at_most(_N_TRIED_PER_STYLE).voices
    vectors = stretched(
        network,
        attribute_vectors(encode(network, even.voices), even),
        encode(network, tried),
        deviation,
        uniform_noise(0, *tried.shape),
    )
    network.attribute_vectors.copy_(torch.from_numpy(vectors))
    return {
        "names": list(ATTRIBUTES),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "vectors": np.round(vectors, 6).tolist(),
    }
