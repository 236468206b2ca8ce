"""A recommender and the model that embeds recordings, in memory: answers by rules that a test can compute itself.

Shapes: N windows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tritone import (
    InferRequest,
    InferResponse,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    NothingKnownError,
    ReadyResponse,
    Request,
    RequestRejectedError,
    Response,
)

ITEMS: Final = (*(f"track-{number}" for number in range(30)), "Jóga", "夜に駆ける", "[bold]x: y")
USERS: Final = ("42", "Björk")
LISTS: Final = ("history", "skipped", "friends", "exclude")
# Tensor -> type and size, None where it is free; all have a batch axis besides.
TAKES: Final[dict[str, tuple[Any, int | None]]] = {
    "user_id": (object, 1),
    **dict.fromkeys(LISTS, (object, None)),
    "weights": (np.float32, None),
    "times": (np.int64, None),
    "embedding": (np.float32, 256),
    "mood": (object, 1),
    "mood_strengths": (np.float32, 9),
    "k": (np.int32, 1),
    "filter_listened": (np.bool_, 1),
    "diversity": (np.float32, 1),
    "novelty": (np.float32, 1),
    "explain": (np.bool_, 1),
    "similar_to": (object, 1),
    "by": (object, 1),
    "query": (object, 1),
    "query_field": (object, 1),
    "offset": (np.int32, 1),
    "text": (object, 1),
    "resolve": (np.bool_, 1),
    "playlist_from": (object, 1),
    "playlist_to": (object, 1),
    "after": (object, None),
    "artist_gap": (np.int32, 1),
    "seed": (np.int64, 1),
}


@dataclass
class FakeRecommender:
    """A server with `recommender` and `genre_cnn`; `before` and `spoil` are as those of `FakeWriters`.

    It recommends the catalogue in its order, without what was heard, skipped or excluded.
    """

    version: str = "3"
    before: Callable[[Any], None] = lambda request: None
    spoil: Callable[[dict[str, Any]], None] = lambda outputs: None
    requests: list[Any] = field(default_factory=list)
    closed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        assert timeout_s > 0
        with self.lock:
            self.requests.append(request)
        self.before(request)
        if request.model is None:
            return ReadyResponse(True)
        if request.model not in ("recommender", "genre_cnn"):
            raise ModelNotFoundError("no such model", model=request.model)
        if isinstance(request, ModelRequest):
            outputs = {"probabilities": (-1, 2), "emotions": (-1, 9), "embedding": (-1, 256)}
            return ModelResponse(request.model, ("1", self.version), {"audio": (-1, 66150)}, outputs, 4)
        assert isinstance(request, InferRequest)
        if request.model == "genre_cnn":
            return InferResponse(request.model, self.version, request.request_id, self._heard(request))
        outputs = self._recommended(request)
        self.spoil(outputs)
        outputs = {name: outputs[name] for name in request.outputs if name in outputs}
        return InferResponse(request.model, self.version, request.request_id, outputs)

    def close(self) -> None:
        self.closed += 1

    def asked(self, model: str = "recommender") -> list[InferRequest]:
        return [request for request in self.requests if isinstance(request, InferRequest) and request.model == model]

    @staticmethod
    def _heard(request: InferRequest) -> dict[str, Any]:
        """(N, 256): each window's direction follows from its first sample."""
        places = (np.abs(request.inputs["audio"][:, 0]) * 1_000).astype(int) % 256
        outputs = {"probabilities": 2, "emotions": 9}
        return {
            "embedding": np.eye(256, dtype=np.float32)[places],
            **{name: np.full((len(places), width), 1 / width, np.float32) for name, width in outputs.items()},
        }

    @staticmethod
    def _recommended(request: InferRequest) -> dict[str, Any]:
        given = said(request)
        k = given["k"]
        if "text" in given:
            return _answer([item for item in ITEMS if given["text"] in item][:k], "words", {})
        if "query" in given:
            return _found(given["query"], given.get("query_field"), k, given.get("offset", 0))
        if "by" in given:
            if given.get("similar_to", ITEMS[0]) not in ITEMS:
                raise NothingKnownError(f"the server answered: item {given['similar_to']!r} is not known")
            return _answer([item for item in ITEMS if item != given.get("similar_to")][:k], "similar", {})
        unknown = {name: [each for each in given.get(name, ()) if each not in ITEMS] for name in LISTS}
        unknown["friends"] = [each for each in given.get("friends", ()) if each not in USERS]
        known = {name: [each for each in given.get(name, ()) if each not in unknown[name]] for name in LISTS}
        user = given.get("user_id") in USERS
        sources = {"user": user, **{name: known[name] for name in ("history", "friends")}}
        sources |= {"audio": "embedding" in given, "mood": "mood" in given, "popularity": True}
        source = next(name for name, holds in sources.items() if holds)
        out = {*known["skipped"], *known["exclude"]} | set(
            known["history"] if given.get("filter_listened", True) else ()
        )
        items = [item for item in ITEMS if item not in out][:k]
        found = {"user": "user_id" in given and not user, **unknown}
        return _answer(items, source, found)


def _title(item: str) -> str:
    return f"Title {item[6:]}" if item.startswith("track-1") else ""


def _artist(item: str) -> str:
    return "Someone" if item.startswith("track-1") else ""


def _found(query: str, field: str | None, limit: int, offset: int) -> dict[str, Any]:
    """The answer to a search, by the code that serves, which needs more than the light client has."""
    from tritone_serving.recommender import InvalidRequestError, SearchRequest
    from tritone_serving.recommender.track_search import TrackSearch

    titles, artists = [_title(item) for item in ITEMS], [_artist(item) for item in ITEMS]
    try:
        searched = TrackSearch({"id": ITEMS, "title": titles, "artist": artists})
        answer = searched.search(SearchRequest(query, field, limit, offset))
    except InvalidRequestError as error:
        raise RequestRejectedError(f"the server answered: {error}") from error
    items = [each.item for each in answer.found]
    return {
        "item_ids": texts(items),
        "titles": texts([_title(item) for item in items]),
        "artists": texts([_artist(item) for item in items]),
        "match": texts([each.match for each in answer.found]),
        "match_field": texts([each.field for each in answer.found]),
        "total": np.array([[answer.total]], np.int32),
    }


def said(request: InferRequest) -> dict[str, Any]:
    """A request's tensors as plain values, held against what the model takes."""
    assert request.model == "recommender"
    assert request.inputs.keys() <= TAKES.keys()
    plain: dict[str, Any] = {}
    for name, array in request.inputs.items():
        dtype, size = TAKES[name]
        assert array.dtype == dtype, name
        assert array.flags.c_contiguous, name
        assert array.ndim == 2, name
        if len(array) != 1 or array.shape[1] < 1 or size not in (None, array.shape[1]):
            raise RequestRejectedError(f"unexpected shape {array.shape} for input {name!r}", model=request.model)
        values = [each.decode() if isinstance(each, bytes) else each for each in array[0].tolist()]
        plain[name] = values[0] if size == 1 else values
    return plain


def _answer(items: list[str], source: str, unknown: dict[str, Any]) -> dict[str, Any]:
    scores = 1 - np.arange(len(items), dtype=np.float32) / 64
    reasons = [
        json.dumps(
            [
                {
                    "base_model": "ease",
                    "because": "history",
                    "id": "Jóga",
                    "amount": 0.5,
                    "title": "Jóga (2022 remaster)",
                    "artist": "Björk",
                },
                {"base_model": "popularity", "because": "popularity", "id": "", "amount": score - 0.5},
            ]
        )
        for score in scores.tolist()
    ]
    return {
        "item_ids": texts(items),
        "scores": scores[None],
        "titles": texts([_title(item) for item in items]),
        "artists": texts([_artist(item) for item in items]),
        "reasons": texts(reasons),
        "source": texts([source]),
        "arm": texts(["a" if source != "similar" else ""]),
        "unknown": texts([json.dumps(unknown)]),
    }


def texts(values: list[str]) -> np.ndarray[Any, Any]:
    """(1, n) as transports answer text."""
    row = np.empty((1, len(values)), object)
    row[0] = values
    return row
