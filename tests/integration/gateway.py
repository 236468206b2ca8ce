"""A repository with a small model for each route of the gateway."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support import music_models, recommender_artifacts

from tritone_export.ensembles import publish_ensemble
from tritone_training.kinds.recommender.inspire import INSPIRE

KINDS = ("music_transformer", "music_vae", "music_gan", "polyphony_rnn")


def music_repository(folder: Path, *, events: bool = False) -> Path:
    """Fill a folder with the models that work on scores, a recommender and `inspire`; `genre_cnn` is not among them.

    Args:
        folder: the repository.
        events: add the model that stores events; the server then needs an event store.
    """
    for kind in KINDS:
        served = music_models.served(kind)
        for result in served.results:
            shutil.copytree(served.repository / result.model, folder / result.model, dirs_exist_ok=True)
    key_file = folder.parent / "pseudonyms.key"
    artifact = recommender_artifacts.make_artifact(folder.parent / "artifact", key_file)
    recommender_artifacts.make_taste(folder)
    recommender_artifacts.publish(artifact, key_file, folder, ensembles=False, events=events)
    publish_ensemble(INSPIRE, folder)
    return folder
