"""How good a checkpoint of `music_vae` is, on one portion of a data set or on all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tritone_training._exceptions import TrainingError
from tritone_training.data.scores import load_scores
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.music_vae import report
from tritone_training.kinds.music_vae.build import KIND_NAME, load_network
from tritone_training.kinds.music_vae.judge import judge
from tritone_training.kinds.music_vae.spans import cut_spans
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Measure a checkpoint on every span of two bars.

    Raises:
        TrainingError: a fold is asked for; portions are asked for with `split`.
    """
    if request.fold is not None:
        raise TrainingError(f"{KIND_NAME} has no folds; use --split train, valid or test")
    network, info = load_network(request.checkpoint)
    scores = load_scores(request.data, progress=request.progress)
    with progress_bar("cutting spans", shown=request.progress) as on_progress:
        spans = cut_spans(scores, request.split, on_progress=on_progress)
    with progress_bar("judging spans", shown=request.progress) as on_progress:
        judgement = judge(network, spans, deviation=np.array(info["attributes"]["deviation"]), on_progress=on_progress)
    metrics = {
        **judgement.metrics,
        "spans": spans.report,
        "checkpoint": str(request.checkpoint),
        "data": scores.source,
        "split": request.split,
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, network, judgement)
    return metrics
