"""A repository of small stand-ins, made in a second, for loads that have no trained models to serve."""

from __future__ import annotations

from pathlib import Path

from tests.integration import composer_stand_in, conftest
from tests.support import recommender_artifacts


def small_repository(folder: Path) -> Path:
    """Something that listens, writes in a stream, and recommends; the recommender's key lies in the folder."""
    repository = composer_stand_in.make_repository(conftest.make_repository(folder / "repository"))
    key = folder / "recommender.key"
    artifact = recommender_artifacts.make_artifact(folder / "artifact", key)
    recommender_artifacts.make_taste(repository)
    recommender_artifacts.publish(artifact, key, repository, ensembles=False)
    return repository
