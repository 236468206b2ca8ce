"""Training of `recommender`: base models on the training split, their weights on the validation split."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, KeyFileError, make_key, write_artifact
from tritone_serving.recommender.artifact import EMBEDDING_MODEL, INFERRED_MOOD
from tritone_serving.recommender.text_search import TAG_EMBEDDINGS, TEXT_ENCODER
from tritone_training import checkpoint
from tritone_training.checkpoint import METRICS_OF_SELECTION, SELECTION_FOLDER
from tritone_training.data.interactions import ListeningData, files_of, load_listening, words_matrix
from tritone_training.exceptions import TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    FIT,
    KEY_FILENAME,
    KIND_NAME,
    PARTS,
    REFIT,
    new_fit,
    put_in_place,
    staging,
)
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine, check_engine, open_engine
from tritone_training.kinds.recommender.ensemble.inferred_moods import inference_of_strength_1, select_mood_inference
from tritone_training.kinds.recommender.ensemble.model_selection import (
    NOTHING_LEARNED,
    SelectedEnsemble,
    least_popularity,
    select_ensemble,
    with_bounded_bias,
)
from tritone_training.kinds.recommender.ensemble.offline import open_recommender, precompute_rankings
from tritone_training.kinds.recommender.fitting.base_models import ArtifactParts, fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset, build_dataset
from tritone_training.kinds.recommender.fitting.recording_embeddings import (
    RecordingEmbeddings,
    add_sounds,
    embed_recordings,
)
from tritone_training.kinds.recommender.fitting.sequence_network import train_sequence_network
from tritone_training.kinds.recommender.fitting.text_index import (
    encoder_arrays,
    encoder_entry,
    text_search_arrays,
    with_sound_tags,
)
from tritone_training.kinds.recommender.report import base_models_table
from tritone_training.kinds.taste_vae.config import PRESETS as TASTE_PRESETS
from tritone_training.kinds.taste_vae.train import TasteData, check_learned_from, train_taste
from tritone_training.pretrained.sentence_encoder import PretrainedEncoder, load_sentence_encoder
from tritone_training.progress import progress_bar


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Data that is read once for all folds and trials."""

    listening: ListeningData
    sounds: RecordingEmbeddings | None


def prepare(request: TrainRequest) -> TrainingData:
    """Read the log and embed the recordings.

    Raises:
        EngineError: the engine of the request cannot be used.
    """
    check_engine(request)
    listening, sounds = load_listening(request), embed_recordings(request)
    if sounds is not None:
        recordings = {"n_used": len(sounds.items), "n_in_log": len(set(sounds.items) & set(listening.train.items))}
        parts = {**listening.report["parts"], "recordings": recordings}
        listening = replace(listening, report={**listening.report, "parts": parts})
    return TrainingData(listening, sounds)


def train_prepared(request: TrainRequest, config: RecommenderConfig, prepared: TrainingData) -> Mapping[str, Any]:
    """Train and write the checkpoint folder; an existing one is replaced only when training has finished.

    Raises:
        EngineError: the engine cannot be used, or lost its workers.
        TrainingError: training `taste_vae` diverged, or the key cannot be used.
    """
    key_path = files_of(request.data).key or request.out / KEY_FILENAME
    try:
        key = make_key(key_path)
    except KeyFileError as error:
        raise TrainingError(str(error)) from error
    with open_engine(request) as engine, staging(request.out, resume=request.resume) as staged:
        summary = _fit(replace(request, out=staged), config, prepared, key, key_path, engine=engine)
        put_in_place(request.out, staged, PARTS)
    return {"checkpoint": str(request.out), "key": str(key_path), **summary}


@dataclass(frozen=True, eq=False)
class FittedModels:
    """Fitted base models, before the ensemble's weights.

    Attributes:
        dataset: the data they were fitted on.
        parts: arrays and entries of the artifact.
        manifest: of the artifact, without the ensemble's weights.
        taste: description of `taste_vae` for checkpoint.json; None without it.
        sequence: the same for `taste_sequence`.
    """

    dataset: InteractionDataset
    parts: ArtifactParts
    manifest: Mapping[str, Any]
    taste: dict[str, Any] | None
    sequence: dict[str, Any] | None


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


def _refits(request: TrainRequest, listening: ListeningData) -> bool:
    """Return whether what is served is fitted on the held-out listens too.

    By default True if the split is leave-one-out: the held-out item is each user's latest, which predicts the next one
    best.
    """
    if request.refit_on_all is None:
        return listening.train.time is None and listening.train.sequences is not None
    return request.refit_on_all


def fit_models(
    request: TrainRequest,
    config: RecommenderConfig,
    prepared: TrainingData,
    key: bytes,
    *,
    selected_taste: Mapping[str, Any] | None = None,
    selected_sequence: Path | None = None,
    engine: Engine = IN_PROCESS,
) -> FittedModels:
    """Fit all base models on the training split.

    Args:
        request: `out` is the folder of the checkpoint, in which `taste_vae` is trained.
        config: hyper-parameters.
        prepared: the data.
        key: key of the users' pseudonyms.
        selected_taste: checkpoint.json of the `taste_vae` whose number of epochs and metrics are used, if the training
            split holds the held-out listens too.
        selected_sequence: checkpoint of the `taste_sequence`, for the same.
        engine: computes the parts of the base models; networks are trained in this process.
    """
    listening = prepared.listening
    dataset = build_dataset(listening, config, key, prepared.sounds.items if prepared.sounds else ())
    with ExitStack() as bars:

        def on_step(name: str) -> Callable[[int, int], None]:
            bars.close()
            return bars.enter_context(progress_bar(name, shown=request.progress))

        parts = fit_base_models(dataset, config, metadata=listening.metadata, on_step=on_step, engine=engine)
    if prepared.sounds is not None:
        add_sounds(parts, dataset, prepared.sounds)
    text_encoder = _add_text_search(request, config, dataset, parts, prepared.sounds)
    taste = (
        _train_taste(request, config, listening, dataset, parts, selected=selected_taste) if config.taste_vae else None
    )
    sequence = None
    if config.taste_sequence and dataset.sequences is not None and len(dataset.sequences):
        asked = replace(request, warm_start=None)  # that of `taste_vae`
        sequence = train_sequence_network(asked, config, listening, dataset, parts, selected=selected_sequence)
    embedding_model = {} if prepared.sounds is None else {EMBEDDING_MODEL: dict(prepared.sounds.embedding_model)}
    manifest = {
        **manifest_of(parts, dataset, config, key),
        FIT: new_fit(),
        "data": listening.report,
        **embedding_model,
        **text_encoder,
    }
    return FittedModels(dataset, parts, manifest, taste, sequence)


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
        "engine": engine.describe(),
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


def _add_text_search(
    request: TrainRequest,
    config: RecommenderConfig,
    dataset: InteractionDataset,
    parts: ArtifactParts,
    sounds: RecordingEmbeddings | None,
) -> dict[str, Any]:
    """Add the arrays of the text search; return the manifest's entry of the sentence encoder, if there is one."""
    tags, names = dataset.tags, dataset.tag_names
    if sounds is not None:
        indices = {name: index for index, name in enumerate(dataset.items)}
        rows = np.array([indices[item] for item in sounds.items], np.int64)
        tags, names = with_sound_tags(tags, names, rows, sounds)
    encoder: PretrainedEncoder | None = None
    if config.text_encoder == "minilm" and tags.nnz:
        encoder = load_sentence_encoder(on_download=lambda message: print(message, file=sys.stderr))
    with progress_bar("indexing tags", shown=request.progress) as on_progress:
        parts.arrays.update(
            text_search_arrays(
                tags,
                names,
                n_factors=config.search_factors,
                embed=None if encoder is None else partial(encoder.embed, on_progress=on_progress),
            )
        )
    if encoder is None or TAG_EMBEDDINGS not in parts.arrays:
        return {}
    parts.arrays.update(encoder_arrays(encoder))
    return {TEXT_ENCODER: encoder_entry()}


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


def _train_taste(
    request: TrainRequest,
    config: RecommenderConfig,
    listening: ListeningData,
    dataset: InteractionDataset,
    parts: ArtifactParts,
    *,
    selected: Mapping[str, Any] | None,
) -> dict[str, Any]:
    overrides: dict[str, Any] = {"power": config.power}
    if config.taste_vae_epochs:
        overrides["max_epochs"] = config.taste_vae_epochs
    taste_config = from_preset(TASTE_PRESETS, config.taste_vae_preset, overrides)
    # Sorted by id, because the order of pseudonyms depends on the key and equal seeds should give equal networks.
    order = np.argsort(np.array(dataset.users))
    users = {dataset.users[row]: index for index, row in enumerate(order.tolist())}
    items = {name: index for index, name in enumerate(dataset.items)}
    n_listened = int((dataset.plays.getnnz(axis=0) > 0).sum())
    data = TasteData(
        sparse.csr_matrix(dataset.plays[order][:, :n_listened]),
        sparse.csr_matrix(listening.valid.matrix(users, items)[:, :n_listened]),
        dataset.items[:n_listened],
        words_matrix(listening, dataset.items[:n_listened]),
    )
    folder = request.out / TASTE
    if request.resume and (folder / checkpoint.INFO).is_file():  # finished before the interruption
        check_learned_from(folder, data)
    else:
        train_taste(
            data,
            taste_config,
            out=folder,
            request=replace(request, preset=config.taste_vae_preset),
            report=listening.report,
            selected=selected,
        )
    trained = checkpoint.load(folder, kind=TASTE)
    parts.base_models[TASTE] = {
        "kind": "taste",
        "n_known": len(trained.info["items"]),
        "fingerprint": str(trained.info["weights_sha256"])[:16],
    }
    return {
        "n_items": len(trained.info["items"]),
        "n_parameters": sum(tensor.numel() for tensor in trained.weights.values()),
        **{name: trained.info[name] for name in ("n_epochs", "metrics")},
    }
