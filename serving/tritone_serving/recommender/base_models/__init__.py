"""Base models of the ensemble; each scores all items for a batch of requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import LocalBaseModel, ScoreParts
from tritone_serving.recommender.base_models.content import Mood, Sound, Tags
from tritone_serving.recommender.base_models.factorization import MatrixFactorization
from tritone_serving.recommender.base_models.item_based import ItemItem, Mainstream, Popularity
from tritone_serving.recommender.base_models.order import Transitions
from tritone_serving.recommender.base_models.user_based import Social, UserKnn
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.remote_kinds import REMOTE_KINDS

# By the base model's `kind` in the manifest.
_KINDS: Final[Mapping[str, Callable[[Artifact, str, Mapping[str, Any]], LocalBaseModel]]] = {
    "popularity": Popularity.open,
    "mainstream": Mainstream.open,
    "item_item": ItemItem.open,
    "factorization": MatrixFactorization.open,
    "user_knn": UserKnn.open,
    "social": Social.open,
    "tags": Tags.open,
    "sound": Sound.open,
    "mood": Mood.open,
    "transitions": Transitions.open,
}

__all__ = ["LocalBaseModel", "ScoreParts", "open_base_models"]


def open_base_models(artifact: Artifact) -> dict[str, LocalBaseModel]:
    """Return the local base models of an artifact by name.

    Raises:
        ArtifactError: a base model is of an unknown kind, or its arrays or parameters are missing.
    """
    base_models: dict[str, LocalBaseModel] = {}
    for name, described in artifact.manifest["base_models"].items():
        kind = described.get("kind")
        if kind in REMOTE_KINDS:  # see `open_remote_base_models`
            continue
        if kind not in _KINDS:
            raise ArtifactError(
                f"{artifact.folder}: base model {name!r} is of kind {kind!r}; known are {', '.join(_KINDS)}"
            )
        try:
            base_models[name] = _KINDS[kind](artifact, name, described)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                f"{artifact.folder}: base model {name!r} lacks or misnames {error}; train and export again"
            ) from error
    return base_models
