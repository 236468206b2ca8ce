"""How good a checkpoint of `music_gan` is, beside one portion of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tritone_training._exceptions import DataError, TrainingError
from tritone_training.data.scores import load_scores
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.music_gan import report
from tritone_training.kinds.music_gan.build import KIND_NAME, load_network
from tritone_training.kinds.music_gan.judge import judge
from tritone_training.kinds.music_vae.spans import cut_spans
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Compare generated with held-out music: the portion `valid` unless another is named.

    Raises:
        TrainingError: a fold is asked for; portions are asked for with `split`.
        DataError: the data have other styles than those that the checkpoint learnt from.
    """
    if request.fold is not None:
        raise TrainingError(f"{KIND_NAME} has no folds; use --split valid or test")
    split = request.split or "valid"
    network, info = load_network(request.checkpoint)
    scores = load_scores(request.data, progress=request.progress)
    shares = info["style_shares"]
    if set(scores.styles) != set(shares):
        raise DataError(
            f"{scores.source}: has the styles {', '.join(scores.styles)}; the checkpoint learnt from "
            f"{', '.join(shares)}: give the --data that it was trained on"
        )
    with progress_bar("cutting training spans", shown=request.progress) as on_progress:
        train = cut_spans(scores, "train", on_progress=on_progress)
    with progress_bar("cutting held-out spans", shown=request.progress) as on_progress:
        held_out = cut_spans(scores, split, on_progress=on_progress)
    with progress_bar("judging generated bars", shown=request.progress) as on_progress:
        judgement = judge(
            network,
            train,
            held_out,
            shares=np.array([shares[name] for name in scores.styles]),
            on_progress=on_progress,
        )
    metrics = {
        **judgement.metrics,
        "spans": {"train": train.report, split: held_out.report},
        "checkpoint": str(request.checkpoint),
        "data": scores.source,
        "split": split,
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, judgement)
    return metrics
