"""Training `polyphony_rnn`: data, features, fit, measure, save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler, WeightedRandomSampler

from tritone_training import checkpoint, fitting
from tritone_training.checkpoint import load_matching, saved_checkpoint, warm_start_info
from tritone_training.data.scores import ScoreSet, evenly_chosen, load_scores
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest, data_path
from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.dataset import (
    Excerpts,
    LengthBatches,
    PieceFeatures,
    PieceNotes,
    WholePieces,
    extract_features,
    frames_per_quarter_of,
    learned_pieces,
    n_frames_of,
    padded,
    reduced,
)
from tritone_training.kinds.polyphony_rnn.declaration import KIND_NAME
from tritone_training.kinds.polyphony_rnn.evaluate import evaluate_network
from tritone_training.kinds.polyphony_rnn.module import MONITOR, PolyphonyModule
from tritone_training.kinds.polyphony_rnn.network import build_network
from tritone_training.kinds.polyphony_rnn.priors import SamplingPriors, measure_priors
from tritone_training.progress import progress_bar
from tritone_training.training_state import Snapshot

_VALID_BATCH = 8
# The test split is measured by `tritone evaluate` alone, so that nothing is chosen by it.
_PORTIONS = ("train", "valid")


@dataclass(frozen=True)
class TrainingData:
    """Data and features, shared between trials.

    Attributes:
        frames_per_quarter: of the training frames; 0 if unknown.
        pieces: by split, cut to the lengths of the configuration; of the training split also excerpts.
        features: by split, with features.
        priors: statistics of the training pieces, for sampling.
        templates: their conditions, from which clients choose.
    """

    scores: ScoreSet
    frames_per_quarter: int
    pieces: Mapping[str, tuple[PieceNotes, ...]]
    features: Mapping[str, list[PieceFeatures]]
    priors: SamplingPriors
    templates: list[dict[str, Any]]


def prepare(request: TrainRequest, config: PolyphonyConfig) -> TrainingData:
    """Load the data set and compute the features of its training and validation splits.

    Raises:
        DataError: the data cannot be used, or lack a split.
    """
    scores = load_scores(data_path(request), progress=request.progress)
    own, wanted = scores.frames_per_quarter, frames_per_quarter_of(scores)
    step = own // wanted if own else 1
    styles = scores.styles
    learned = learned_pieces(
        reduced(scores.split("train"), own=own, wanted=wanted, whole=True),
        styles=styles,
        frames_per_quarter=wanted,
        n_excerpts=config.cadence_excerpts,
        seed=request.seed,
    )
    chosen = reduced(evenly_chosen(scores.split("valid"), config.valid_frames * step), own=own, wanted=wanted)
    pieces = {
        "train": tuple(piece.cut(config.piece_frames) for piece in (*learned.pieces, *learned.excerpts)),
        "valid": tuple(map(PieceNotes.of, chosen)),
    }
    if not any(bool(piece.notes.any()) for piece in pieces["train"]):
        raise DataError(f"{scores.source}: not one note sounds in the split 'train'; there is nothing to learn")
    features = {}
    for name in _PORTIONS:
        with progress_bar(f"computing features of the split {name}", shown=request.progress) as on_progress:
            features[name] = extract_features(pieces[name], on_progress=on_progress)
    priors = measure_priors(learned.pieces, styles, strikes=scores.has_onsets)
    return TrainingData(scores, wanted, pieces, features, priors, learned.templates)


def train_prepared(request: TrainRequest, config: PolyphonyConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Fit on the training split; the validation split selects the epoch.

    Raises:
        TrainingError: training diverged, or the seed or the devices are not available.
    """
    fitting.seed_everything(request.seed)
    network = build_network(config, n_styles=len(prepared.priors.styles))
    loaded = load_matching(saved_checkpoint(request, KIND_NAME), network, skipped={})
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "frames_per_quarter": prepared.frames_per_quarter,
        "sampling": prepared.priors.to_dict(),
        "templates": prepared.templates,
        "data": prepared.scores.report(),
        **warm_start_info(loaded),
    }
    excerpts = Excerpts(prepared.features["train"], config)
    n_frames = n_frames_of(prepared.pieces["train"])
    n_chosen = config.n_excerpts(len(excerpts), n_frames)
    chosen: Sampler[int] = RandomSampler(excerpts, num_samples=n_chosen)
    if config.style_balance:
        chosen = WeightedRandomSampler(excerpts.weights(config.style_balance), n_chosen)
    n_batch = fitting.global_batch_size(request, config.batch_size)
    batches = LengthBatches(chosen, n_batch, False, excerpts.n_frames)
    fitted = fitting.fit(
        PolyphonyModule(network, config),
        DataLoader(excerpts, batch_sampler=batches, collate_fn=padded),
        WholePieces(prepared.features["valid"], batch_size=_VALID_BATCH),
        request=request,
        settings={**config.to_dict(), "fingerprint": prepared.scores.fingerprint},
        batch_size=1,  # each item is a batch already
        monitor=MONITOR,
        max_epochs=config.n_epochs(n_frames),
        patience=config.patience,
        snapshot=Snapshot(KIND_NAME, info, _averaged_weights),
    )
    prefix = "averaged."
    best = {name.removeprefix(prefix): value for name, value in fitted.best_weights.items() if name.startswith(prefix)}
    network.load_state_dict(best)
    with progress_bar("evaluating held-out pieces", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network.eval(), prepared.pieces["valid"], on_progress=on_progress)
    info |= {
        "n_epochs": fitted.n_epochs,
        "metrics": {
            "valid": {**evaluation.metrics, "n_pieces_in_split": len(prepared.scores.split("valid"))},
        },
    }
    checkpoint.save(request.out, kind=KIND_NAME, info=info, weights=best)
    return {
        "checkpoint": str(request.out),
        "frames_per_quarter": prepared.frames_per_quarter or None,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_train": len(prepared.scores.split("train")),
        "n_epochs": fitted.n_epochs,
        "metrics": info["metrics"],
        "data": info["data"],
        **warm_start_info(loaded),
    }


def _averaged_weights(module: PolyphonyModule) -> dict[str, Tensor]:
    return dict(module.averaged.state_dict())
