"""Training `genre_cnn`: data, features, split, fit, measure, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from tritone_training import checkpoint, fitting
from tritone_training.checkpoint import WarmStart, load_matching, saved_checkpoint, warm_start_info
from tritone_training.data.loading import embedded_recordings, load_recordings
from tritone_training.data.recordings import Recording, RecordingSet, assign_folds, held_out_split
from tritone_training.evaluation import CrossValidationResult, MeanStd, SummaryTable
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest, data_path
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.dataset import (
    CropDataset,
    RecordingFeatures,
    compute_features,
    validation_dataset,
)
from tritone_training.kinds.genre_cnn.declaration import KIND_NAME
from tritone_training.kinds.genre_cnn.evaluate import Evaluation, evaluate_network
from tritone_training.kinds.genre_cnn.frontend import MelFeatures, MusicnnFeatures
from tritone_training.kinds.genre_cnn.metrics import emotion_metrics, genre_metrics
from tritone_training.kinds.genre_cnn.module import MONITOR, GenreModule, label_weights
from tritone_training.kinds.genre_cnn.network import GenreNetwork, build_frontend, build_network, learned_weights
from tritone_training.progress import progress_bar
from tritone_training.training_state import Snapshot

_VALID_PARTS: Final = 8  # one eighth of what is trained on decides when to stop
N_FOLDS: Final = 4


@dataclass(frozen=True)
class TrainingData:
    """Data and features, shared between folds and trials.

    Attributes:
        recordings: usable ones, each with a fold.
    """

    recordings: RecordingSet
    features: RecordingFeatures
    frontend: MelFeatures | MusicnnFeatures


def prepare(request: TrainRequest, config: GenreConfig) -> TrainingData:
    """Load the data set, assign folds and compute every recording's features.

    Folds are assigned to all listed recordings, usable or not, so that `evaluate` gets the same folds without reading.

    Raises:
        DataError: fewer than two labels are left, or a label has too few artists to split.
    """
    if (path := data_path(request)) is None:
        recordings = embedded_recordings(n_variants=config.variants, progress=request.progress)
    else:
        recordings = load_recordings(path)
    _require_labels(recordings)
    recordings = assign_folds(recordings, n_folds=N_FOLDS)
    frontend = build_frontend(request.pretrained)
    with progress_bar("reading recordings", shown=request.progress) as on_progress:
        features = compute_features(recordings.recordings, frontend, on_progress=on_progress)
    recordings = replace(recordings.without(features.problems), remarks=features.remarks)
    _require_labels(recordings)
    return TrainingData(recordings, features, frontend)


def _require_labels(recordings: RecordingSet) -> None:
    if len(recordings.labels) < 2:
        worst = f"; the first problem: {recordings.problems[0].message}" if recordings.problems else ""
        raise DataError(
            f"{recordings.source}: usable recordings of at least two labels are needed, "
            f"found {', '.join(recordings.labels) or 'none'}{worst}"
        )


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        summary: metrics and metadata, as printed by `--json`.
        evaluations: by split, `valid` and `test`.
    """

    summary: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]


def train_prepared(request: TrainRequest, config: GenreConfig, prepared: TrainingData) -> TrainingResult:
    """Fit on all folds except the held-out one; an eighth of the recordings is used for early stopping.

    With `config.refit`, a second training of as many epochs includes that eighth. `valid` is evaluated before, by the
    network that was not trained on it.

    Raises:
        DataError: there is no such fold, or too few recordings are left for training.
        TrainingError: training diverged, or the seed or the devices are not available.
    """
    recordings = prepared.recordings
    fitting.seed_everything(request.seed)  # refuses a bad seed before the data are split by it
    splits = _split(recordings, request)
    with_emotions = any(recording.emotions is not None for recording in splits["train"])
    labels = recordings.labels
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "pretrained": request.pretrained,
        "labels": list(labels),
        "emotions_trained": with_emotions,
        "n_folds": N_FOLDS,
        "fold": fold_of(request),
        "data": {**recordings.report(), "fingerprint": prepared.features.fingerprint},
        "splits": {name: [recording.name for recording in part] for name, part in splits.items()},
    }
    fitted, network, weights, loaded = _fit(request, config, prepared, splits["train"], splits["valid"], info=info)
    evaluations = {"valid": _evaluate(request, network, recordings, splits["valid"], "validation")}
    if config.refit:
        longer = config.changed(max_epochs=fitted.n_epochs)
        everything = (*splits["train"], *splits["valid"])
        _, network, weights, _ = _fit(request, longer, prepared, everything, splits["valid"], info=None)
    evaluations["test"] = _evaluate(request, network, recordings, splits["test"], "held-out")
    info |= {
        "n_epochs": fitted.n_epochs,
        "metrics": {name: _headline(evaluation.metrics) for name, evaluation in evaluations.items()},
        **warm_start_info(loaded),
    }
    checkpoint.save(request.out, kind=KIND_NAME, info=info, weights=learned_weights(weights))
    summary = {
        "checkpoint": str(request.out),
        "labels": list(labels),
        "emotions_trained": with_emotions,
        "n_train": len(splits["train"]),
        "n_epochs": fitted.n_epochs,
        "metrics": info["metrics"],
        "data": recordings.report(),
        **warm_start_info(loaded),
    }
    return TrainingResult(summary, evaluations)


def _fit(
    request: TrainRequest,
    config: GenreConfig,
    prepared: TrainingData,
    train_part: tuple[Recording, ...],
    valid_part: tuple[Recording, ...],
    *,
    info: Mapping[str, Any] | None,
) -> tuple[fitting.Fitted, GenreNetwork, dict[str, Tensor], WarmStart | None]:
    """Train once; return the result of `fit`, the network in eval mode, its weights, and the report on a warm start.

    Args:
        info: of checkpoint.json, for the best epoch so far; None for the second training, which keeps its last epoch.
    """
    fitting.seed_everything(request.seed)
    labels = prepared.recordings.labels
    with_emotions = any(recording.emotions is not None for recording in train_part)
    network = build_network(config, prepared.frontend, n_labels=len(labels), with_emotions=with_emotions)
    on_spectrogram = isinstance(prepared.frontend, MelFeatures)
    loaded = _warm_start(request, network, labels)
    class_weights = label_weights(config.class_weights, [recording.label for recording in train_part], labels)
    module = GenreModule(
        network, config, n_labels=len(labels), on_spectrogram=on_spectrogram, class_weights=class_weights
    )
    n_units = prepared.frontend.n_units
    crops = CropDataset(
        train_part,
        prepared.features.by_name,
        labels,
        n_units=n_units,
        n_crops=config.crops_per_recording,
        random=True,
    )
    n_batch = fitting.global_batch_size(request, config.batch_size)
    fitted = fitting.fit(
        module,
        DataLoader(crops, batch_size=n_batch, shuffle=True, drop_last=len(crops) > n_batch),
        validation_dataset(valid_part, prepared.features.by_name, labels, n_units=n_units),
        request=request,
        settings={**config.to_dict(), "fingerprint": prepared.features.fingerprint, "fold": fold_of(request)},
        batch_size=config.batch_size,
        monitor=MONITOR,
        max_epochs=config.max_epochs,
        patience=config.patience,
        keep="last" if info is None else "best",
        stage="refit" if info is None else "fit",
        snapshot=None if info is None else Snapshot(KIND_NAME, info, _averaged_weights),
    )
    weights = {
        name.removeprefix("averaged."): tensor
        for name, tensor in fitted.best_weights.items()
        if name.startswith("averaged.")
    }
    network.load_state_dict(weights)
    return fitted, network.eval(), weights, loaded


def _averaged_weights(module: GenreModule) -> dict[str, Tensor]:
    return learned_weights(module.averaged.state_dict())


def _warm_start(request: TrainRequest, network: GenreNetwork, labels: Sequence[str]) -> WarmStart | None:
    saved = saved_checkpoint(request, KIND_NAME)
    skipped = {"frontend.": "the front end is not trained"}
    if saved is not None and saved.info.get("labels") != list(labels):
        skipped["genre_head."] = "the labels differ"
    return load_matching(saved, network, skipped=skipped)


def _evaluate(
    request: TrainRequest, network: GenreNetwork, recordings: RecordingSet, part: tuple[Recording, ...], what: str
) -> Evaluation:
    with progress_bar(f"evaluating {what} recordings", shown=request.progress) as on_progress:
        return evaluate_network(network, part, recordings.labels, on_progress=on_progress)


def _split(recordings: RecordingSet, request: TrainRequest) -> dict[str, tuple[Recording, ...]]:
    """Return the train, valid and test splits; the test split is the held-out fold, by default fold 0."""
    fold = fold_of(request)
    folds = sorted({r.fold for r in recordings.recordings if r.fold is not None})
    if fold not in folds:
        raise DataError(f"{recordings.source}: has no fold {fold}; there are: {', '.join(map(str, folds))}")
    rest = tuple(r for r in recordings.recordings if r.fold != fold)
    test = tuple(r for r in recordings.recordings if r.fold == fold)
    fewest = min(len({r.group for r in rest if r.label == label}) for label in recordings.labels)
    if fewest < 2:
        raise DataError(
            f"{recordings.source}: without fold {fold}, one label has {fewest} artist or single recording left; "
            f"at least 2 are needed, one to learn from and one to know when to stop"
        )
    train_part, valid = held_out_split(rest, n_parts=min(_VALID_PARTS, fewest), seed=request.seed)
    return {"train": train_part, "valid": valid, "test": test}


def fold_of(request: TrainRequest) -> int:
    """Return the held-out fold."""
    return 0 if request.fold is None else request.fold


def _headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "macro_f1", "n", "emotion_correlation_mean", "calibration_error")
    return {name: metrics[name] for name in names if metrics.get(name) is not None}


def crossvalidate(request: TrainRequest, config: GenreConfig) -> CrossValidationResult:
    """Train once per fold, and evaluate each network on the fold that was held out.

    The details of the result include `pooled`: the metrics over all tracks, each predicted by the network that was not
    trained on it.
    """
    prepared = prepare(request, config)
    labels = prepared.recordings.labels
    folds = sorted({r.fold for r in prepared.recordings.recordings if r.fold is not None})
    evaluations: list[Evaluation] = []
    for fold in folds:
        fold_request = replace(request, fold=fold, out=request.out / f"fold-{fold}")
        evaluations.append(train_prepared(fold_request, config, prepared).evaluations["test"])
    probabilities = np.concatenate([j.probabilities for j in evaluations])
    truth = np.concatenate([j.truth for j in evaluations])
    emotions = np.concatenate([j.emotions for j in evaluations])
    wanted = np.concatenate([j.wanted_emotions for j in evaluations])
    pooled = {**genre_metrics(probabilities, truth, labels), **emotion_metrics(emotions, wanted)}
    metrics = {name: MeanStd.of([j.metrics[name] for j in evaluations]) for name in ("accuracy", "macro_f1")}
    rows = [
        {"fold": fold, **{k: j.metrics[k] for k in ("accuracy", "macro_f1", "n", "emotion_correlation_mean")}}
        for fold, j in zip(folds, evaluations, strict=True)
    ]
    accuracy, macro_f1, correlation = metrics["accuracy"], metrics["macro_f1"], pooled["emotion_correlation_mean"]
    summary: list[str | SummaryTable] = [
        SummaryTable("folds", rows),
        f"accuracy {accuracy.mean:.3f} ± {accuracy.std:.3f}, macro-F1 {macro_f1.mean:.3f} ± {macro_f1.std:.3f} "
        f"(mean ± standard deviation over {len(folds)} folds, {len(truth)} tracks)",
        *([] if correlation is None else [f"emotion correlation over all tracks: {correlation:.3f}"]),
        f"checkpoints: {request.out}/fold-*",
    ]
    return CrossValidationResult(
        request.out,
        metrics=metrics,
        details={
            "n": len(truth),
            "emotion_correlation": pooled["emotion_correlation"],
            "emotion_correlation_mean": correlation,
            "labels": list(labels),
            "pooled": pooled,
        },
        folds=rows,
        data=prepared.recordings.report(),
        summary=summary,
    )
