"""Evaluation of `genre_cnn`: on windows as the network sees them, and on whole tracks as the SDK classifies them.

Shapes: N tracks or windows, L labels.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.audio import to_pcm16
from tritone.constants import EMOTIONS, PCM16_FULL_SCALE
from tritone.exceptions import InvalidAudioError
from tritone_training.data.loading import embedded_recordings, load_recordings
from tritone_training.data.recordings import DataProblem, Recording, RecordingSet, Remark, assign_folds, printable
from tritone_training.evaluation import EvaluationResult, SummaryTable, problem_lines
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest, data_path
from tritone_training.kinds.genre_cnn.metrics import (
    FloatMatrix,
    calibration,
    emotion_metrics,
    genre_metrics,
)
from tritone_training.kinds.genre_cnn.network import load_network
from tritone_training.plots import saved_figure
from tritone_training.progress import progress_bar
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run, recorded_data, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BATCH: Final = 32
_LARGEST_INCHES: Final = 40.0


@dataclass(frozen=True)
class Evaluation:
    """Predictions and their metrics.

    Attributes:
        metrics: JSON-able; the track level at the top, `window` holds that of windows.
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


def evaluate_network(
    network: torch.nn.Module,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Classify every recording in windows, as the SDK does, and return the metrics.

    Args:
        network: in eval mode, (B, W) -> probabilities, emotions, embedding.

    Raises:
        DataError: no recording can be used.
        TrainingError: the network diverged in training.
    """
    windows: list[FloatMatrix] = []
    felt: list[FloatMatrix] = []
    used: list[Recording] = []
    problems: list[DataProblem] = []
    remarks: list[Remark] = []
    for index, recording in enumerate(recordings):
        try:
            probabilities, emotions, notes = _ask(network, recording)
        except InvalidAudioError as error:
            problems.append(DataProblem.of_audio(recording, error))
        else:
            windows.append(probabilities)
            felt.append(emotions)
            used.append(recording)
            remarks += (Remark(recording.name, printable(note)) for note in notes)
        on_progress(index + 1, len(recordings))
    if not used:
        raise DataError(
            f"no recording can be evaluated; the first problem: {problems[0].message if problems else 'none'}"
        )
    if not all(np.isfinite(window).all() for window in windows):
        raise TrainingError("the network returns non-finite values: training diverged; lower the learning rate")
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
        "remarks": [{"path": remark.name, "message": remark.message} for remark in remarks],
    }
    return Evaluation(metrics, tuple(r.name for r in used), track, truth, felt_track, wanted)


def _ask(network: torch.nn.Module, recording: Recording) -> tuple[FloatMatrix, FloatMatrix, Sequence[str]]:
    """Return (windows, L) probabilities, (windows, 9) emotions and remarks of one recording, read in bounded memory."""
    parts = []
    notes: list[str] = []
    windows = recording.windows(on_note=notes.append)
    with torch.inference_mode():
        while batch := [window.samples for window in islice(windows, _BATCH)]:
            probabilities, emotions, *_ = network(torch.from_numpy(np.stack(batch)))
            parts.append((probabilities.double().numpy(), emotions.double().numpy()))
    return np.concatenate([p for p, _ in parts]), np.concatenate([e for _, e in parts]), notes


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate a checkpoint on a data set, one fold of it, or one split of its own training run."""
    network, info = load_network(request.checkpoint)
    labels = list(info["labels"])
    recordings = recordings_of(request, info)
    unknown = sorted(set(recordings.labels) - set(labels))
    if unknown:
        raise DataError(
            f"{recordings.source}: labels {', '.join(unknown)} are unknown to this checkpoint, "
            f"which knows {', '.join(labels)}"
        )
    with progress_bar("evaluating recordings", shown=request.progress) as on_progress:
        evaluation = evaluate_network(network, recordings.recordings, labels, on_progress=on_progress)
    evaluated = set(evaluation.names)
    validation = set(info["splits"]["valid"])
    # A refit learns from the validation part too, for as long as the training before it that stopped by it.
    trained_on = {*info["splits"]["train"], *(validation if info["config"].get("refit") else ())}
    details = {
        "fold": request.fold,
        "split": request.split,
        # Metrics on recordings that the checkpoint was trained on say nothing about new ones.
        "n_seen_in_training": len(trained_on & evaluated),
        "n_early_stopping": len((validation - trained_on) & evaluated),  # decided when training stopped
        "labels": labels,
    }
    return EvaluationResult(
        request.checkpoint,
        recordings.source,
        metrics=evaluation.metrics,
        details=details,
        summary=summarize(evaluation.metrics, details),
        report=None if request.report is None else write_report(request.report, evaluation, labels),
    )


def recordings_of(request: EvaluateRequest, info: Mapping[str, Any]) -> RecordingSet:
    """Return the recordings that a request selects.

    Args:
        info: checkpoint.json.

    Raises:
        DataError: there are none, or some of those that the checkpoint lists are missing.
    """
    return _selected(_load(request, info), request, info)


def _load(request: EvaluateRequest, info: Mapping[str, Any]) -> RecordingSet:
    if (path := data_path(request)) is not None:
        return load_recordings(path)
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


_METRICS: Final = (Metric("accuracy", max_loss=0.01), Metric("emotion_correlation_mean", max_loss=0.02))
_N_CALIBRATION: Final = 64  # recordings
_N_WINDOWS: Final = 4  # of each


class ServedGraph(torch.nn.Module):
    """An exported graph with the interface of the network, so that the same code evaluates both."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return probabilities, emotions and embedding of windows (B, W)."""
        answer = self._run({"audio": audio.numpy()})
        return tuple(torch.from_numpy(answer[name]) for name in ("probabilities", "emotions", "embedding"))


def held_out(request: EvaluateRequest) -> HeldOut:
    """Return the validation split of a checkpoint's own data.

    Raises:
        DataError: the data are missing, or differ from those that the checkpoint was trained on.
    """
    _, info = load_network(request.checkpoint)
    request = replace(request, data=recorded_data(data_path(request), info, request.checkpoint))
    labels = list(info["labels"])
    valid = recordings_of(replace(request, split="valid"), info)
    train = recordings_of(replace(request, split="train"), info)

    def measure(run: Run) -> Mapping[str, float]:
        with progress_bar("evaluating recordings", shown=request.progress) as on_progress:
            metrics = evaluate_network(ServedGraph(run), valid.recordings, labels, on_progress=on_progress).metrics
        found = {name: metrics[name] for name in ("accuracy", "n")}
        if info["emotions_trained"] and metrics.get("emotion_correlation_mean") is not None:
            found["emotion_correlation_mean"] = metrics["emotion_correlation_mean"]
        return found

    return HeldOut(valid.source, measure, lambda: _windows(train.recordings))


def _windows(recordings: Sequence[Recording]) -> Iterator[Arrays]:
    """Return the first windows of recordings spread over the data set."""
    for place in spread(len(recordings), _N_CALIBRATION):
        try:
            found = [window.samples for window in islice(recordings[place].windows(), _N_WINDOWS)]
        except InvalidAudioError:
            continue  # training has reported it
        yield {"audio": np.stack(found)}


def pcm16(windows: npt.NDArray[np.generic]) -> npt.NDArray[np.int16]:
    """Return windows (B, W) of floats as 16-bit integers; samples beyond full scale are clipped."""
    largest = 1 - 1 / PCM16_FULL_SCALE
    converted = to_pcm16(list(windows.astype(np.float32).clip(-1, largest)))
    assert converted is not None  # noqa: S101 - all samples are within full scale
    return converted


def pcm16_held_out(request: EvaluateRequest) -> HeldOut:
    """Return the data of `held_out` for a graph that takes 16-bit integers."""
    floats = held_out(request)

    def whole(inputs: Arrays) -> Arrays:
        return {"audio": pcm16(inputs["audio"])}

    return HeldOut(
        floats.source,
        lambda run: floats.measure(lambda inputs: run(whole(inputs))),
        lambda: map(whole, floats.calibration()),
    )


QUALITY: Final = Quality(_METRICS, held_out, int8="static")
PCM16_QUALITY: Final = Quality(_METRICS, pcm16_held_out, int8="static")


def write_report(folder: Path, evaluation: Evaluation, labels: Sequence[str]) -> list[str]:
    """Write the files of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = evaluation.metrics
    files = ["confusion_matrix.png", "calibration.png"]
    side = min(2.5 + 0.7 * len(labels), _LARGEST_INCHES)
    with saved_figure(folder / "confusion_matrix.png", (side + 1, side)) as [[axes]]:
        _draw_confusion(axes, metrics, labels)
    with saved_figure(folder / "calibration.png", (5, 5)) as [[axes]]:
        _draw_calibration(axes, calibration(evaluation.probabilities, evaluation.truth))
    if metrics["emotion_correlation"]:
        with saved_figure(folder / "emotions.png", (7, 4)) as [[axes]]:
            _draw_emotions(axes, metrics)
        files.append("emotions.png")
    _write_predictions(folder / "predictions.csv", evaluation, labels)
    return [str(folder / name) for name in (*files, "predictions.csv")]


def summarize(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> list[str | SummaryTable]:
    """Return the main metrics, those per class, the confusion matrix and the correlation of emotions."""
    window = metrics["window"]
    found: list[str | SummaryTable] = [
        f"tracks:  accuracy {metrics['accuracy']:.3f}, macro-F1 {metrics['macro_f1']:.3f}, "
        f"calibration error {metrics['calibration_error']:.3f}, n {metrics['n']}",
        f"windows: accuracy {window['accuracy']:.3f}, macro-F1 {window['macro_f1']:.3f}, n {window['n']}",
    ]
    if n := details["n_seen_in_training"]:
        found.append(f"caution: {n} of these recordings are training data; select held-out data with --fold or --split")
    if n := details["n_early_stopping"]:
        found.append(f"note: {n} of these recordings were used for early stopping")
    labels, counts = details["labels"], metrics["confusion_matrix"]
    found += [
        SummaryTable("per class", [{"label": label, **values} for label, values in metrics["per_class"].items()]),
        SummaryTable(
            "confusion matrix (rows: true, columns: predicted)",
            [{"true": label, **dict(zip(labels, row, strict=True))} for label, row in zip(labels, counts, strict=True)],
        ),
    ]
    if metrics["emotion_correlation"]:
        found.append(SummaryTable("emotions (correlation)", [metrics["emotion_correlation"]]))
    if metrics["emotion_correlation_mean"] is not None:
        found.append(f"mean emotion correlation {metrics['emotion_correlation_mean']:.3f}")
    return found + problem_lines("not evaluated", metrics["problems"])


def _draw_confusion(axes: Axes, metrics: dict[str, Any], labels: Sequence[str]) -> None:
    counts = np.array(metrics["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
    # Labels are the user's words: without parse_math, one that holds two dollar signs is read as a formula.
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"tracks: accuracy {metrics['accuracy']:.3f}, macro-F1 {metrics['macro_f1']:.3f}, n {metrics['n']}")


def _draw_calibration(axes: Axes, table: dict[str, Any]) -> None:
    confidence = [row["confidence"] for row in table["bins"]]
    accuracy = [row["accuracy"] for row in table["bins"]]
    sizes = [20 + 4 * row["n"] for row in table["bins"]]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfectly calibrated")
    axes.plot(confidence, accuracy, color="tab:blue")
    axes.scatter(confidence, accuracy, s=sizes, color="tab:blue", label="tracks (larger: more of them)")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"expected calibration error {table['expected_error']:.3f}")
    axes.legend(loc="lower right")


def _draw_emotions(axes: Axes, metrics: dict[str, Any]) -> None:
    correlation = metrics["emotion_correlation"]
    axes.barh(list(correlation), [value or 0.0 for value in correlation.values()], color="tab:green")
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(-1, 1), xlabel="correlation of predicted and felt fraction")
    mean = metrics["emotion_correlation_mean"]
    axes.set_title("undefined for every emotion" if mean is None else f"mean {mean:.3f}")


def _write_predictions(path: Path, evaluation: Evaluation, labels: Sequence[str]) -> None:
    # Emotions that were not trained hold EMOTION_NOT_TRAINED, which is no prediction.
    trained = [place for place in range(len(EMOTIONS)) if (evaluation.emotions[:, place] >= 0).any()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "predicted", *labels, *(f"emotion_{EMOTIONS[place]}" for place in trained)])
        for index, name in enumerate(evaluation.names):
            row = evaluation.probabilities[index]
            emotions = [f"{value:.4f}" for value in evaluation.emotions[index, trained]]
            writer.writerow(
                [
                    name,
                    labels[evaluation.truth[index]],
                    labels[int(row.argmax())],
                    *(f"{p:.4f}" for p in row),
                    *emotions,
                ]
            )
