"""Results of evaluation and cross-validation: the JSON form and the summary for people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritone_training.evaluation import (
    CrossValidationResult,
    EvaluationResult,
    MeanStd,
    SummaryTable,
    TuningResult,
    problem_lines,
    summarize,
)


def test_an_evaluation_has_metrics_and_details_at_the_top_of_its_json() -> None:
    result = EvaluationResult(
        Path("runs/x"), "my music", {"accuracy": 0.5}, {"split": "test"}, summary=["accuracy 0.5"]
    )
    expected = {"accuracy": 0.5, "checkpoint": "runs/x", "data": "my music", "split": "test"}
    assert json.loads(json.dumps(result.to_dict())) == expected
    with_report = EvaluationResult(Path("runs/x"), "my music", {"accuracy": 0.5}, report=("a.png",))
    assert with_report.to_dict()["report"] == ["a.png"]


def test_a_cross_validation_has_mean_and_standard_deviation_of_each_metric() -> None:
    metrics = {"accuracy": MeanStd.of([0.5, 1.0])}
    assert metrics["accuracy"] == (0.75, 0.25)
    result = CrossValidationResult(Path("folds"), metrics, {"n": 3}, [{"fold": 0}], data={"n_used": 3})
    assert json.loads(json.dumps(result.to_dict())) == {
        "accuracy": 0.75, "accuracy_std": 0.25, "n": 3, "folds": [{"fold": 0}], "data": {"n_used": 3}, "out": "folds",
    }  # fmt: skip


def test_a_search_is_plain_json() -> None:
    result = TuningResult("genre_cnn", "valid accuracy", {"dropout": 0.1}, 0.5, 1, 0, [{"trial": 0}], Path("study"))
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["out"] == "study"
    assert plain["trials"] == [{"trial": 0}]
    assert set(plain) == {"kind", "score", "best", "best_value", "n_trials", "n_failed", "trials", "out"}


def test_the_summary_shows_numbers_in_a_line_and_groups_in_tables() -> None:
    values = {
        "n_pieces": 3,
        "nll_per_frame": 0.01234,
        "is_new": True,
        "data": "my scores",
        "elbo": {"kl_nats": 2.0},
        "splits": {"train": {"n": 2, "nll": 1.0}, "valid": {"n": 1}},
    }
    assert summarize(values) == [
        "n pieces 3, nll per frame 0.0123",
        SummaryTable("elbo", [{"kl_nats": 2.0}]),
        SummaryTable("splits", [{"": "train", "n": 2, "nll": 1.0}, {"": "valid", "n": 1, "nll": None}]),
    ]


@pytest.mark.parametrize(("n", "n_lines"), [(0, 0), (10, 10), (12, 11)])
def test_at_most_ten_problems_are_listed(n: int, n_lines: int) -> None:
    problems = [{"path": f"{i}.wav", "reason": "silent", "message": "no sound"} for i in range(n)]
    lines = problem_lines("not used", problems)
    assert len(lines) == n_lines
    if n > 10:
        assert lines[-1] == "  ... and 2 more; --json lists all"
    if n:
        assert lines[0] == "  not used: 0.wav (silent): no sound"
