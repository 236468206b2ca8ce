"""Hyper-parameter search with Optuna over the search space of a kind, evaluated on validation data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.data.tables import location_of
from tritone_training.evaluation import TuningResult
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import ModelKind, TrainRequest
from tritone_training.runs import differences, discard_state

if TYPE_CHECKING:
    import optuna


def tune(kind: ModelKind, request: TrainRequest, *, n_trials: int) -> TuningResult:
    """Run `n_trials` more trials of the study in `request.out`.

    The held-out fold is not used: the value of a trial is its score on the validation split. A trial whose training
    fails, for example because it diverges, counts as pruned, and the search continues.

    Raises:
        TrainingError: the study in the folder has other data or settings, or no trial could be trained.
    """
    import optuna

    kind.check(request)
    request.out.mkdir(parents=True, exist_ok=True)
    study = _study(kind, request)
    train = kind.prepare(request)

    def objective(trial: optuna.Trial) -> float:
        folder = request.out / f"trial-{trial.number}"
        overrides = {**request.overrides, **kind.suggest(trial)}
        try:
            summary = train(replace(request, out=folder, overrides=overrides))
        except DataError:
            raise  # would fail in every trial
        except TrainingError as error:
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned(str(error)) from error
        finally:
            shutil.rmtree(folder / "logs", ignore_errors=True)
            discard_state(folder)  # an interrupted trial is not resumed: the study continues with the next one
        return float(summary["metrics"]["valid"][kind.score])

    study.optimize(objective, n_trials=n_trials, show_progress_bar=request.progress)
    return _result(study, kind, request)


def _study(kind: ModelKind, request: TrainRequest) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=kind.name,
        storage=f"sqlite:///{request.out / 'study.db'}",
        load_if_exists=True,
        direction="maximize",
    )
    n_before = len(study.trials)
    # Values of other data, splits or lengths of training could not be compared.
    data = request.data.interactions if isinstance(request.data, ListeningFiles) else request.data
    asked = {
        "data": location_of(data) if data else "embedded corpus",
        **{name: getattr(request, name) for name in ("preset", "seed", "fold", "pretrained", "max_epochs")},
        "overrides": dict(request.overrides),
    }
    before = study.user_attrs.get("asked", asked)
    if before != asked:
        raise TrainingError(
            f"{request.out}: holds a study of other settings ({differences(before, asked)}); give another --out"
        )
    study.set_user_attr("asked", asked)
    # Another seed for each continuation: the same one would draw the first trials' settings again.
    study.sampler = optuna.samplers.TPESampler(seed=request.seed + n_before)
    return study


def _result(study: optuna.Study, kind: ModelKind, request: TrainRequest) -> TuningResult:
    finished = [trial for trial in study.trials if trial.value is not None]
    if not finished:
        errors = [trial.user_attrs["error"] for trial in study.trials if "error" in trial.user_attrs]
        raise TrainingError(f"not one trial could be trained; the last: {errors[-1] if errors else 'no reason given'}")
    ranked = sorted(finished, key=lambda trial: -float(trial.value or 0.0))
    return TuningResult(
        kind=kind.name,
        score=f"valid {kind.score}",
        best=study.best_params,
        best_value=study.best_value,
        n_trials=len(finished),
        n_failed=sum("error" in trial.user_attrs for trial in study.trials),
        trials=[{"trial": t.number, kind.score: t.value, **t.params} for t in ranked],
        out=request.out,
    )
