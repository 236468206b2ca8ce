"""Cross-validation of `genre_cnn`: each fold of artists held out once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tritone_training.evaluation import CrossValidationResult, MeanStd, Table
from tritone_training.kind import TrainRequest
from tritone_training.kinds.genre_cnn.evaluate import Evaluation
from tritone_training.kinds.genre_cnn.metrics import emotion_metrics, genre_metrics
from tritone_training.kinds.genre_cnn.train import configure, prepare, train_prepared


def crossvalidate(request: TrainRequest) -> CrossValidationResult:
    """Train once per fold, and evaluate each network on the fold that was held out.

    The details of the result include `pooled`: the metrics over all tracks, each predicted by the network that was not
    trained on it.
    """
    config = configure(request)
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
    summary: list[str | Table] = [
        Table("folds", rows),
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
