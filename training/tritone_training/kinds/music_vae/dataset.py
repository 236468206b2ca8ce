"""Scores cut into spans of two bars for training and validation."""

from __future__ import annotations

from dataclasses import dataclass

from tritone_training.bars.spans import SpanSet, cut_spans
from tritone_training.data.scores import ScoreSet, load_scores
from tritone_training.kind import TrainRequest, data_path
from tritone_training.progress import progress_bar


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data, shared between trials."""

    scores: ScoreSet
    train: SpanSet
    valid: SpanSet


def prepare(request: TrainRequest) -> TrainingData:
    """Read the scores and cut them into spans.

    Raises:
        DataError: the splits `train` and `valid` do not both hold two bars of 4/4.
    """
    return prepare_scores(load_scores(data_path(request), progress=request.progress), progress=request.progress)


def prepare_scores(scores: ScoreSet, *, progress: bool) -> TrainingData:
    """Cut scores into spans.

    Raises:
        DataError: as `prepare`.
    """
    with progress_bar("cutting spans", shown=progress) as on_progress:
        train = cut_spans(scores, "train", with_ends=True, on_progress=on_progress)
    with progress_bar("cutting held-out spans", shown=progress) as on_progress:
        valid = cut_spans(scores, "valid", on_progress=on_progress)
    return TrainingData(scores, train, valid)
