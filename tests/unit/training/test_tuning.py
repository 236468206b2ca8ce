from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tritone_training import DataError, TrainingError, checkpoint
from tritone_training.kind import ModelKind, TrainRequest
from tritone_training.tuning import tune


@pytest.fixture
def request_of(folders: Path, tmp_path: Path) -> TrainRequest:
    return TrainRequest(out=tmp_path / "study", data=folders, preset="tiny", max_epochs=1, progress=False)


def test_a_study_uses_validation_only_and_is_continued(kind: ModelKind, request_of: TrainRequest) -> None:
    first = tune(kind, request_of, n_trials=2)
    assert (first.n_trials, first.n_failed, first.score) == (2, 0, "valid accuracy")
    second = tune(kind, request_of, n_trials=1)
    assert second.n_trials == 3
    values = {trial["trial"]: trial["accuracy"] for trial in second.trials}
    assert {trial["trial"]: trial["accuracy"] for trial in first.trials}.items() <= values.items()
    assert [t["accuracy"] for t in second.trials] == sorted(values.values(), reverse=True)
    assert second.best_value == max(values.values())
    # A continued search must not draw the first trials' settings again.
    assert len({trial["learning_rate"] for trial in second.trials}) == 3
    runs = [checkpoint.load(request_of.out / f"trial-{number}", kind="genre_cnn").info for number in range(3)]
    held_out = set(runs[0]["splits"]["test"])
    for number, info in enumerate(runs):
        assert info["metrics"]["valid"]["accuracy"] == values[number]
        assert set(info["splits"]["test"]) == held_out  # fold 0 in every trial ...
        assert not held_out & {*info["splits"]["train"], *info["splits"]["valid"]}  # ... and in no other part
    best = next(trial for trial in second.trials if trial["accuracy"] == second.best_value)
    assert set(second.best) == set(best) - {"trial", "accuracy"}


def failing(kind: ModelKind, error: Callable[[int], Exception | None]) -> ModelKind:
    """The kind with a training that fails at chosen trials, and otherwise scores its number."""
    calls = iter(range(100))

    def train(request: TrainRequest, config: Any, data: None) -> dict[str, Any]:
        number = next(calls)
        raised = error(number)
        if raised is not None:
            raise raised
        return {"metrics": {"valid": {"accuracy": number / 100}}}

    return replace(kind, reader=lambda request, config: None, trainer=train)


def test_a_trial_that_diverges_does_not_end_the_search(kind: ModelKind, request_of: TrainRequest) -> None:
    sometimes = failing(kind, lambda number: TrainingError("training diverged") if number == 1 else None)
    result = tune(sometimes, request_of, n_trials=3)
    assert (result.n_trials, result.n_failed) == (2, 1)
    assert result.best_value == 0.02


def test_a_study_without_trials_is_an_error_with_the_reason(kind: ModelKind, request_of: TrainRequest) -> None:
    never = failing(kind, lambda number: TrainingError(f"reason {number}"))
    with pytest.raises(TrainingError, match="not one trial could be trained; the last: reason 1"):
        tune(never, request_of, n_trials=2)


def test_data_that_cannot_be_used_end_the_search_at_once(kind: ModelKind, request_of: TrainRequest) -> None:
    with pytest.raises(DataError, match="has no fold"):
        tune(failing(kind, lambda _: DataError("has no fold")), request_of, n_trials=50)


def test_a_study_of_other_settings_is_not_mixed_in(kind: ModelKind, request_of: TrainRequest) -> None:
    steady = failing(kind, lambda _: None)
    tune(steady, request_of, n_trials=1)
    with pytest.raises(TrainingError, match=r"holds a study of other settings \(preset was 'tiny', is now 'default'\)"):
        tune(steady, replace(request_of, preset="default"), n_trials=1)
