"""Write the artifact and checkpoint.json of fitted base models with the selected ensemble."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tritone_serving.recommender import write_artifact
from tritone_serving.recommender.artifact import EMBEDDING_MODEL, INFERRED_MOOD
from tritone_serving.recommender.text_search import TEXT_ENCODER
from tritone_training import checkpoint
from tritone_training.data.interactions import files_of
from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.base_fit import FittedModels
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    FIT,
    KIND_NAME,
    REFIT,
)
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.ensemble.model_selection import (
    SelectedEnsemble,
)
from tritone_training.kinds.recommender.ensemble.offline import open_recommender, precompute_rankings
from tritone_training.kinds.recommender.report import base_models_table
from tritone_training.kinds.recommender.training_data import TrainingData
from tritone_training.progress import progress_bar


def write_fit(
    request: TrainRequest,
    config: RecommenderConfig,
    prepared: TrainingData,
    fitted: FittedModels,
    chosen: SelectedEnsemble,
    *,
    moods: Mapping[str, Any] | None = None,
    key_path: Path,
    seconds: float,
    refit: Mapping[str, Any] | None = None,
    ranks: bool = False,
    engine: Engine = IN_PROCESS,
) -> dict[str, Any]:
    """Write the artifact and checkpoint.json of fitted base models with the selected ensemble.

    Args:
        request: `out` is the folder of the checkpoint.
        config: hyper-parameters.
        prepared: the data of the fit.
        fitted: its base models.
        chosen: metric and weights.
        moods: how moods are inferred from the last plays; None if they are not.
        key_path: file of the key of the users' pseudonyms.
        seconds: duration of the training.
        refit: description of a fit on all listens, for checkpoint.json; None for a fit on the training split.
        ranks: precompute the users' rankings.
        engine: computes them.

    Returns:
        summary of the training.
    """
    dataset, parts, taste = fitted.dataset, fitted.parts, fitted.taste
    if "user_knn" in parts.base_models:
        parts.base_models["user_knn"]["metric"] = chosen.metric
    for name, scale in chosen.scales.items():
        parts.base_models[name]["scale"] = scale
    how = chosen.how if refit is None else f"{chosen.how}; of {refit['metrics_of']}"
    manifest = {
        **fitted.manifest,
        "ensembles": chosen.ensembles,
        "ab": {"salt": "", "shares": {"a": 1.0}},
        "metrics": {"valid": chosen.metrics},
        **({} if moods is None else {INFERRED_MOOD: moods}),
        **({} if refit is None else {REFIT: refit}),
    }
    if not _is_finite(manifest):
        raise TrainingError("the fitted weights are not finite; choose less extreme hyper-parameters")
    folder = request.out / ARTIFACT_FOLDER
    write_artifact(folder, manifest, parts.arrays)
    if ranks and config.n_listed and dataset.n_users <= config.most_listed_users:
        recommender, ask = open_recommender(request.out, key_path)
        with progress_bar("precomputing rankings", shown=request.progress) as on_progress:
            parts.arrays.update(
                precompute_rankings(recommender, ask, dataset, config.n_listed, on_progress=on_progress, engine=engine)
            )
        write_artifact(folder, manifest, parts.arrays)
    report = prepared.listening.report
    info: dict[str, Any] = {
        "format": checkpoint.FORMAT,
        "kind": KIND_NAME,
        FIT: manifest[FIT],
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": checkpoint.versions(),
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "seconds": round(seconds, 1),
        "engine": {**engine.describe(), **({} if prepared.reading is None else {"reading": dict(prepared.reading)})},
        "n_users": dataset.n_users,
        "n_items": dataset.n_items,
        "base_models": list(parts.base_models),
        **{name: manifest[name] for name in (EMBEDDING_MODEL, TEXT_ENCODER) if name in manifest},
        **({} if files_of(request.data).key is None else {"key": str(key_path.absolute())}),
        "ensembles": chosen.ensembles,
        "taste_vae": taste,
        **({} if fitted.sequence is None else {"taste_sequence": fitted.sequence}),
        "data": report,
        "metrics": {"valid": chosen.metrics, "how": how},
        **({} if refit is None else {REFIT: refit}),
        "personal_data": manifest["personal_data"],
    }
    checkpoint.update_info(request.out, info)
    return {
        **{
            name: info[name] for name in ("n_users", "n_items", "base_models", "ensembles", "seconds", "engine", "data")
        },
        **({} if refit is None else {REFIT: refit}),
        "metrics": {"valid": chosen.metrics["ensemble"]},
        "base_models_valid": chosen.metrics["base_models"],
        "tables": [base_models_table(chosen.metrics["base_models"])],
        "n_epochs": 0 if taste is None else taste["n_epochs"],
    }


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)
