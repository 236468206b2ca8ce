from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score
from tests.unit.training import sounds

from tritone.constants import EMOTIONS
from tritone_training.kinds.genre_cnn.metrics import calibration, emotion_metrics, genre_metrics

LABELS = ("a", "b", "c")


def one_hot(guesses: list[int], confidence: float = 0.8) -> sounds.Array:
    rest = (1 - confidence) / 2
    return np.where(np.eye(3)[guesses] > 0, confidence, rest)


def test_a_small_case_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    metrics = genre_metrics(one_hot([0, 0, 1, 1, 0, 2]), truth, LABELS)
    assert metrics["n"] == 6
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]  # rows: truth
    assert metrics["per_class"]["a"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "n": 3})
    assert metrics["per_class"]["b"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "n": 2})
    assert metrics["per_class"]["c"] == pytest.approx({"precision": 1, "recall": 1, "f1": 1, "n": 1})
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_labels_that_do_not_occur_do_not_count_but_are_listed() -> None:
    metrics = genre_metrics(one_hot([0, 1, 2]), np.array([0, 1, 1]), LABELS)
    assert metrics["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert np.shape(metrics["confusion_matrix"]) == (3, 3)


def test_a_single_recording() -> None:
    metrics = genre_metrics(one_hot([1]), np.array([1]), LABELS)
    assert (metrics["accuracy"], metrics["macro_f1"], metrics["n"]) == (1.0, 1.0, 1)


def test_random_cases_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        truth = random.integers(0, 3, 40)
        probabilities = random.dirichlet(np.ones(3), 40)
        guess = probabilities.argmax(1)
        metrics = genre_metrics(probabilities, truth, LABELS)
        assert metrics["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
        for index, label in enumerate(LABELS):
            kw = {"labels": [index], "average": "macro", "zero_division": 0.0}
            assert metrics["per_class"][label]["precision"] == pytest.approx(precision_score(truth, guess, **kw))
            assert metrics["per_class"][label]["recall"] == pytest.approx(recall_score(truth, guess, **kw))
        assert np.trace(metrics["confusion_matrix"]) / 40 == pytest.approx(metrics["accuracy"])


def test_calibration_by_hand() -> None:
    # Ten at 0.85 of whom eight are right, five at 0.45 of whom one is right, one that is sure and right.
    probabilities = np.array([[0.85, 0.15, 0]] * 10 + [[0.45, 0.3, 0.25]] * 5 + [[0, 0, 1.0]])
    truth = np.array([0] * 8 + [1] * 2 + [0] + [1] * 4 + [2])
    table = calibration(probabilities, truth)
    assert [row["n"] for row in table["bins"]] == [5, 10, 1]
    assert [row["confidence"] for row in table["bins"]] == pytest.approx([0.45, 0.85, 1.0])
    assert [row["accuracy"] for row in table["bins"]] == pytest.approx([0.2, 0.8, 1.0])
    assert table["expected_error"] == pytest.approx((5 * 0.25 + 10 * 0.05 + 0) / 16)


def test_emotions_correlate_over_the_tracks_that_are_known() -> None:
    random = np.random.default_rng(1)
    wanted = random.uniform(0, 1, (30, 9))
    predicted = 0.5 * wanted + 0.2 * random.uniform(0, 1, (30, 9))
    wanted[5] = np.nan
    metrics = emotion_metrics(predicted, wanted)
    known = np.delete(np.arange(30), 5)
    expected = [np.corrcoef(predicted[known, i], wanted[known, i])[0, 1] for i in range(9)]
    assert list(metrics["emotion_correlation"]) == list(EMOTIONS)
    assert list(metrics["emotion_correlation"].values()) == pytest.approx(expected)
    assert metrics["emotion_correlation_mean"] == pytest.approx(np.mean(expected))


def test_a_constant_correlates_with_nothing_even_when_rounding_moves_it() -> None:
    random = np.random.default_rng(2)
    wanted, predicted = random.uniform(0, 1, (20, 9)), random.uniform(0, 1, (20, 9))
    wanted[:, 0] = 0.1
    predicted[:, 1] = 0.1 + np.array([0.0, 1e-17, 2.8e-17, 1e-16] * 5)
    metrics = emotion_metrics(predicted, wanted)
    assert metrics["emotion_correlation"][EMOTIONS[0]] is None
    assert metrics["emotion_correlation"][EMOTIONS[1]] is None
    defined = [v for v in metrics["emotion_correlation"].values() if v is not None]
    assert len(defined) == 7
    assert metrics["emotion_correlation_mean"] == pytest.approx(np.mean(defined))
    assert emotion_metrics(np.full((20, 9), 0.5), wanted)["emotion_correlation_mean"] is None


@pytest.mark.parametrize(
    ("predicted", "wanted"),
    [
        (np.full((5, 9), -1.0), np.full((5, 9), 0.5)),  # not trained on emotions
        (np.full((5, 9), 0.5), np.full((5, 9), np.nan)),  # nothing to compare with
        (np.full((1, 9), 0.5), np.full((1, 9), 0.5)),  # one track correlates with nothing
    ],
)
def test_emotions_that_cannot_be_evaluated(predicted: sounds.Array, wanted: sounds.Array) -> None:
    assert emotion_metrics(predicted, wanted) == {"emotion_correlation": None, "emotion_correlation_mean": None}
