"""Cross-validation over several seeds, with held-out listens and held-out users."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from tritone_training.data.interactions import ListeningData, files_of, split_log
from tritone_training.data.interactions.listening import without_pairs
from tritone_training.evaluation import CrossValidationResult, MeanStd, SummaryTable
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.evaluate import evaluate_ranking, evaluation_users
from tritone_training.kinds.recommender.train import train_prepared
from tritone_training.kinds.recommender.training_data import TrainingData, prepare
from tritone_training.progress import progress_bar

_HELD_OUT_USERS: Final = 0.1  # fraction
_SHOWN: Final = ("ndcg@10", "recall@10", "recall@40", "ndcg@40")


def crossvalidate(request: TrainRequest, config: RecommenderConfig) -> CrossValidationResult:
    """Train and evaluate the ensemble once per seed.

    Each seed splits the log differently and removes some users from training altogether. These are evaluated by their
    histories (`cold_start`); all other metrics are those of users in the training data.
    """
    prepared = prepare(request)
    folds = []
    for seed in range(request.seed, request.seed + request.n_seeds):
        fold = replace(request, seed=seed, out=request.out / f"seed-{seed}", refit_on_all=False)
        folds.append({"seed": seed, **_fold(fold, prepared, config)})
    metrics = {name: MeanStd.of([fold[name] for fold in folds]) for name in _SHOWN}
    ratio = float(np.mean([fold["cold_start_ratio"] for fold in folds]))
    main = (f"{name} {metrics[name].mean:.4f} ± {metrics[name].std:.4f}" for name in ("ndcg@10", "recall@40"))
    return CrossValidationResult(
        request.out,
        metrics=metrics,
        details={"cold_start_ratio": ratio},
        folds=folds,
        data=prepared.listening.report,
        summary=[
            SummaryTable("folds", folds),
            ", ".join(main) + f" (mean ± standard deviation over {len(folds)} seeds)",
            f"cold-start users reach {ratio:.0%} of the NDCG@10 of users in training",
        ],
    )


def _fold(request: TrainRequest, prepared: TrainingData, config: RecommenderConfig) -> dict[str, Any]:
    listening = prepared.listening
    rng = np.random.default_rng(request.seed)
    rest, held_out = split_log(replace(listening.train, time=None), fraction=0.2, seed=request.seed)
    active = np.unique(rest.user)
    out = rng.choice(active, max(1, round(_HELD_OUT_USERS * len(active))), replace=False)
    inside = rest.take(~np.isin(rest.user, out))
    tags = without_pairs(listening.tags, [held_out])
    own = {listening.train.users[user] for user in out.tolist()}
    kept = [index for index, user in enumerate(tags.users) if user not in own]
    tags = replace(
        tags,
        items=[tags.items[index] for index in kept],
        tags=[tags.tags[index] for index in kept],
        users=[tags.users[index] for index in kept],
    )
    fold = ListeningData(inside, listening.valid, None, listening.friends, tags, listening.metadata, listening.report)
    train_prepared(request, config, TrainingData(fold, prepared.sounds))
    recommender, networks = open_recommender(request.out, files_of(request.data).key)
    with progress_bar(f"evaluating seed {request.seed}", shown=request.progress) as on_progress:
        metrics = evaluate_ranking(
            recommender, networks, evaluation_users(recommender, rest, held_out), on_progress=on_progress
        )
        cold_start = metrics["cold_users"]["by_history"]
        trained = evaluate_ranking(
            recommender,
            networks,
            evaluation_users(recommender, rest, held_out.take(~np.isin(held_out.user, out))),
            on_progress=on_progress,
        )["ensemble"]
    return {
        **{name: trained[name] for name in _SHOWN},
        "cold_start_ndcg@10": cold_start["ndcg@10"],
        "cold_start_ratio": cold_start["ndcg@10"] / max(trained["ndcg@10"], 1e-9),
    }
