"""Fit of all base models on the training split."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tritone_serving.recommender.artifact import EMBEDDING_MODEL
from tritone_serving.recommender.text_search import TAG_EMBEDDINGS, TEXT_ENCODER
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.checkpoint_folder import (
    FIT,
    new_fit,
)
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.fitting.base_models import ArtifactParts, fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset, build_dataset
from tritone_training.kinds.recommender.fitting.recording_embeddings import (
    RecordingEmbeddings,
    add_sounds,
)
from tritone_training.kinds.recommender.fitting.sequence_network import train_sequence_network
from tritone_training.kinds.recommender.fitting.taste_network import train_taste_network
from tritone_training.kinds.recommender.fitting.text_index import (
    encoder_arrays,
    encoder_entry,
    text_search_arrays,
    with_sound_tags,
)
from tritone_training.kinds.recommender.training_data import TrainingData
from tritone_training.pretrained.sentence_encoder import PretrainedEncoder, load_sentence_encoder
from tritone_training.progress import progress_bar


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
    taste = sequence = None
    if config.taste_vae:
        taste = train_taste_network(request, config, listening, dataset, parts, selected=selected_taste)
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
