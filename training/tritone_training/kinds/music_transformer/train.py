"""Training `music_transformer`: scores, splits, fit, measure, save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from tritone_training import checkpoint, fitting
from tritone_training.checkpoint import load_matching, saved_checkpoint, warm_start_info
from tritone_training.data.piece_conditions import (
    conditions_of,
    density_edges,
    excerpt_of,
    templates,
    unknown,
)
from tritone_training.data.scores import ScoreSet, evenly_chosen
from tritone_training.kind import TrainRequest
from tritone_training.kinds.music_transformer.config import TransformerConfig
from tritone_training.kinds.music_transformer.dataset import TrainingSegments, WholePieces
from tritone_training.kinds.music_transformer.declaration import KIND_NAME
from tritone_training.kinds.music_transformer.evaluate import evaluate_network
from tritone_training.kinds.music_transformer.module import MONITOR, TransformerModule
from tritone_training.kinds.music_transformer.network import build_network, completed_weights
from tritone_training.progress import progress_bar
from tritone_training.training_state import Snapshot

_AVERAGED = "averaged."
_HEADLINE = ("nll_per_frame", "log_likelihood_per_frame", "note_perplexity", "n_frames", "n")


def train_on(request: TrainRequest, config: TransformerConfig, scores: ScoreSet) -> Mapping[str, Any]:
    """Fit on the split `train`; `valid` is used for early stopping and to select the epoch.

    Raises:
        DataError: one of the two is missing.
        TrainingError: training diverged, or the seed or devices cannot be had.
    """
    fitting.seed_everything(request.seed)
    train, held_out = scores.split("train"), scores.split("valid")
    valid = evenly_chosen(held_out, config.valid_frames)
    config = config.fitted_to(sum(len(piece.frames) for piece in train))
    styles = scores.styles if len(scores.styles) > 1 else ()  # a single style carries no information
    network = build_network(config, n_styles=len(styles), onsets=scores.has_onsets)
    saved = saved_checkpoint(request, KIND_NAME)
    if saved is not None:
        saved = replace(saved, weights=completed_weights(saved.weights, network))
    skipped = {"style.": "the styles differ"} if saved and saved.info.get("styles") != list(styles) else {}
    loaded = load_matching(saved, network, skipped=skipped)
    edges = density_edges(train) if scores.has_onsets else {}
    reading: dict[str, Any] = {"reach": config.copy_window, "frames_per_quarter": scores.frames_per_quarter}
    conditions = [
        conditions_of(piece, edges, **reading) if scores.has_onsets else unknown(len(piece.frames)) for piece in train
    ]
    report = scores.report()
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "styles": list(styles),
        "has_onsets": scores.has_onsets,
        "density_edges": edges,
        "templates": templates(train, conditions),
        "frames_per_quarter": scores.frames_per_quarter,
        "n_parameters": sum(tensor.numel() for tensor in network.parameters()),
        "data": report,
        "splits": {"train": [piece.name for piece in train], "valid": [piece.name for piece in valid]},
        **warm_start_info(loaded),
    }
    segments = TrainingSegments(
        train,
        styles,
        conditions,
        partial(excerpt_of, density_edges=edges, **reading) if scores.has_onsets else None,
        onsets=scores.has_onsets,
        n_frames=config.stretch_frames,
        n_segments=config.most_stretches,
        batch_frames=fitting.global_batch_size(request, config.batch_frames),
        n_processes=fitting.processes_of(request),
        epoch_frames=config.epoch_frames,
        transpose=bool(config.transpose),
        given_share=config.given_share if scores.has_onsets else 0.0,
        unknown_share=config.unknown_share,
        style_balance=config.style_balance,
        seed=request.seed,
    )
    fitted = fitting.fit(
        TransformerModule(network, config),
        DataLoader(segments, batch_size=None),
        WholePieces(valid, styles, onsets=scores.has_onsets, batch_frames=4 * config.batch_frames),
        request=request,
        settings={**config.to_dict(), "fingerprint": scores.fingerprint},
        batch_size=1,
        monitor=MONITOR,
        max_epochs=config.max_epochs,
        patience=config.patience,
        snapshot=Snapshot(KIND_NAME, info, _averaged_weights),
    )
    best = {
        name.removeprefix(_AVERAGED): tensor
        for name, tensor in fitted.best_weights.items()
        if name.startswith(_AVERAGED)
    }
    network.load_state_dict(best)
    with progress_bar("evaluating held-out pieces", shown=request.progress) as on_progress:
        metrics = evaluate_network(network.eval(), valid, styles, on_progress=on_progress).metrics
    headline = {**{name: metrics[name] for name in _HEADLINE}, "n_in_split": len(held_out)}
    info |= {"n_epochs": fitted.n_epochs, "metrics": {"valid": headline}}
    checkpoint.save(request.out, kind=KIND_NAME, info=info, weights=best)
    return {
        "checkpoint": str(request.out),
        "styles": list(styles),
        "n_train": len(train),
        "n_epochs": fitted.n_epochs,
        "metrics": info["metrics"],
        "data": report,
        **warm_start_info(loaded),
    }


def _averaged_weights(module: TransformerModule) -> dict[str, Tensor]:
    return dict(module.averaged.state_dict())
