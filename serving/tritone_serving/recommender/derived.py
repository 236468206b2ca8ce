"""Arrays that are computed from the others when an artifact is written, so that processes share them.

Lookup tables and indices would otherwise be computed by each process that opens the artifact, in its own memory. A part
is the group of arrays of one purpose; `Artifact.derive` reads it, or computes it for artifacts of earlier versions. The
parts depend on nothing but the other arrays and the manifest, and are written again with every change of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender.artifact import Array, Artifact
from tritone_serving.recommender.base_models.factorization import rotated_factors
from tritone_serving.recommender.base_models.user_based import SAMPLE, sampled_listeners
from tritone_serving.recommender.derived_validation import DERIVED
from tritone_serving.recommender.lookup import item_arrays
from tritone_serving.recommender.playlist_vectors import playlist_arrays
from tritone_serving.recommender.text_search import words_of_artifact
from tritone_serving.recommender.track_search import search_arrays_of

Build = Callable[[Artifact], dict[str, Array]]
_ALWAYS: Final[Mapping[str, Build]] = {
    "items": item_arrays,
    "search": search_arrays_of,
    "words": words_of_artifact,
    "playlists": playlist_arrays,
}


def derived_arrays(manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return the derived arrays of an artifact, named `derived.<part>.<array>`; none if it has no items."""
    if "items.ends" not in arrays:
        return {}
    artifact = Artifact(Path(), manifest, arrays)
    return {
        f"{DERIVED}.{part}.{name}": array
        for part, build in _parts(manifest).items()
        for name, array in build(artifact).items()
    }


def _parts(manifest: Mapping[str, Any]) -> dict[str, Build]:
    parts = dict(_ALWAYS)
    for name, described in manifest["base_models"].items():
        if described.get("drawn"):
            parts[SAMPLE] = sampled_listeners
        if described.get("kind") == "factorization":
            parts[f"rotated.{name}"] = partial(rotated_factors, name=name, unobserved=float(described["unobserved"]))
    return parts
