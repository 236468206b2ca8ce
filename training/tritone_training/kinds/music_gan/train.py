"""Training `music_gan`: scores, a `music_vae`, its latents, fit, measure, save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, TensorDataset

from tritone_training import checkpoint, fitting, processes
from tritone_training.bars.autoencoder import MusicVae, autoencoder_from
from tritone_training.bars.spans import SpanSet, cut_spans
from tritone_training.checkpoint import WarmStart, load_matching, saved_checkpoint, warm_start_info
from tritone_training.data.scores import ScoreSet, load_scores
from tritone_training.exceptions import CheckpointError, TrainingError
from tritone_training.kind import TrainRequest, data_path
from tritone_training.kinds.music_gan.conditions import measure_conditions
from tritone_training.kinds.music_gan.config import GanConfig
from tritone_training.kinds.music_gan.dataset import as_tensors, draw_pool, draw_spans, style_shares
from tritone_training.kinds.music_gan.declaration import KIND_NAME
from tritone_training.kinds.music_gan.evaluate import evaluate_network
from tritone_training.kinds.music_gan.module import MONITOR, GanModule
from tritone_training.kinds.music_gan.network import MusicGan, build_network
from tritone_training.progress import progress_bar
from tritone_training.registry import get_kind
from tritone_training.training_state import Snapshot

_VAE: Final = "music_vae"  # kind of the autoencoder
_N_WATCHED: Final = 1000  # held-out spans that decide which epoch was the best


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data and the autoencoder, shared between trials.

    Attributes:
        vae_folder: its checkpoint.
        vae_info: content of its checkpoint.json.
    """

    scores: ScoreSet
    train: SpanSet
    valid: SpanSet
    vae: MusicVae
    vae_folder: Path
    vae_info: Mapping[str, Any]


def prepare(request: TrainRequest) -> TrainingData:
    """Read the scores, and find a `music_vae` that was trained on the same data with the same preset, or train one.

    Looks in `OUT/music_vae` and in the sibling folder of OUT (`runs/music_vae` for `runs/music_gan`); a new one is
    written to the former.

    Raises:
        DataError: the split `train` or `valid` has no two bars of 4/4.
    """
    scores = load_scores(data_path(request), progress=request.progress)
    with progress_bar("cutting spans", shown=request.progress) as on_progress:
        train = cut_spans(scores, "train", on_progress=on_progress)
    with progress_bar("cutting held-out spans", shown=request.progress) as on_progress:
        valid = cut_spans(scores, "valid", on_progress=on_progress)
    own = request.out / _VAE
    folder = next((each for each in (own, request.out.parent / _VAE) if _fits(each, request, scores)), None)
    if (group := processes.current()) is not None:
        if group.broadcast(folder is not None) and not group.is_rank_zero:
            folder = own
        if folder is not None:
            group.broadcast_files(folder)
    if folder is None:
        folder = own
        vae_request = replace(
            request, out=own, overrides={}, max_epochs=autoencoder_epochs(request), warm_start=None, mlflow_run=None
        )
        get_kind(_VAE).prepare(vae_request)(vae_request)
    saved = checkpoint.load(folder, kind=_VAE)
    vae = autoencoder_from(saved.info.get("config") or {}, saved.weights, folder=folder)
    return TrainingData(scores, train, valid, vae, folder, saved.info)


def autoencoder_epochs(request: TrainRequest) -> int | None:
    """Return the limit on the epochs of `music_vae`: the request's, but at most that of its own preset."""
    if request.max_epochs is None:
        return None
    own = get_kind(_VAE).configure(replace(request, overrides={}, max_epochs=None)).to_dict()
    return min(request.max_epochs, int(own["max_epochs"]))


def _fits(folder: Path, request: TrainRequest, scores: ScoreSet) -> bool:
    try:
        info = checkpoint.load(folder, kind=_VAE).info
    except CheckpointError:
        return False
    data = info.get("data", {})
    return (info.get("preset"), data.get("fingerprint")) == (request.preset, scores.fingerprint)


def train_prepared(request: TrainRequest, config: GanConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Train once, write the checkpoint and return the summary."""
    fitting.seed_everything(request.seed)
    network = build_network(config, prepared.vae, n_styles=len(prepared.train.style_names))
    shares = style_shares(prepared.train, config.style_balance)
    pool = draw_pool(prepared.train, shares, config.pool_size, seed=request.seed)
    network.conditions.learn(measure_conditions(pool))
    tensors = as_tensors(prepared.vae, network.conditions, pool)
    network.generator.fit_linear(tensors[1], tensors[2])
    loaded = _warm_start(request, network, prepared)
    watched = draw_spans(prepared.valid, shares, _N_WATCHED, seed=request.seed)
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "style_shares": dict(zip(prepared.train.style_names, shares.tolist(), strict=True)),
        "vae": {key: prepared.vae_info[key] for key in ("config", "seed", "preset", "weights_sha256")},
        "data": {**prepared.scores.report(), "spans": {"train": len(prepared.train), "valid": len(prepared.valid)}},
        **warm_start_info(loaded),
    }
    one_host = replace(request, devices=1)
    fitted = fitting.fit(
        GanModule(network.generator, prepared.vae, config),
        _loader(tensors, config, fitting.global_batch_size(one_host, config.batch_size)),
        TensorDataset(*as_tensors(prepared.vae, network.conditions, watched)),
        request=one_host,
        settings={
            **config.to_dict(),
            "fingerprint": prepared.scores.fingerprint,
            "music_vae": prepared.vae_info["weights_sha256"],
        },
        batch_size=len(watched),
        monitor=MONITOR,
        max_epochs=config.max_epochs,
        patience=config.patience,
        snapshot=Snapshot(KIND_NAME, info, partial(_averaged_weights, network)),
    )
    prefix = "averaged."
    network.generator.load_state_dict(
        {n.removeprefix(prefix): tensor for n, tensor in fitted.best_weights.items() if n.startswith(prefix)}
    )
    network.eval()
    with progress_bar("evaluating generated bars", shown=request.progress) as on_progress:
        evaluation = evaluate_network(
            network,
            prepared.train,
            prepared.valid,
            shares=shares,
            n_samples=config.n_judged,
            on_progress=on_progress,
        )
    info |= {"n_epochs": fitted.n_epochs, "metrics": {"valid": evaluation.metrics}}
    checkpoint.save(request.out, kind=KIND_NAME, info=info, weights=network.state_dict())
    return {
        "checkpoint": str(request.out),
        "music_vae": str(prepared.vae_folder),
        "n_train": len(prepared.train),
        "n_epochs": fitted.n_epochs,
        "metrics": {"valid": headline(evaluation.metrics)},
        "data": info["data"],
        **warm_start_info(loaded),
    }


def _averaged_weights(network: MusicGan, module: GanModule) -> dict[str, torch.Tensor]:
    averaged = {f"generator.{name}": tensor for name, tensor in module.averaged.state_dict().items()}
    return {**network.state_dict(), **averaged}


def _warm_start(request: TrainRequest, network: MusicGan, prepared: TrainingData) -> WarmStart | None:
    saved = saved_checkpoint(request, KIND_NAME)
    if saved is None:
        return None
    if saved.info.get("vae", {}).get("weights_sha256") != prepared.vae_info["weights_sha256"]:
        raise TrainingError(
            f"{saved.folder}: expected a generator for the music_vae in {prepared.vae_folder}, got one for another; "
            f"copy the music_vae of that training to {request.out / _VAE}, or leave --warm-start out"
        )
    measured = ("conditions.", "generator.from_", "generator.mean", "generator.deviation", "estimate_key", "key_tilt")
    skipped = {**dict.fromkeys(measured, "measured on the data"), "vae.": "the music_vae is not trained"}
    return load_matching(saved, network, skipped=skipped)


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that matter most; `likeness` is what `tune` maximises."""
    return {
        "likeness": -float(metrics["frechet"]["ratio"]),
        "frechet_ratio": metrics["frechet"]["ratio"],
        "duplicate_rate": metrics["duplicate_rate"],
        "copy_rate": metrics["memorisation"]["copy_rate"],
        "held_out_copy_rate": metrics["memorisation"]["held_out_copy_rate"],
        "key_accuracy": metrics["conditions"]["key_accuracy"],
        "density_correlation": metrics["conditions"]["density_correlation"],
    }


def _loader(tensors: tuple[torch.Tensor, ...], config: GanConfig, batch_size: int) -> DataLoader[Any]:
    """Return batches for one step of the generator and the steps of the critic before it."""
    n_batch = batch_size * config.critic_steps
    sampler = torch.utils.data.RandomSampler(
        TensorDataset(*tensors), replacement=True, num_samples=n_batch * config.steps_per_epoch
    )
    return DataLoader(TensorDataset(*tensors), batch_size=n_batch, sampler=sampler)
