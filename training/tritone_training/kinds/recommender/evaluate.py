"""How good a checkpoint of `recommender` is on held-out listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritone_training.data.interactions import Log, columns_of, load_listening, load_log
from tritone_training.exceptions import TrainingError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.recommender import report
from tritone_training.kinds.recommender.build import load_info
from tritone_training.kinds.recommender.evaluation import evaluate_ranking, evaluation_users
from tritone_training.kinds.recommender.offline import open_recommender
from tritone_training.kinds.recommender.staging import check_together
from tritone_training.progress import progress_bar


def evaluate(request: EvaluateRequest) -> Mapping[str, Any]:
    """Judge by `--test`, or by a part that training held out of the same log.

    Raises:
        TrainingError: a fold is asked for.
        DataError: nobody can be evaluated.
        CheckpointError: the checkpoint cannot be used.
    """
    if request.fold is not None:
        raise TrainingError("listening logs have no folds; give --test FILE, or --split valid or test")
    info = load_info(request.checkpoint)
    log, held_out, which = _data(request, int(info["seed"]))
    key = request.listening.key if request.listening is not None else None
    recommender, taste = open_recommender(request.checkpoint, key)
    check_together(request.checkpoint, info, recommender.artifact.manifest)
    people = evaluation_users(recommender, log, held_out)
    with progress_bar("ranking", shown=request.progress) as on_progress:
        metrics = evaluate_ranking(recommender, taste, people, on_progress=on_progress)
    metrics = {
        **metrics,
        "checkpoint": str(request.checkpoint),
        "data": log.source,
        "part": which,
        "cleaning": {"log": log.report, "held_out": held_out.report},
    }
    if request.report is not None:
        metrics["report"] = report.write(request.report, metrics)
    return metrics


def _data(request: EvaluateRequest, seed: int) -> tuple[Log, Log, str]:
    files = request.listening
    if files is not None and files.test is not None:
        if files.interactions is None:
            raise TrainingError(
                "--test FILE is evaluated beside the log that was learned from: give --interactions LOG, too"
            )
        if request.split is not None:
            raise TrainingError("give --test or --split, not both")
        columns = columns_of(files)
        return load_log(files.interactions, columns), load_log(files.test, columns), files.test.name
    listening = load_listening(
        TrainRequest(out=request.checkpoint, data=request.data, listening=files, seed=seed, progress=request.progress)
    )
    part = request.split or ("test" if listening.test is not None else "valid")
    return listening.train, listening.part(part), part
