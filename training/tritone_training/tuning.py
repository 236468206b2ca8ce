"""Hyper-parameter search with Optuna over a kind's own space, judged on validation data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tritone_training.kind import ModelKind, TrainRequest


def tune(kind: ModelKind, request: TrainRequest, *, n_trials: int) -> Mapping[str, Any]:
    """Run `n_trials` more trials of the study in `request.out`.

    The held-out fold plays no part: a trial's value is the score on its validation part.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    request.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=kind.name,
        storage=f"sqlite:///{request.out / 'study.db'}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=request.seed),
    )
    train = kind.trainer(request)

    def objective(trial: optuna.Trial) -> float:
        folder = request.out / f"trial-{trial.number}"
        summary = train(replace(request, out=folder, overrides=dict(kind.suggest(trial))))
        shutil.rmtree(folder / "logs", ignore_errors=True)
        return float(summary["metrics"]["valid"][kind.score])

    study.optimize(objective, n_trials=n_trials, show_progress_bar=request.progress)
    finished = [trial for trial in study.trials if trial.value is not None]
    ranked = sorted(finished, key=lambda trial: -float(trial.value or 0.0))
    return {
        "kind": kind.name,
        "score": f"valid {kind.score}",
        "best": study.best_params,
        "best_value": study.best_value,
        "n_trials": len(finished),
        "trials": [{"trial": t.number, kind.score: t.value, **t.params} for t in ranked],
        "out": str(request.out),
    }
