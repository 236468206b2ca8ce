"""A transport for `MusicClient` that runs checkpoints in this process with PyTorch, without a server.

The client prepares inputs and reads outputs as it does with a server, so the results have the same types. Networks and
declarations are those that `tritone export` converts; a recommender is scored by the code that the server runs.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
import torch

import tritone_serving
from tritone import (
    InferRequest,
    InferResponse,
    InvalidInputError,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    NothingKnownError,
    ReadyRequest,
    ReadyResponse,
    Request,
    RequestRejectedError,
    Response,
    StreamRequest,
)
from tritone_serving.recommender import TRUSTED, InvalidRequestError, Recommender, SearchRequest
from tritone_training.declaration import Axis, Declaration, Tensor, labels_parameter
from tritone_training.kind import Exportable
from tritone_training.kinds.recommender.offline import TasteNetwork, remote_scores

_VERSION: Final = "1"
# Model that the client's calls request by default -> model that serves the request if that one is not loaded.
_SUBSTITUTES: Final[Mapping[str, str]] = {
    "music_transformer": "polyphony_rnn",
    "music_transformer_sampler": "polyphony_rnn_sampler",
    "polyphony_rnn": "music_transformer",
}
_NOTHING_KNOWN: Final = re.compile(r"none of the ids is known|item .* is not known|nothing is known by", re.S)


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

    def __init__(self, declaration: Declaration, recommender: Recommender, taste: TasteNetwork | None) -> None:
        self.declaration = declaration
        self.parameters = declaration.parameters
        self._recommender = recommender
        self._taste = taste
        self._questions, self._answers = _backend("tritone_cf_questions"), _backend("tritone_cf_answers")
        self._tensors = self._answers.OutputTensors(recommender)

    def infer(self, request: InferRequest) -> Mapping[str, Any]:
        """Serve one request with the code of the backend `cf_ensemble`.

        Raises:
            NothingKnownError: the model knows none of the ids.
            RequestRejectedError: the request is invalid.
        """
        try:
            rows = [self._row(each) for each in self._questions.read_requests(dict(request.inputs), TRUSTED)]
        except InvalidRequestError as error:
            kind = NothingKnownError if _NOTHING_KNOWN.match(str(error)) else RequestRejectedError
            raise kind(str(error), model=request.model, request_id=request.request_id) from error
        return {name: _decoded(self._tensors.make(name, rows)) for name in request.outputs}

    def _row(self, question: Any) -> Any:
        if isinstance(question, self._questions.SimilarRequest):
            found = self._recommender.similar(question.item, embedding=question.embedding, by=question.by, n=question.k)
            return self._answers.row_of_similar(found)
        if isinstance(question, SearchRequest):
            return self._answers.row_of_search(self._recommender.search(question))
        resolved = self._recommender.resolve([question])
        remote = remote_scores(resolved.remote_inputs, self._taste)
        (answer,) = self._recommender.respond(resolved, remote_scores=remote)
        if isinstance(answer, InvalidRequestError):
            raise answer
        return self._answers.row_of(answer)


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
