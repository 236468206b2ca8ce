from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.training import sounds
from tests.unit.training.conftest import N_EACH

from tritone_training import checkpoint
from tritone_training.kind import EvaluateRequest, ModelKind, TrainRequest


@pytest.fixture(scope="module")
def result(kind: ModelKind, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("folds")
    overrides = {"learning_rate": 5e-3, "average_from": 0.0, "batch_size": 8}
    request = TrainRequest(
        out=out, data=manifest, preset="tiny", max_epochs=2, overrides=overrides, progress=False, command="x"
    )
    return kind.crossvalidate(request).to_dict()


def test_every_recording_is_evaluated_once(result: dict[str, Any]) -> None:
    assert [fold["fold"] for fold in result["folds"]] == [0, 1, 2, 3]
    assert result["n"] == result["pooled"]["n"] == sum(fold["n"] for fold in result["folds"]) == 2 * N_EACH
    assert np.sum(result["pooled"]["confusion_matrix"]) == 2 * N_EACH
    tested = [
        name
        for fold in range(4)
        for name in checkpoint.load(Path(result["out"]) / f"fold-{fold}", kind="genre_cnn").info["splits"]["test"]
    ]
    assert sorted(tested) == sorted(f"{label}/{i}.wav" for label in sounds.SOUNDS for i in range(N_EACH))


def test_mean_and_spread_are_over_the_folds(result: dict[str, Any]) -> None:
    for name in ("accuracy", "macro_f1"):
        values = [fold[name] for fold in result["folds"]]
        assert result[name] == pytest.approx(np.mean(values))
        assert result[f"{name}_std"] == pytest.approx(np.std(values))
    weighted = np.average([f["accuracy"] for f in result["folds"]], weights=[f["n"] for f in result["folds"]])
    assert result["pooled"]["accuracy"] == pytest.approx(weighted)
    assert result["emotion_correlation"] == result["pooled"]["emotion_correlation"]


def test_the_checkpoint_of_a_fold_reproduces_its_evaluation(
    kind: ModelKind, result: dict[str, Any], manifest: Path
) -> None:
    asked = EvaluateRequest(checkpoint=Path(result["out"]) / "fold-2", data=manifest, fold=2, progress=False)
    metrics = kind.evaluate(asked).to_dict()
    assert metrics["n_seen_in_training"] == 0
    for name in ("accuracy", "macro_f1", "n", "emotion_correlation_mean"):
        assert metrics[name] == pytest.approx(result["folds"][2][name])
