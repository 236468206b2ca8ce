"""Every fold held out once: what to expect of unheard artists, and how far it spreads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tritone_training.kind import TrainRequest
from tritone_training.kinds.genre_cnn.evaluate import Evaluation
from tritone_training.kinds.genre_cnn.metrics import emotion_metrics, genre_metrics
from tritone_training.kinds.genre_cnn.train import configure, prepare, train_prepared


def crossvalidate(request: TrainRequest) -> Mapping[str, Any]:
    """Train once per fold and evaluate each on the fold it never saw.

    Answers mean and spread (standard deviation) over the folds, the metrics of each, and `pooled`: all tracks
    evaluated together, each by the network that had not seen it.
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
    return {
        **{name: float(np.mean([j.metrics[name] for j in evaluations])) for name in ("accuracy", "macro_f1")},
        **{f"{name}_std": float(np.std([j.metrics[name] for j in evaluations])) for name in ("accuracy", "macro_f1")},
        "n": len(truth),
        "emotion_correlation": pooled["emotion_correlation"],
        "emotion_correlation_mean": pooled["emotion_correlation_mean"],
        "labels": list(labels),
        "pooled": pooled,
        "folds": [
            {
                "fold": fold,
                **{k: j.metrics[k] for k in ("accuracy", "macro_f1", "n", "emotion_correlation_mean")},
            }
            for fold, j in zip(folds, evaluations, strict=True)
        ],
        "data": prepared.recordings.report(),
        "out": str(request.out),
    }
