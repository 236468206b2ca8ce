"""How good a checkpoint of `genre_cnn` is: on a data set, one fold of it, or one part of its training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training._exceptions import DataError
from tritone_training.data.embedded import embedded_recordings
from tritone_training.data.loading import load_recordings
from tritone_training.data.recordings import RecordingSet
from tritone_training.data.splits import assign_folds
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.genre_cnn import report
from tritone_training.kinds.genre_cnn.build import load_network
from tritone_training.kinds.genre_cnn.judge import judge
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Measure a checkpoint on a data set, one fold of it, or one split of its own training run."""
    network, info = load_network(request.checkpoint)
    labels = list(info["labels"])
    recordings = recordings_of(request, info)
    unknown = sorted(set(recordings.labels) - set(labels))
    if unknown:
        raise DataError(
            f"{recordings.source}: labels {', '.join(unknown)} are unknown to this checkpoint, "
            f"which knows {', '.join(labels)}"
        )
    with progress_bar("judging recordings", shown=request.progress) as on_progress:
        judgement = judge(network, recordings.recordings, labels, on_progress=on_progress)
    judged = set(judgement.names)
    validation = set(info["splits"]["valid"])
    # A refit learns from the validation part too, for as long as the training before it that stopped by it.
    trained_on = {*info["splits"]["train"], *(validation if info["config"].get("refit") else ())}
    metrics = {
        **judgement.metrics,
        "checkpoint": str(request.checkpoint),
        "data": recordings.source,
        "fold": request.fold,
        "split": request.split,
        # Figures on recordings that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": len(trained_on & judged),
        "n_early_stopping": len((validation - trained_on) & judged),  # decided when training stopped
        "labels": labels,
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, judgement, labels)
    return metrics


def recordings_of(request: EvaluateRequest, info: Mapping[str, Any]) -> RecordingSet:
    """The recordings that a request asks for.

    Args:
        info: checkpoint.json.

    Raises:
        DataError: there are none, or not all of the checkpoint's own part.
    """
    return _selected(_load(request, info), request, info)


def _load(request: EvaluateRequest, info: Mapping[str, Any]) -> RecordingSet:
    if request.data is not None:
        return load_recordings(request.data)
    return embedded_recordings(n_variants=int(info["config"]["variants"]), progress=request.progress)


def _selected(recordings: RecordingSet, request: EvaluateRequest, info: Mapping[str, Any]) -> RecordingSet:
    if request.fold is not None:
        recordings = assign_folds(recordings, n_folds=int(info["n_folds"]))
        names = [r.name for r in recordings.recordings if r.fold == request.fold]
        if not names:
            folds = sorted({r.fold for r in recordings.recordings if r.fold is not None})
            raise DataError(f"{recordings.source}: has no fold {request.fold}; there are: {', '.join(map(str, folds))}")
        return recordings.only(names)
    if request.split is not None:
        splits = info["splits"]
        if request.split not in splits:
            raise DataError(f"no split {request.split!r}; the checkpoint knows: {', '.join(splits)}")
        chosen = recordings.only(splits[request.split])
        if len(chosen.recordings) < len(splits[request.split]):
            raise DataError(
                f"{recordings.source}: holds {len(chosen.recordings)} of the {len(splits[request.split])} recordings "
                f"of the checkpoint's split {request.split!r}; is it the data that it was trained on?"
            )
        return chosen
    return recordings
