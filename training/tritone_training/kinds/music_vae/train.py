"""Training `music_vae`: scores, spans, autoencoder, flow, calibration of the attributes, evaluation, save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from tritone.sampling import uniform_noise
from tritone_training import checkpoint, fitting
from tritone_training.bars.autoencoder import AMOUNTS, MusicVae, encode
from tritone_training.bars.spans import SpanSet
from tritone_training.checkpoint import load_matching, saved_checkpoint, warm_start_info
from tritone_training.kind import TrainRequest
from tritone_training.kinds.music_vae.attributes import attribute_statistics, fit_attribute_curves
from tritone_training.kinds.music_vae.config import VaeConfig
from tritone_training.kinds.music_vae.dataset import TrainingData
from tritone_training.kinds.music_vae.declaration import KIND_NAME
from tritone_training.kinds.music_vae.evaluate import evaluate_network
from tritone_training.kinds.music_vae.module import MONITOR, PRIOR_MONITOR, PriorModule, VaeModule
from tritone_training.kinds.music_vae.network import build_network
from tritone_training.musicality import ATTRIBUTES
from tritone_training.progress import progress_bar
from tritone_training.training_state import Snapshot

_N_VALID_PER_STYLE: Final = 200  # looked at after each epoch
_N_CALIBRATED_PER_STYLE: Final = 64  # whose attributes are changed to calibrate the changes
_N_COMPONENT_SPANS: Final = 16_384  # that principal components are computed from
_PRIOR_BATCH: Final = 256
_HEADLINE: Final = ("reconstruction_accuracy", "strike_accuracy", "note_f1")


def train_prepared(request: TrainRequest, config: VaeConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Train once, write the checkpoint and return the summary."""
    fitting.seed_everything(request.seed)
    network = build_network(config)
    saved = saved_checkpoint(request, KIND_NAME)
    skipped = dict.fromkeys(("attribute_", "flow."), "fitted after the training of the autoencoder")
    loaded = load_matching(saved, network, skipped=skipped)
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
    mean, deviation = attribute_statistics(prepared.train)
    statistics = {"names": list(ATTRIBUTES), "mean": mean.tolist(), "deviation": deviation.tolist()}
    settings = {**config.to_dict(), "fingerprint": prepared.scores.fingerprint}
    n_batch = fitting.global_batch_size(request, config.batch_size)
    fitted = fitting.fit(
        VaeModule(network, config, torch.from_numpy(deviation)),
        _loader(
            TensorDataset(torch.from_numpy(prepared.train.voices)),
            _style_weights(prepared.train, config),
            max(1, config.spans_per_epoch // n_batch),
            n_batch,
        ),
        TensorDataset(torch.from_numpy(watched.voices)),
        request=request,
        settings=settings,
        batch_size=4 * config.batch_size,
        monitor=MONITOR,
        max_epochs=config.max_epochs,
        patience=config.patience,
        # The flow and the calibration follow; until then samples are of the autoencoder's own prior.
        snapshot=Snapshot(KIND_NAME, {**info, "attributes": statistics}, _averaged_weights),
    )
    network.load_state_dict(_averaged(fitted.best_weights))
    network.eval()
    n_prior_epochs = _fit_prior(network, request, config, prepared, settings)
    # As many of each style, or the largest would decide.
    tried = prepared.train.whole().at_most(_N_CALIBRATED_PER_STYLE).voices
    curves = fit_attribute_curves(network, encode(network, tried), deviation, uniform_noise(0, *tried.shape))
    statistics |= {"amounts": list(AMOUNTS), "curves": np.round(curves, 4).tolist()}
    with progress_bar("evaluating held-out spans", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network, watched, deviation=deviation, on_progress=on_progress)
    info |= {
        "n_epochs": fitted.n_epochs,
        "n_prior_epochs": n_prior_epochs,
        "attributes": statistics,
        "metrics": {"valid": evaluation.metrics},
    }
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


def _fit_prior(
    network: MusicVae,
    request: TrainRequest,
    config: VaeConfig,
    prepared: TrainingData,
    settings: Mapping[str, Any],
) -> int:
    """Fit the flow to the posteriors of the training spans and return the number of epochs."""
    flow = network.flow
    if flow is None:
        return 0
    train = prepared.train.whole()
    mean, spread = _posteriors(network, train)
    torch.manual_seed(request.seed)
    chosen = torch.multinomial(_style_weights(train, config), _N_COMPONENT_SPANS, replacement=True)
    flow.fit_components(mean[chosen] + spread[chosen] * torch.randn(len(chosen), network.n_latent))
    held_out = _posteriors(network, prepared.valid.at_most(_N_VALID_PER_STYLE))
    n_batch = fitting.global_batch_size(request, _PRIOR_BATCH)
    fitted = fitting.fit(
        PriorModule(flow, config),
        _loader(TensorDataset(mean, spread), _style_weights(train, config), config.prior_steps, n_batch),
        TensorDataset(held_out[0] + held_out[1] * torch.randn_like(held_out[0])),
        request=request,
        settings=settings,
        batch_size=_PRIOR_BATCH,
        monitor=PRIOR_MONITOR,
        max_epochs=config.prior_epochs,
        patience=config.prior_epochs,
        stage="prior",
    )
    flow.load_state_dict(_averaged(fitted.best_weights))
    flow.temperature.fill_(config.prior_temperature)
    return fitted.n_epochs


@torch.no_grad()
def _posteriors(network: MusicVae, spans: SpanSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of posteriors in the space of the decoder: (S, Z) each."""
    voices = torch.from_numpy(spans.voices)
    parts = [network.encoder(voices[start : start + _PRIOR_BATCH]) for start in range(0, len(voices), _PRIOR_BATCH)]
    mean, log_variance = (torch.cat(each) for each in zip(*parts, strict=True))
    return mean, torch.exp(0.5 * log_variance)


def _style_weights(spans: SpanSet, config: VaeConfig) -> torch.Tensor:
    counts = np.bincount(spans.styles, minlength=len(spans.style_names))
    return torch.from_numpy(counts[spans.styles].astype(np.float64) ** -config.style_balance)


def _loader(data: TensorDataset, weights: torch.Tensor, n_batches: int, batch_size: int) -> DataLoader[Any]:
    sampler = WeightedRandomSampler(weights.tolist(), n_batches * batch_size, replacement=True)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, drop_last=True)


def _averaged(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "averaged."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
