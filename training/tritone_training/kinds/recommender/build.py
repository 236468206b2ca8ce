"""From a checkpoint folder to what `tritone export` publishes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender import Artifact, RecommenderError, open_artifact
from tritone_serving.recommender.artifact import files_of
from tritone_training._exceptions import CheckpointError
from tritone_training.artifact_export import ArtifactExport
from tritone_training.kind import Exportable
from tritone_training.kinds.recommender.declaration import DECLARATION

ARTIFACT_FOLDER: Final = "artifact"
TASTE_FOLDER: Final = "taste_vae"
KEY_FILENAME: Final = "recommender.key"
_INFO: Final = "checkpoint.json"
# What the manifest says that belongs on the card, for people and auditors.
_SHOWN: Final = ("personal_data", "members", "ensembles", "ab", "metrics", "data", "weighting")


def exportable(folder: Path | None, pretrained: str | None) -> ArtifactExport:
    """Load a checkpoint folder.

    Raises:
        CheckpointError: it is missing or damaged, or a pretrained backbone is asked for.
    """
    from tritone_training.registry import get_kind

    if folder is None or pretrained is not None:
        raise CheckpointError("a recommender is trained on a listening log; there is no pretrained one to export")
    artifact = read_artifact(folder / ARTIFACT_FOLDER)
    taste = folder / TASTE_FOLDER
    companions = (get_kind("taste_vae").export(taste, None),) if taste.is_dir() else ()
    key = folder / KEY_FILENAME
    return from_artifact(
        artifact,
        info=_info(folder),
        companions=tuple(each for each in companions if not isinstance(each, ArtifactExport)),
        key=key if key.is_file() else None,
    )


def from_artifact(
    artifact: Artifact, *, info: Mapping[str, Any], companions: Sequence[Exportable] = (), key: Path | None = None
) -> ArtifactExport:
    """What to publish of an opened artifact.

    Args:
        info: of the checkpoint: seed, command, licences.
        companions: exportables of the models that are served beside it.
        key: the file that the users' pseudonyms were made with.
    """
    manifest = artifact.manifest
    card = {
        **{name: value for name, value in info.items() if name not in ("format", "kind", "weights", "weights_sha256")},
        **{name: manifest[name] for name in _SHOWN if name in manifest},
        "personal_data": personal_data(artifact),
        "n_items": artifact.n_items,
        "artifact_format": manifest["format"],
    }
    return ArtifactExport(
        declaration=DECLARATION,
        files={path.name: path for path in files_of(artifact)},
        card=card,
        companions=companions,
        key=None if key is None else (str(manifest["key_check"]), key),
    )


def read_artifact(folder: Path) -> Artifact:
    """Open an artifact.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
    """
    try:
        return open_artifact(folder)
    except RecommenderError as error:
        raise CheckpointError(str(error)) from error


def personal_data(artifact: Artifact) -> dict[str, Any]:
    """What a version holds about people."""
    held = ["listening histories (which items, how often)"]
    if len(artifact.arrays["friends.columns"]):
        held.append("who is whose friend")
    return {
        "n_users": artifact.n_users,
        "held": held,
        "identified_by": "pseudonyms: HMAC-SHA256 of the user's id under a key that is not in this folder",
        "not_held": "names, raw user ids, times of listening",
        "derived": "counts, similarities and network weights that many users' histories went into together",
        "to_remove_a_user": "tritone forget USER",
        "said_at_training": artifact.manifest.get("personal_data"),
    }


def _info(folder: Path) -> Mapping[str, Any]:
    path = folder / _INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; `tritone train recommender --out {folder}` writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); train again") from error
    if not isinstance(info, dict) or info.get("kind") != DECLARATION.name:
        raise CheckpointError(f"{folder}: is no checkpoint of {DECLARATION.name!r}")
    return info
