"""Training of `recommender`: base models on the training split, their weights on the validation split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, KeyFileError, make_key, write_artifact
from tritone_serving.recommender.artifact import INFERRED_MOOD
from tritone_training import checkpoint
from tritone_training.checkpoint import METRICS_OF_SELECTION, SELECTION_FOLDER
from tritone_training.data.interactions import ListeningData, files_of
from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.base_fit import FittedModels, fit_models
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    KEY_FILENAME,
    PARTS,
    put_in_place,
    staging,
)
from tritone_training.kinds.recommender.checkpoint_writing import write_fit
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import Engine, open_engine
from tritone_training.kinds.recommender.ensemble.inferred_moods import inference_of_strength_1, select_mood_inference
from tritone_training.kinds.recommender.ensemble.model_selection import (
    NOTHING_LEARNED,
    SelectedEnsemble,
    least_popularity,
    select_ensemble,
    with_bounded_bias,
)
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.training_data import TrainingData
from tritone_training.progress import progress_bar


def train_prepared(request: TrainRequest, config: RecommenderConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Train and write the checkpoint folder; an existing one is replaced only when training has finished.

    Raises:
        EngineError: the engine cannot be used, or lost its workers.
        TrainingError: training `taste_vae` diverged, or the key cannot be used.
    """
    if request.taste_vae is not None:
        _check_taste(request, config, prepared)
    key_path = files_of(request.data).key or request.out / KEY_FILENAME
    try:
        key = make_key(key_path)
    except KeyFileError as error:
        raise TrainingError(str(error)) from error
    with open_engine(request) as engine, staging(request.out, resume=request.resume) as staged:
        summary = _fit(replace(request, out=staged), config, prepared, key, key_path, engine=engine)
        put_in_place(request.out, staged, PARTS)
    return {"checkpoint": str(request.out), "key": str(key_path), **summary}


def _fit(
    request: TrainRequest,
    config: RecommenderConfig,
    prepared: TrainingData,
    key: bytes,
    key_path: Path,
    *,
    engine: Engine,
) -> dict[str, Any]:
    began_s = time.monotonic()
    refits = _refits(request, prepared.listening)
    selection = replace(request, out=request.out / SELECTION_FOLDER) if refits else request
    fitted = fit_models(selection, config, prepared, key, engine=engine)
    chosen = _select(selection, config, prepared.listening, fitted, key_path, engine=engine)
    moods = _select_moods(selection, prepared.listening, fitted, chosen, key_path)
    refit = None
    if refits:
        seconds = time.monotonic() - began_s
        write_fit(
            selection,
            config,
            prepared,
            fitted,
            chosen,
            moods=moods,
            key_path=key_path,
            seconds=seconds,
            engine=engine,
        )
        least_before = least_popularity(fitted.parts.arrays)
        del fitted
        prepared = replace(prepared, listening=prepared.listening.whole())
        taste = checkpoint.read_info(selection.out / TASTE) if config.taste_vae else None
        sequence = selection.out / TASTE_SEQUENCE
        fitted = fit_models(
            request,
            config,
            prepared,
            key,
            selected_taste=taste,
            selected_sequence=sequence if sequence.is_dir() else None,
            engine=engine,
        )
        least_known = least_popularity(fitted.parts.arrays)
        ensembles = with_bounded_bias(chosen.ensembles, least_before=least_before, least_known=least_known)
        chosen = replace(chosen, ensembles=ensembles)
        refit = {"n_listens": len(prepared.listening.train), "metrics_of": METRICS_OF_SELECTION}
    return write_fit(
        request,
        config,
        prepared,
        fitted,
        chosen,
        moods=moods,
        key_path=key_path,
        seconds=time.monotonic() - began_s,
        refit=refit,
        ranks=True,
        engine=engine,
    )


def _check_taste(request: TrainRequest, config: RecommenderConfig, prepared: TrainingData) -> None:
    """Check that a given `taste_vae` is used, before base models are fitted.

    Raises:
        TrainingError: the recommender has none, or it would have to be trained on the held-out listens too.
    """
    if not config.taste_vae:
        raise TrainingError("--taste-vae: expected a recommender with this base model, got the setting taste_vae=false")
    if _refits(request, prepared.listening):
        raise TrainingError(
            "--taste-vae: expected a recommender that is fitted on the training split only, got a fit on all listens; "
            "add --no-refit-on-all, or leave --taste-vae out"
        )


def _refits(request: TrainRequest, listening: ListeningData) -> bool:
    """Return whether what is served is fitted on the held-out listens too.

    By default True if the split is leave-one-out: the held-out item is each user's latest, which predicts the next one
    best.
    """
    if request.refit_on_all is None:
        return listening.train.time is None and listening.train.sequences is not None
    return request.refit_on_all


def _select(
    request: TrainRequest,
    config: RecommenderConfig,
    listening: ListeningData,
    fitted: FittedModels,
    key_path: Path,
    *,
    engine: Engine,
) -> SelectedEnsemble:
    folder = request.out / ARTIFACT_FOLDER
    write_artifact(folder, {**fitted.manifest, "ensembles": NOTHING_LEARNED}, fitted.parts.arrays)
    recommender, ask = open_recommender(request.out, key_path)
    with progress_bar("fitting the ensemble's weights", shown=request.progress) as on_progress:
        return select_ensemble(
            recommender,
            ask,
            listening,
            fitted.dataset,
            config,
            seed=request.seed,
            on_progress=on_progress,
            engine=engine,
        )


def _select_moods(
    request: TrainRequest, listening: ListeningData, fitted: FittedModels, chosen: SelectedEnsemble, key_path: Path
) -> dict[str, Any] | None:
    """Return how moods are inferred; None if the recommender has no moods or the log no times."""
    if "mood" not in fitted.parts.base_models:
        return None
    if "user_knn" in fitted.parts.base_models:
        fitted.parts.base_models["user_knn"]["metric"] = chosen.metric
    for name, scale in chosen.scales.items():
        fitted.parts.base_models[name]["scale"] = scale
    inferring = {"ensembles": chosen.ensembles, INFERRED_MOOD: inference_of_strength_1()}
    write_artifact(request.out / ARTIFACT_FOLDER, {**fitted.manifest, **inferring}, fitted.parts.arrays)
    recommender, networks = open_recommender(request.out, key_path)
    return select_mood_inference(recommender, networks, listening.train, listening.valid, seed=request.seed)
