"""Summary, plots and tables of an evaluation: confusion matrix, calibration, emotions, one row per track."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tritone.constants import EMOTIONS
from tritone_training.evaluation import Table, problem_lines
from tritone_training.kinds.genre_cnn.metrics import calibration
from tritone_training.plots import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tritone_training.kinds.genre_cnn.evaluate import Evaluation

_LARGEST_INCHES: Final = 40.0


def write(folder: Path, evaluation: Evaluation, labels: Sequence[str]) -> list[str]:
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


def summarize(metrics: Mapping[str, Any], details: Mapping[str, Any]) -> list[str | Table]:
    """Return the main metrics, those per class, the confusion matrix and the correlation of emotions."""
    window = metrics["window"]
    found: list[str | Table] = [
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
        Table("per class", [{"label": label, **values} for label, values in metrics["per_class"].items()]),
        Table(
            "confusion matrix (rows: true, columns: predicted)",
            [{"true": label, **dict(zip(labels, row, strict=True))} for label, row in zip(labels, counts, strict=True)],
        ),
    ]
    if metrics["emotion_correlation"]:
        found.append(Table("emotions (correlation)", [metrics["emotion_correlation"]]))
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
