"""Metrics of predictions: genre (accuracy, F1, confusion, calibration) and emotions (correlation).

Shapes: N tracks or windows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from tritone.constants import EMOTIONS

FloatMatrix = npt.NDArray[np.float64]
_N_BINS: Final = 10
_LEAST_SPREAD: Final = 1e-9  # what varies less is constant but for rounding, and correlates with nothing


def genre_metrics(probabilities: FloatMatrix, truth: npt.NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro-F1, metrics by class, confusion matrix (rows: truth) and calibration of (N, L)."""
    guess = probabilities.argmax(1)
    indices = range(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=indices, zero_division=0.0)
    present = [index for index in indices if support[index]]
    return {
        "accuracy": float(accuracy_score(truth, guess)),
        # Over the labels that occur: one that this split lacks can be neither found nor missed.
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
    """Return confidence and accuracy in ten bins, and the expected calibration error (Guo et al. 2017)."""
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
    """Return the Pearson correlation of each emotion over tracks with known fractions; None where it is undefined."""
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
    if min(a.std(), b.std()) < _LEAST_SPREAD:
        return None
    return float(np.corrcoef(a, b)[0, 1])
