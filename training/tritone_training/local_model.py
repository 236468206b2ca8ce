"""Trained models in this process, without a server: the implementation of `tritone_training.load`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tritone import Classification, MusicClient, Prediction
from tritone.constants import GENRE_MODEL
from tritone_serving.recommender.artifact import EMBEDDING_MODEL
from tritone_serving.recommender.embedding_weights import weights_digest
from tritone_training import checkpoint
from tritone_training.artifact_export import ArtifactExport
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import Exportable
from tritone_training.local_transport import LocalTransport, NetworkModel, RecommenderModel
from tritone_training.registry import get_kind

_LONGEST_S: Final = 24 * 3600.0  # for one call: generation on a slow CPU must not be cut off


class LocalModel(MusicClient):
    """A checkpoint with the calls of `MusicClient`: `classify`, `compose`, `recommend` ..., whatever its kind can do.

    Results have the types of the SDK. A call that the kind does not support raises `ModelNotFoundError` with the models
    that the checkpoint has.

    Attributes:
        kind: the checkpoint's kind.
        folder: where it was loaded from.
        info: content of checkpoint.json: hyper-parameters, metrics, data, versions.
    """

    def __init__(self, kind: str, folder: Path, info: Mapping[str, Any], transport: LocalTransport) -> None:
        super().__init__(transport=transport, timeout_s=_LONGEST_S, retries=0)
        self.kind = kind
        self.folder = folder
        self.info = info

    def __repr__(self) -> str:
        return f"LocalModel({self.kind!r}, {str(self.folder)!r})"

    def predict(  # type: ignore[override]  # wider: a recording is predicted as its genre and emotions
        self, source: Any, *, model: str | None = None, timeout_s: float | None = None
    ) -> Classification | Prediction:
        """Predict with the kind's own output: `classify` for `genre_cnn`, the next notes of a score for the others.

        Args:
            source: a recording for `genre_cnn`, as for `classify`; else a score, as for `MusicClient.predict`.
            model: as for those calls.
            timeout_s: as for those calls.

        Raises:
            ClientError: as those calls.
        """
        if self.kind == GENRE_MODEL and model is None:
            return self.classify(source, timeout_s=timeout_s)
        return super().predict(source, model=model or self.kind, timeout_s=timeout_s)


def load(
    folder: str | os.PathLike[str],
    *,
    genre_checkpoint: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> LocalModel:
    """Load a checkpoint folder for use in this process.

    Args:
        folder: what `tritone train` or `train` wrote; also the best epoch of an interrupted training
            (`OUT/unfinished/best`).
        genre_checkpoint: of `genre_cnn`, with which a recommender analyses recordings (`recommend(audio=...)`).
        key: file with the key of a recommender's pseudonyms, if it is not where training left it.

    Raises:
        CheckpointError: it is missing, damaged, or of an unknown kind; or `genre_checkpoint` is another network than
            the one that embedded the recommender's items.
    """
    path = Path(folder)
    kind = _kind_of(path)
    models: list[NetworkModel | RecommenderModel] = []
    if kind == "recommender":
        models.append(_recommender(path, None if key is None else Path(key)))
    else:
        models += _networks(kind, path)
    if genre_checkpoint is not None:
        _check_embeddings(path, Path(genre_checkpoint))
        models += _networks(GENRE_MODEL, Path(genre_checkpoint))
    return LocalModel(kind, path, checkpoint.read_info(path), LocalTransport(models))


def _check_embeddings(folder: Path, genre_checkpoint: Path) -> None:
    """Refuse a network whose embeddings cannot be compared with those of the recommender's items."""
    wanted = weights_digest(checkpoint.read_info(folder).get(EMBEDDING_MODEL))
    found = weights_digest(checkpoint.load(genre_checkpoint, kind=GENRE_MODEL).info)
    if wanted is not None and found is not None and wanted != found:
        raise CheckpointError(
            f"{genre_checkpoint}: expected the {GENRE_MODEL} that embedded the items of {folder} (weights "
            f"{wanted[:12]}), got another one (weights {found[:12]}); give that checkpoint, or train the recommender "
            f"again with --genre-checkpoint {genre_checkpoint}"
        )


def _kind_of(folder: Path) -> str:
    try:
        kind = str(checkpoint.read_info(folder).get("kind"))
    except FileNotFoundError:
        best = folder / checkpoint.UNFINISHED / checkpoint.BEST
        hint = f"; the best epoch of its interrupted training: {best}" if best.is_dir() else ""
        raise CheckpointError(
            f"{folder}: expected a checkpoint folder that `tritone train` wrote, got none{hint}"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / checkpoint.INFO}: expected JSON, got a damaged file; train again") from error
    get_kind(kind)
    return kind


def _networks(kind: str, folder: Path) -> list[NetworkModel]:
    exported = get_kind(kind).export(folder, None)
    networks = exported.companions if isinstance(exported, ArtifactExport) else (exported, *exported.companions)
    return [NetworkModel(each) for each in networks if _runs_alone(each)]


def _runs_alone(exportable: Exportable) -> bool:
    """Return whether the network serves requests itself; others need one of our backends."""
    return exportable.graph is None


def _recommender(folder: Path, key: Path | None) -> RecommenderModel:
    from tritone_training.kinds.recommender.declaration import DECLARATION
    from tritone_training.kinds.recommender.ensemble.offline import open_recommender
    from tritone_training.kinds.recommender.export import load_info

    recorded = load_info(folder).get("key")
    recommender, taste = open_recommender(folder, key or (Path(str(recorded)) if recorded else None))
    return RecommenderModel(DECLARATION, recommender, taste)
