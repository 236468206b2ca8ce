"""Trained models in this process, without a server: the implementation of `tritone_training.load`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
import torch

import tritone_serving
from tritone import (
    Classification,
    InferRequest,
    InferResponse,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    ModelStatistics,
    MusicClient,
    NothingKnownError,
    Prediction,
    ReadyRequest,
    ReadyResponse,
    Request,
    RequestRejectedError,
    Response,
    StatisticsRequest,
    StatisticsResponse,
    StreamRequest,
)
from tritone.constants import GENRE_MODEL
from tritone_serving.recommender import (
    TRUSTED,
    InvalidRequestError,
    PlaylistRequest,
    Recommender,
    SearchRequest,
    TextRequest,
    TextResponse,
)
from tritone_serving.recommender.artifact import EMBEDDING_MODEL
from tritone_serving.recommender.embedding_weights import weights_digest
from tritone_training import checkpoint
from tritone_training.artifact_export import ArtifactExport
from tritone_training.declaration import Axis, Declaration, Tensor, labels_parameter
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import Exportable
from tritone_training.kinds.recommender.ensemble.offline import RemoteNetworks, remote_scores
from tritone_training.pretrained.sentence_encoder import PretrainedEncoder, load_sentence_encoder
from tritone_training.registry import get_kind

_LONGEST_S: Final = 24 * 3600.0  # for one call: generation on a slow CPU must not be cut off
_VERSION: Final = "1"
# Model that the client's calls request by default -> model that serves the request if that one is not loaded.
_SUBSTITUTES: Final[Mapping[str, str]] = {
    "music_transformer": "polyphony_rnn",
    "music_transformer_sampler": "polyphony_rnn_sampler",
    "polyphony_rnn": "music_transformer",
}
_NOTHING_KNOWN: Final = re.compile(r"none of the ids is known|item .* is not known|nothing is known by", re.S)


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
    except (AttributeError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{folder / checkpoint.INFO}: expected JSON, got a damaged file; train again") from error
    get_kind(kind)
    return kind


def _networks(kind: str, folder: Path) -> list[NetworkModel]:
    exported = get_kind(kind).export(folder)
    networks = exported.companions if isinstance(exported, ArtifactExport) else (exported, *exported.companions)
    return [NetworkModel(each) for each in networks if _runs_alone(each)]


def _runs_alone(exportable: Exportable) -> bool:
    """Return whether the network serves requests itself; others need one of our backends."""
    return exportable.graph is None


def _recommender(folder: Path, key: Path | None) -> RecommenderModel:
    from tritone_training.kinds.recommender.checkpoint_folder import load_info
    from tritone_training.kinds.recommender.declaration import DECLARATION
    from tritone_training.kinds.recommender.ensemble.offline import open_recommender

    recorded = load_info(folder).get("key")
    recommender, networks = open_recommender(folder, key or (Path(str(recorded)) if recorded else None))
    return RecommenderModel(DECLARATION, recommender, networks)


class _Model(Protocol):
    declaration: Declaration
    parameters: Mapping[str, str]

    def infer(self, request: InferRequest) -> Mapping[str, Any]:
        """Return the wanted outputs by name."""


class LocalTransport:
    """Serves the requests of a `MusicClient` with the models of the loaded checkpoints."""

    def __init__(self, models: Sequence[_Model]) -> None:
        self._models = {model.declaration.name: model for model in models}

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Serve one request; the time limit is not enforced.

        Raises:
            ModelNotFoundError: no checkpoint serves that model.
            RequestRejectedError: the model refuses the request.
        """
        if isinstance(request, ReadyRequest):
            return ReadyResponse(request.model is None or request.model in self._models)
        if isinstance(request, StatisticsRequest):
            return StatisticsResponse(tuple(ModelStatistics(name, _VERSION, 0, 0, 0, None) for name in self._models))
        model = self._find(request)
        if isinstance(request, ModelRequest):
            return _describe(model)
        if isinstance(request, StreamRequest):
            raise self._no_stream(request)
        return InferResponse(model.declaration.name, _VERSION, request.request_id, model.infer(request))

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Refuse: streaming needs a server.

        Raises:
            ModelNotFoundError: always.
        """
        raise self._no_stream(request)
        yield

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _find(self, request: Request) -> _Model:
        name = str(request.model)
        model = self._models.get(name) or self._models.get(_SUBSTITUTES.get(name, ""))
        if model is None:
            raise ModelNotFoundError(
                f"this call needs a model such as {name}, and the loaded checkpoints serve {', '.join(self._models)}; "
                f"load a checkpoint of another kind",
                model=name,
            )
        return model

    @staticmethod
    def _no_stream(request: StreamRequest) -> ModelNotFoundError:
        return ModelNotFoundError(
            "streaming needs a server (`tritone serve`); use compose, which returns the whole piece",
            model=request.model,
        )


class NetworkModel:
    """A trained network."""

    def __init__(self, exportable: Exportable) -> None:
        self.declaration = exportable.declaration
        self._network = exportable.network
        self.parameters: Mapping[str, str] = {
            **exportable.declaration.parameters,
            **labels_parameter(exportable.declaration, exportable.label_files),
        }

    def infer(self, request: InferRequest) -> Mapping[str, Any]:
        """Run the network.

        Raises:
            InvalidInputError: an input is missing.
        """
        missing = [tensor.name for tensor in self.declaration.inputs if tensor.name not in request.inputs]
        if missing:
            raise InvalidInputError(f"input {missing[0]!r} is missing", model=request.model)
        arrays = [request.inputs[t.name] if t.axes else request.inputs[t.name][:, 0] for t in self.declaration.inputs]
        with torch.inference_mode():
            answer = self._network(*(torch.from_numpy(np.array(array)) for array in arrays))
        answers = answer if isinstance(answer, tuple | list) else (answer,)
        found = {t.name: a.numpy() for t, a in zip(self.declaration.outputs, answers, strict=True)}
        outputs = {t.name: t for t in self.declaration.outputs}
        return {name: found[name] if outputs[name].axes else found[name][:, None] for name in request.outputs}


class RecommenderModel:
    """A recommender. The caller holds its key, and may therefore use all stored data."""

    def __init__(self, declaration: Declaration, recommender: Recommender, networks: RemoteNetworks) -> None:
        self.declaration = declaration
        self.parameters = declaration.parameters
        self._recommender = recommender
        self._networks = networks
        self._inputs, self._outputs, self._similar = (
            _backend(f"tritone_cf_{name}") for name in ("inputs", "outputs", "similar")
        )
        self._tensors = self._outputs.OutputTensors(recommender)

    def infer(self, request: InferRequest) -> Mapping[str, Any]:
        """Serve one request with the code of the backend `cf_ensemble`.

        Raises:
            NothingKnownError: the model knows none of the ids.
            RequestRejectedError: the request is invalid.
        """
        try:
            titles = self._recommender.catalogue.title_resolver()
            read = self._inputs.read_requests(dict(request.inputs), TRUSTED, titles=titles)
            rows = [self._row(each) for each in read]
        except InvalidRequestError as error:
            kind = NothingKnownError if _NOTHING_KNOWN.match(str(error)) else RequestRejectedError
            raise kind(str(error), model=request.model, request_id=request.request_id) from error
        return {name: _decoded(self._tensors.make(name, rows)) for name in request.outputs}

    def _row(self, request: Any) -> Any:
        if isinstance(request, self._similar.SimilarRequest):
            found = self._recommender.catalogue.similar(
                request.item, embedding=request.embedding, by=request.by, n=request.k
            )
            return self._outputs.row_of_similar(found)
        if isinstance(request, PlaylistRequest):
            return self._outputs.row_of_playlist(self._recommender.playlist(request))
        if isinstance(request, TextRequest):
            return self._outputs.row_of_text(self._described(request))
        if isinstance(request, SearchRequest):
            return self._outputs.row_of_search(self._recommender.catalogue.search(request))
        resolved = self._recommender.resolve([request])
        remote = remote_scores(resolved.remote_inputs, self._networks)
        (answer,) = self._recommender.respond(resolved, remote_scores=remote)
        if isinstance(answer, InvalidRequestError):
            raise answer
        return self._outputs.row_of(answer)

    def _described(self, request: TextRequest) -> TextResponse:
        request.check()
        search = self._recommender.catalogue.text_search
        return search.search(request, _encoder().embed([request.text])[0] if search.knows_meaning else None)


@cache
def _encoder() -> PretrainedEncoder:
    return load_sentence_encoder()


def _decoded(array: Any) -> Any:
    """Return text tensors as `str`, as the client's transports do, and others unchanged."""
    if array.dtype != np.object_:
        return array
    texts = np.empty(array.shape, np.object_)
    texts.ravel()[:] = [value.decode("utf-8") for value in array.ravel()]
    return texts


def _backend(name: str) -> ModuleType:
    """Load a module of the backend `cf_ensemble`, which is not a package because Triton loads it from a folder."""
    folder = str(Path(str(tritone_serving.__file__)).parent / "backends" / "cf_ensemble")
    sys.path.insert(0, folder)  # its modules import one another by their bare names
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _axes(tensor: Tensor) -> tuple[Axis, ...]:
    """Return the axes on the wire after the batch axis; a tensor without axes has one of size 1, see config.pbtxt."""
    return tensor.axes or (Axis("value", 1),)


def _describe(model: _Model) -> ModelResponse:
    declaration = model.declaration

    def shapes(tensors: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
        return {t.name: (-1, *(-1 if axis.size is None else axis.size for axis in _axes(t))) for t in tensors}

    return ModelResponse(
        model=declaration.name,
        versions=(_VERSION,),
        inputs=shapes(declaration.inputs),
        outputs=shapes(declaration.outputs),
        max_batch_size=declaration.serving.batching.max_batch_size,
        parameters=model.parameters,
    )
