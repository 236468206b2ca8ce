"""How good `genre_cnn` is: on windows, as the network answers them, and on whole tracks, as the SDK does.

Letters: N tracks or windows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from tritone_client._exceptions import InvalidAudioError
from tritone_client.audio import iter_windows
from tritone_client.constants import EMOTIONS, SAMPLE_RATE_HZ
from tritone_training._exceptions import DataError
from tritone_training.data.embedded import embedded_recordings
from tritone_training.data.recordings import Problem, Recording, RecordingSet, load_recordings
from tritone_training.data.splits import assign_folds
from tritone_training.kind import EvaluateRequest
from tritone_training.kinds.genre_cnn import report
from tritone_training.kinds.genre_cnn.build import load_network
from tritone_training.progress import progress_bar

FloatMatrix = npt.NDArray[np.float64]
_BATCH: Final = 32
_N_BINS: Final = 10


@dataclass(frozen=True)
class Judgement:
    """Predictions and what they are worth.

    Attributes:
        metrics: JSON-able; the track level at the top, `window` beside it.
        names: recording of each track, in order.
        probabilities: (N, L) of the tracks.
        truth: (N,) index of the right label.
        emotions: (N, 9) predicted.
        wanted_emotions: (N, 9), NaN where unknown.
    """

    metrics: dict[str, Any]
    names: tuple[str, ...]
    probabilities: FloatMatrix
    truth: npt.NDArray[np.int64]
    emotions: FloatMatrix
    wanted_emotions: FloatMatrix


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Measure a checkpoint on a data set, one fold of it, or one split of its own training run."""
    network, info = load_network(request.checkpoint)
    labels = list(info["labels"])
    recordings = _selected(_load(request, info), request, info)
    unknown = sorted(set(recordings.labels) - set(labels))
    if unknown:
        raise DataError(
            f"{recordings.source}: labels {', '.join(unknown)} are unknown to this checkpoint, "
            f"which knows {', '.join(labels)}"
        )
    with progress_bar("judging recordings", shown=request.progress) as on_progress:
        judgement = judge(network, recordings.recordings, labels, on_progress=on_progress)
    seen = {*info["splits"]["train"], *info["splits"]["valid"]} & set(judgement.names)
    metrics = {
        **judgement.metrics,
        "checkpoint": str(request.checkpoint),
        "data": recordings.source,
        "fold": request.fold,
        "split": request.split,
        # Figures on recordings that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": len(seen),
        "labels": labels,
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, judgement, labels)
    return metrics


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


def judge(
    network: torch.nn.Module,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judgement:
    """Ask the network about every recording, window by window as the SDK cuts them.

    Args:
        network: in eval mode, (B, W) -> probabilities, emotions, embedding.

    Raises:
        DataError: not one recording can be used.
    """
    windows: list[FloatMatrix] = []
    felt: list[FloatMatrix] = []
    used: list[Recording] = []
    problems: list[Problem] = []
    for index, recording in enumerate(recordings):
        try:
            probabilities, emotions = _ask(network, recording)
        except InvalidAudioError as error:
            problems.append(Problem(recording.name, error.reason, str(error)))
        else:
            windows.append(probabilities)
            felt.append(emotions)
            used.append(recording)
        on_progress(index + 1, len(recordings))
    if not used:
        raise DataError(f"no recording can be judged; the first problem: {problems[0].message if problems else 'none'}")
    truth = np.array([labels.index(recording.label) for recording in used])
    track = np.stack([window.mean(0) for window in windows])
    felt_track = np.stack([window.mean(0) for window in felt])
    unknown = (np.nan,) * len(EMOTIONS)
    wanted = np.array([recording.emotions or unknown for recording in used])
    per_window = np.concatenate(windows)
    window_truth = np.repeat(truth, [len(window) for window in windows])
    metrics = {
        **genre_metrics(track, truth, labels),
        **emotion_metrics(felt_track, wanted),
        "window": genre_metrics(per_window, window_truth, labels),
        "n_problems": len(problems),
        "problems": [{"path": p.name, "reason": p.reason, "message": p.message} for p in problems],
    }
    return Judgement(metrics, tuple(r.name for r in used), track, truth, felt_track, wanted)


def _ask(network: torch.nn.Module, recording: Recording) -> tuple[FloatMatrix, FloatMatrix]:
    """(windows, L) probabilities and (windows, 9) emotions of one recording."""
    samples = recording.load()
    cut = np.stack([window.samples for window in iter_windows((samples, SAMPLE_RATE_HZ))])
    parts = []
    with torch.inference_mode():
        for start in range(0, len(cut), _BATCH):
            probabilities, emotions, *_ = network(torch.from_numpy(cut[start : start + _BATCH]))
            parts.append((probabilities.double().numpy(), emotions.double().numpy()))
    return np.concatenate([p for p, _ in parts]), np.concatenate([e for _, e in parts])


def genre_metrics(probabilities: FloatMatrix, truth: npt.NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro-F1, per-class figures, confusion matrix (rows: truth) and calibration of (N, L)."""
    guess = probabilities.argmax(1)
    indices = range(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=indices, zero_division=0.0)
    present = [index for index in indices if support[index]]
    return {
        "accuracy": float(accuracy_score(truth, guess)),
        # Over the labels that occur: one that this portion lacks can be neither found nor missed.
        "macro_f1": float(f1_score(truth, guess, labels=present, average="macro", zero_division=0.0)),
        "n": len(truth),
        "calibration_error": calibration(probabilities, truth)["expected_error"],
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "n": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion_matrix": confusion_matrix(truth, guess, labels=indices).tolist(),
    }


def calibration(probabilities: FloatMatrix, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Confidence against accuracy in ten bins, and the expected calibration error (Guo et al. 2017)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    bins = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    rows = [
        {
            "confidence": float(confidence[bins == index].mean()),
            "accuracy": float(right[bins == index].mean()),
            "n": int((bins == index).sum()),
        }
        for index in range(_N_BINS)
        if (bins == index).any()
    ]
    error = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(truth)
    return {"bins": rows, "expected_error": float(error)}


def emotion_metrics(predicted: FloatMatrix, wanted: FloatMatrix) -> dict[str, Any]:
    """Pearson correlation per emotion over the tracks whose fractions are known; None where it is undefined."""
    known = np.isfinite(wanted).all(1)
    if known.sum() < 2 or (predicted[known] < 0).any():  # nothing to compare, or not trained on emotions
        return {"emotion_correlation": None, "emotion_correlation_mean": None}
    correlation = {
        name: _correlation(predicted[known, index], wanted[known, index]) for index, name in enumerate(EMOTIONS)
    }
    defined = [value for value in correlation.values() if value is not None]
    return {
        "emotion_correlation": correlation,
        "emotion_correlation_mean": float(np.mean(defined)) if defined else None,
    }


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
