"""The ensemble `inspire`: a piece is composed, rendered, classified, and similar tracks are recommended.

Shapes: N frames, W windows of 3 s, L labels, K items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tritone.constants import COMPOSE_MODEL, EMBEDDING_SIZE, EMOTIONS, GENRE_MODEL, INSPIRE_MODEL, RECOMMEND_MODEL
from tritone_training.declaration import Axis, EnsembleDeclaration, Limits, Step, Tensor
from tritone_training.kinds.music_transformer.declaration import INPUTS as COMPOSER_INPUTS
from tritone_training.kinds.music_transformer.declaration import OUTPUTS as COMPOSER_OUTPUTS
from tritone_training.kinds.recommender.declaration import (
    ARM,
    ARTISTS,
    ITEM_IDS,
    MOOD,
    POOLING_MODEL,
    SCORES,
    SOURCE,
    TITLES,
    UNKNOWN,
    K,
)

RENDERER_MODEL: Final = "score_renderer"
_ONE: Final = Axis("one", 1)
_WINDOW: Final = Axis("window")
_FROM_RECOMMENDER: Final = (ITEM_IDS, SCORES, TITLES, ARTISTS, SOURCE, ARM, UNKNOWN)


def _row(tensor: Tensor) -> Tensor:
    """Return a tensor of a batch of one, as on the wire, where scalars have an axis of their own."""
    axes = (_ONE, *(tensor.axes or (_ONE,)))
    return replace(tensor, axes=axes, optional=False, ragged=False)


INSPIRE: Final = EnsembleDeclaration(
    name=INSPIRE_MODEL,
    summary="Composes a piece, renders and classifies it, and recommends tracks like it.",
    inputs=(
        *(_row(tensor) for tensor in COMPOSER_INPUTS),
        Tensor("frame_s", "FP32", (_ONE, _ONE), "duration of a frame in seconds", limits=Limits(0.0025, 15)),
        replace(_row(MOOD), description="one of the nine emotions, or empty"),
        _row(K),
    ),
    outputs=(
        *(_row(tensor) for tensor in COMPOSER_OUTPUTS),
        Tensor("window_start_s", "FP32", (_WINDOW,), "start of each window of the rendered piece in seconds"),
        Tensor("duration_s", "FP32", (_ONE,), "length of the rendered piece in seconds"),
        Tensor("render_s", "FP32", (_ONE,), "seconds that rendering took"),
        Tensor("probabilities", "FP32", (_WINDOW, Axis("label")), "of each label in each window, by genre_cnn"),
        Tensor("emotions", "FP32", (_WINDOW, Axis("emotion", len(EMOTIONS))), "in each window, by genre_cnn"),
        Tensor("embedding", "FP32", (_ONE, Axis("feature", EMBEDDING_SIZE)), "of the whole piece, L2-normalised"),
        *(_row(tensor) for tensor in _FROM_RECOMMENDER),
    ),
    steps=(
        Step(
            COMPOSE_MODEL,
            {tensor.name: tensor.name for tensor in COMPOSER_INPUTS},
            {tensor.name: tensor.name for tensor in COMPOSER_OUTPUTS},
        ),
        Step(
            RENDERER_MODEL,
            {"frames": "frames", "frame_s": "frame_s"},
            {"audio": "audio", "start_s": "window_start_s", "duration_s": "duration_s", "render_s": "render_s"},
        ),
        Step(
            GENRE_MODEL,
            {"audio": "audio"},
            {"probabilities": "probabilities", "emotions": "emotions", "embedding": "window_embeddings"},
        ),
        Step(POOLING_MODEL, {"embeddings": "window_embeddings"}, {"embedding": "embedding"}),
        Step(
            RECOMMEND_MODEL,
            {"embedding": "embedding", "mood": "mood", "k": "k"},
            {tensor.name: tensor.name for tensor in _FROM_RECOMMENDER},
        ),
    ),
    model_parameters={"composer_model": COMPOSE_MODEL, "classifier_model": GENRE_MODEL},
)
