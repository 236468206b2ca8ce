"""Transports and fake models for the tests of an application, which then need no server.

```python
from tritone import MusicClient
from tritone.testing import FakeComposer, FakeGenreModel, FakeServer, MockTransport

server = FakeServer(FakeGenreModel({"jazz": 0.2, "rock": 0.8}), FakeComposer())

def test_my_application():
    with MusicClient(transport=MockTransport(server)) as music:
        assert music.classify("song.wav").label == "rock"
        assert music.compose(bars=2, seed=1).grid.n_bars == 2
```

A handler is any function that takes a `Request` and returns its `Response` or raises the error of a server:

```python
from tritone import ServerBusyError

def busy(request):
    raise ServerBusyError("the queue is full")

music = MusicClient(transport=MockTransport(busy), retries=0)
```

The requests, with their tensors, are in `MockTransport.requests`. Everything else of the client works as with a server:
arguments are checked, recordings and scores are read, and errors are retried (with real waits, unless `retries=0`).

Shapes: B batch, W samples of a window, L labels, N frames, K tracks.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any, Final, TypeAlias

import numpy as np

from tritone.constants import (
    COMPOSE_MODEL,
    EMBEDDING_SIZE,
    EMOTION_NOT_TRAINED,
    EMOTIONS,
    EVENTS_MODEL,
    GENRE_MODEL,
    INSPIRE_MODEL,
    RECOMMEND_MODEL,
    SEARCH_FIELDS,
    STREAM_MODEL,
    WINDOW_S,
    WINDOW_SAMPLES,
)
from tritone.exceptions import ModelNotFoundError, NothingKnownError, VersionChangedError
from tritone.messages import (
    Array,
    InferRequest,
    InferResponse,
    ModelRequest,
    ModelResponse,
    ModelStatistics,
    ReadyRequest,
    ReadyResponse,
    Request,
    Response,
    StatisticsRequest,
    StatisticsResponse,
    StreamRequest,
    latest_version,
)
from tritone.music.grid import FRAMES_PER_QUARTER, N_PITCHES, STRUCK

# The reply to a stream is an iterable of its responses in order; to any other request, it is one response.
Reply: TypeAlias = Response | Iterable[InferResponse]

_RESPONSES: Final[Mapping[type[Request], type[Response]]] = {
    ReadyRequest: ReadyResponse,
    ModelRequest: ModelResponse,
    StatisticsRequest: StatisticsResponse,
    InferRequest: InferResponse,
}
_BAR_FRAMES: Final = 16


class MockTransport:
    """A `Transport` that passes requests to a function instead of a server.

    ```python
    transport = MockTransport(FakeGenreModel())
    music = MusicClient(transport=transport)
    ```

    Attributes:
        requests: all requests so far, in their order.
        closed: whether the client has closed the transport.
    """

    def __init__(self, handler: Callable[[Request], Reply]) -> None:
        """Create a transport.

        Args:
            handler: returns the response to a request, for a `StreamRequest` an iterable of them, or raises a
                `ClientError`; called in the threads that use the client.
        """
        self.requests: list[Request] = []
        self.closed = False
        self._handler = handler

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Return the response of the handler; `timeout_s` is not used."""
        self.requests.append(request)
        response: Response = _checked(self._handler(request), _RESPONSES[type(request)], request)
        return response

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Yield the responses of the handler; `timeout_s` is not used."""
        self.requests.append(request)
        yield from _checked(self._handler(request), Iterable, request)

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


class AsyncMockTransport:
    """An `AsyncTransport` as `MockTransport`, for `AsyncMusicClient`; the handler may also be a coroutine function.

    Attributes:
        requests: all requests so far, in their order.
        closed: whether the client has closed the transport.
    """

    def __init__(self, handler: Callable[[Request], Reply | Awaitable[Reply]]) -> None:
        """Create a transport.

        Args:
            handler: as of `MockTransport`, or a coroutine function that does the same; called in the event loop.
        """
        self.requests: list[Request] = []
        self.closed = False
        self._handler = handler

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Return the response of the handler; `timeout_s` is not used."""
        response: Response = _checked(await self._reply(request), _RESPONSES[type(request)], request)
        return response

    async def stream(self, request: StreamRequest, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        """Yield the responses of the handler; `timeout_s` is not used."""
        for response in _checked(await self._reply(request), Iterable, request):
            yield response

    async def close(self) -> None:
        """Set `closed`."""
        self.closed = True

    async def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = self._handler(request)
        return await reply if inspect.isawaitable(reply) else reply


class FakeModel(ABC):
    """The base of fake models, each a handler for `MockTransport`; subclass it to fake a model of your own."""

    def __init__(self, *models: ModelResponse) -> None:
        """Create a handler for models with the given metadata."""
        self.models = {each.model: each for each in models}

    def __call__(self, request: Request) -> Reply:
        """Return the response of the model to a request.

        Raises:
            ModelNotFoundError: the request names another model.
            VersionChangedError: the request names another version.
        """
        if isinstance(request, ReadyRequest):
            return ReadyResponse(request.model is None or request.model in self.models)
        if isinstance(request, StatisticsRequest):
            found = tuple(each for each in self.statistics() if request.model in (None, each.model))
            if request.model is not None and not found:
                raise self._not_found(request.model)
            return StatisticsResponse(found)
        info = self.models.get(request.model)
        if info is None:
            raise self._not_found(request.model)
        if isinstance(request, ModelRequest):
            return info
        version = latest_version(info.versions) or ""
        if request.version not in (None, version):
            raise VersionChangedError(
                f"unknown version of model {info.model!r}: expected {version}, got {request.version}", model=info.model
            )
        outputs = self.run(request.inputs)
        if isinstance(request, StreamRequest):
            return (_response(request, version, part) for part in self.split(outputs))
        return _response(request, version, outputs)

    def statistics(self) -> tuple[ModelStatistics, ...]:
        """Return the statistics of the models, which count nothing."""
        return tuple(
            ModelStatistics(info.model, latest_version(info.versions) or "", 0, 0, 0, None)
            for info in self.models.values()
        )

    def _not_found(self, model: str) -> ModelNotFoundError:
        return ModelNotFoundError(
            f"no such fake model: expected {' or '.join(self.models)}, got {model!r}; add it to FakeServer", model=model
        )

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs for the inputs of a request, with the batch axis; text is `str` in arrays of objects."""

    def split(self, outputs: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """Yield the outputs of each response to a `StreamRequest`; a single response unless overridden."""
        yield outputs


class FakeServer:
    """A handler for several fake models: passes each request to the model that it names.

    ```python
    transport = MockTransport(FakeServer(FakeGenreModel(), FakeRecommender(["a", "b"])))
    ```
    """

    def __init__(self, *fakes: FakeModel) -> None:
        """Create a handler for fakes of models with different names."""
        self._fakes = {name: fake for fake in fakes for name in fake.models}

    def __call__(self, request: Request) -> Reply:
        """Return the response of the model that the request names.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        if request.model in self._fakes:
            return self._fakes[request.model](request)
        if isinstance(request, ReadyRequest):
            return ReadyResponse(request.model is None)
        if isinstance(request, StatisticsRequest) and request.model is None:
            fakes = dict.fromkeys(self._fakes.values())
            return StatisticsResponse(tuple(each for fake in fakes for each in fake.statistics()))
        raise ModelNotFoundError(
            f"no such fake model: expected one of {', '.join(self._fakes) or 'none'}, got {request.model!r}",
            model=request.model,
        )


class FakeGenreModel(FakeModel):
    """A `genre_cnn` that finds the same labels in every recording; embeddings differ with the loudness."""

    def __init__(
        self,
        probabilities: Mapping[str, float] | None = None,
        *,
        emotions: Sequence[float] | None = None,
        tags: Mapping[str, float] | None = None,
        name: str = GENRE_MODEL,
        version: str = "1",
    ) -> None:
        """Create the model.

        Args:
            probabilities: by label, in the order of the model; classical 0.6, jazz 0.3 and rock 0.1 if None.
            emotions: the nine emotions in the order of `tritone.constants.EMOTIONS`; None for a model without them.
            tags: activations by name; None for a model without tags.
            name: of the model.
            version: of the model.
        """
        by_label = {"classical": 0.6, "jazz": 0.3, "rock": 0.1} if probabilities is None else dict(probabilities)
        self._rows = {
            "probabilities": list(by_label.values()),
            "emotions": [EMOTION_NOT_TRAINED] * len(EMOTIONS) if emotions is None else list(emotions),
        }
        labels = {"probabilities": list(by_label)}
        if tags is not None:
            self._rows["tags"], labels["tags"] = list(tags.values()), list(tags)
        outputs = {output: (-1, len(row)) for output, row in self._rows.items()}
        outputs["embedding"] = (-1, EMBEDDING_SIZE)
        parameters = {"labels": json.dumps(labels)}
        super().__init__(ModelResponse(name, (version,), {"audio": (-1, WINDOW_SAMPLES)}, outputs, 64, parameters))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """(B, W) audio -> the rows of all outputs; embeddings turn with the mean level, so louder is further apart."""
        level = np.abs(inputs["audio"]).mean(axis=1)
        embedding = np.zeros((len(level), EMBEDDING_SIZE), np.float32)
        embedding[:, 0], embedding[:, 1] = np.cos(level), np.sin(level)
        rows = {name: np.tile(np.array(row, np.float32), (len(level), 1)) for name, row in self._rows.items()}
        return {**rows, "embedding": embedding}


class FakeComposer(FakeModel):
    """A `music_transformer` and its streaming `composer`, which write one note in each time step.

    The seed decides on the pitches, so the same seed gives the same piece, streamed or not. Below a melody to harmonize
    it writes the same melody an octave lower. Bars that repeat earlier ones, as asked by `structure`, are their copies.
    """

    def __init__(
        self,
        *,
        styles: Sequence[str] = ("any",),
        templates: Sequence[Mapping[str, Any]] = (),
        takes_conditions: bool = True,
        name: str = COMPOSE_MODEL,
        stream_name: str = STREAM_MODEL,
        version: str = "1",
    ) -> None:
        """Create the models.

        Args:
            styles: names of the styles; the first one means any style.
            templates: conditions of real pieces, from which the client chooses what a caller leaves open, as in the
                parameter `templates` of the exported model; without them, that is unknown.
            takes_conditions: False for models of releases before conditions such as the key.
            name: of the model for `compose`, `harmonize` and `infill`.
            stream_name: of the model for `stream_compose`.
            version: of both models.
        """
        frames, per_frame, scalar = (-1, -1, N_PITCHES), (-1, -1), (-1, 1)
        inputs = {"given": frames, "given_mode": per_frame, "meter": (-1, 2), "style": scalar, "noise": (-1, -1, 8)}
        inputs |= dict.fromkeys(("temperature", "top_k", "top_p"), scalar)
        if takes_conditions:
            inputs |= {**dict.fromkeys(("key", "density", "n_voices", "end"), scalar), "repeats": per_frame}
        outputs: dict[str, tuple[int, ...]] = {"frames": frames, "nll": per_frame}
        parameters = {"frames_per_quarter": str(FRAMES_PER_QUARTER), "styles": json.dumps(list(styles))}
        if templates:
            parameters["templates"] = json.dumps(list(templates))
        super().__init__(
            ModelResponse(name, (version,), inputs, outputs, 8, parameters),
            ModelResponse(stream_name, (version,), inputs, {**outputs, "first_frame": scalar}, 8, parameters),
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """(B, N) frames to keep, to write or to harmonize -> frames (B, N, 88) and their nll (B, N)."""
        given, mode, noise = inputs["given"], inputs["given_mode"], inputs["noise"]
        frames = np.where((mode == 0)[..., None], 0, given)
        rows, steps = np.nonzero(mode == 0)
        frames[rows, steps, (noise[rows, steps, 0] * N_PITCHES).astype(int)] = STRUCK
        repeats = inputs.get("repeats", np.zeros_like(mode))
        for row, step in np.argwhere((mode == 0) & (repeats > 0)).tolist():  # in order, as repeats may be repeated
            frames[row, step] = frames[row, step - int(repeats[row, step])]
        rows, steps, pitches = np.nonzero((given > 0) & (mode == 2)[..., None])
        frames[rows, steps, np.maximum(pitches - 12, 0)] = given[rows, steps, pitches]
        return {"frames": frames.astype(np.uint8), "nll": noise.sum(axis=2)}

    def split(self, outputs: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """Yield the first beat, the rest of the bar, then bars."""
        n_frames = outputs["frames"].shape[1]
        edges = sorted({0, min(FRAMES_PER_QUARTER, n_frames), *range(_BAR_FRAMES, n_frames, _BAR_FRAMES), n_frames})
        for start, stop in pairwise(edges):
            part = {name: array[:, start:stop] for name, array in outputs.items()}
            yield {**part, "first_frame": np.array([[start]], np.int64)}


class FakeRecommender(FakeModel):
    """A `recommender` that recommends its tracks in their order, without those listened to, skipped or excluded."""

    def __init__(
        self,
        tracks: Iterable[str] | Mapping[str, tuple[str, str]],
        *,
        users: Iterable[str] = (),
        name: str = RECOMMEND_MODEL,
        version: str = "1",
    ) -> None:
        """Create the model.

        Args:
            tracks: their ids, or (title, artist) by id.
            users: the ids of the users that it knows.
            name: of the model.
            version: of the model.
        """
        named = tracks if isinstance(tracks, Mapping) else dict.fromkeys(tracks, ("", ""))
        self._tracks = {track: (track, *named[track]) for track in named}  # in the order of SEARCH_FIELDS
        self._users = dict.fromkeys(users)
        super().__init__(ModelResponse(name, (version,), {}, {}, 1))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return K tracks for a batch of one: recommended, similar or found ones, or a playlist."""
        given: dict[str, list[Any]] = {
            name: [each.decode() if isinstance(each, bytes) else each for each in inputs[name][0]] for name in inputs
        }
        n = given["k"][0]
        if "text" in given:
            return self._described(given["text"][0], n)
        if "query" in given:
            return self._found(given["query"][0].casefold(), given.get("query_field"), given.get("offset", [0])[0], n)
        if "playlist_from" in given:
            return self._playlist(given, n)
        if given.get("resolve", [False])[0]:
            by_title = {title.casefold(): track for track, title, _ in self._tracks.values() if title}
            for name in {"history", "skipped", "exclude", "similar_to"} & given.keys():
                given[name] = [by_title.get(text.casefold(), text) for text in given[name]]
        known: dict[str, Any] = {name: self._tracks.keys() for name in ("history", "skipped", "exclude", "similar_to")}
        known |= {name: self._users.keys() for name in ("friends", "user_id")}
        unknown = {name: [each for each in given.get(name, ()) if each not in ids] for name, ids in known.items()}
        (model,) = self.models
        if unknown.pop("similar_to"):
            raise NothingKnownError(f"item {given['similar_to'][0]!r} is not known", model=model)
        usable = {name: [each for each in given.get(name, ()) if each in ids] for name, ids in known.items()}
        has_input = (
            any(map(usable.get, ("user_id", "history", "skipped", "friends")))
            or "embedding" in given
            or "mood" in given
            or "mood_strengths" in given
        )
        if not has_input and (unknown["history"] or unknown["friends"]):
            raise NothingKnownError("none of the ids is known, and nothing else is given", model=model)
        left_out = {*usable["skipped"], *usable["exclude"], *usable["similar_to"]}
        if given.get("filter_listened", [True])[0]:
            left_out.update(usable["history"])
        sources = {"user": usable["user_id"], "history": usable["history"], "friends": usable["friends"]}
        sources |= {"audio": given.get("embedding", []), "mood": given.get("mood") or given.get("mood_strengths", [])}
        tracks = [track for track in self._tracks if track not in left_out][:n]
        scores = 1 / np.arange(1, len(tracks) + 1, dtype=np.float32)
        because = {"base_model": "popularity", "because": "popularity", "id": ""}
        return {
            **self._columns(tracks),
            "scores": scores[None],
            "reasons": _text_row([json.dumps([{**because, "amount": score}]) for score in scores.tolist()]),
            "source": _text_row([next((name for name, ids in sources.items() if len(ids)), "popularity")]),
            "arm": _text_row([""]),
            "unknown": _text_row([json.dumps({**unknown, "user": bool(unknown["user_id"]), **_mood_used(given)})]),
        }

    def _playlist(self, given: Mapping[str, list[Any]], n: int) -> Mapping[str, Array]:
        """Return start, further tracks in their order, and end, with similarities of 0.5."""
        start, end = given["playlist_from"][0], given.get("playlist_to", [None])[0]
        for track in (start, end):
            if track is not None and track not in self._tracks:
                raise NothingKnownError(f"item {track!r} is not known", model=next(iter(self.models)))
        after = given.get("after", [])
        left_out = {start, end, *after, *given.get("exclude", ()), *given.get("skipped", ())}
        ends = ([] if after else [start], [] if end is None else [end])
        n_between = n - sum(map(len, ends))
        between = [track for track in self._tracks if track not in left_out][:n_between]
        tracks = [*ends[0], *between, *ends[1]]
        unknown = {"exclude": [each for each in (*after, *given.get("exclude", ())) if each not in self._tracks]}
        unknown_user = given.get("user_id", [None])[0] not in {None, *self._users}
        details = {
            "artist_gap": 0,
            "relaxed": ["n"] if len(between) < n_between else [],
            "compared_by": ["tags"],
            "by_taste": "user_id" in given and not unknown_user,
        }
        return {
            **self._columns(tracks),
            "scores": np.array([[0.0 if track == start else 0.5 for track in tracks]], np.float32),
            "source": _text_row(["playlist"]),
            "arm": _text_row([""]),
            "unknown": _text_row([json.dumps({**unknown, "user": unknown_user, **_mood_used(given)})]),
            "playlist": _text_row([json.dumps(details)]),
        }

    def _described(self, text: str, n: int) -> Mapping[str, Array]:
        """Find tracks by the share of the words of a description in title and artist, without regard to case."""
        wanted = set(text.casefold().split())
        shares = {
            track: len(wanted & set(" ".join(texts[1:]).casefold().split())) / max(len(wanted), 1)
            for track, texts in self._tracks.items()
        }
        tracks = sorted((track for track in self._tracks if shares[track]), key=lambda track: -shares[track])[:n]
        return {
            **self._columns(tracks),
            "scores": np.array([[shares[track] for track in tracks]], np.float32),
            "source": _text_row(["words"]),
        }

    def _found(self, query: str, fields: Sequence[str] | None, offset: int, n: int) -> Mapping[str, Array]:
        """Find tracks by whole texts, then by all words of the query, both without regard to case."""
        found: dict[str, tuple[str, str]] = {}  # match and field by track
        for match, name in product(("exact", "words"), fields or SEARCH_FIELDS):
            for track, texts in self._tracks.items():
                text = texts[SEARCH_FIELDS.index(name)].casefold()
                if text == query or (match == "words" and set(query.split()) <= set(text.split())):
                    found.setdefault(track, (match, name))
        page = list(found)[offset : offset + n]
        return {
            **self._columns(page),
            "match": _text_row([found[track][0] for track in page]),
            "match_field": _text_row([found[track][1] for track in page]),
            "total": np.array([[len(found)]], np.int32),
        }

    def _columns(self, tracks: list[str]) -> dict[str, Array]:
        names = ("item_ids", "titles", "artists")
        return {name: _text_row([self._tracks[each][index] for each in tracks]) for index, name in enumerate(names)}


def _mood_used(given: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the given mood as it is reported in the output `unknown`."""
    strengths = given.get("mood_strengths") or [float(name == given.get("mood", [None])[0]) for name in EMOTIONS]
    used = {name: float(strength) for name, strength in zip(EMOTIONS, strengths, strict=True) if strength}
    return {"mood_used": {"source": "given", "strengths": used}} if used else {}


class FakeEvents(FakeModel):
    """A `recommender_events` that keeps valid events in memory.

    Attributes:
        events: the events as sent, in order of arrival, without duplicates.
    """

    def __init__(self, *, name: str = EVENTS_MODEL, version: str = "1") -> None:
        """Create the model.

        Args:
            name: of the model.
            version: of the model.
        """
        self.events: list[dict[str, Any]] = []
        self._ids: set[tuple[str, str]] = set()
        super().__init__(ModelResponse(name, (version,), {}, {}, 256))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outcome of each event: new or duplicate."""
        outcomes = []
        for text in inputs["event"].ravel().tolist():
            event: dict[str, Any] = json.loads(text)
            key = (event["user"], event["id"])
            outcomes.append("duplicate" if key in self._ids else "new")
            if key not in self._ids:
                self._ids.add(key)
                self.events.append({"kind": "play", **event})
        shape = (len(outcomes), 1)
        return {
            "outcome": np.array(outcomes, np.object_).reshape(shape),
            "reason": np.full(shape, "", np.object_),
        }


class FakeInspirer(FakeModel):
    """An `inspire` that joins other fake models; rendered pieces are the louder, the more notes they have.

    ```python
    fakes = (FakeComposer(), FakeGenreModel(), FakeRecommender(["a", "b"]))
    server = FakeServer(*fakes, FakeInspirer(*fakes))
    ```
    """

    def __init__(
        self,
        composer: FakeComposer,
        classifier: FakeGenreModel,
        recommender: FakeRecommender,
        *,
        name: str = INSPIRE_MODEL,
        version: str = "1",
    ) -> None:
        """Create the model.

        Args:
            composer: writes the pieces.
            classifier: classifies them.
            recommender: finds the tracks.
            name: of the model.
            version: of the model.
        """
        self._steps = (composer, classifier, recommender)
        composing, listening = next(iter(composer.models.values())), next(iter(classifier.models.values()))
        one, tracks = (1, 1), (1, -1)
        inputs = {name: (1, *shape[1:]) for name, shape in composing.inputs.items()}
        inputs |= {"frame_s": one, "mood": one, "k": one}
        outputs: dict[str, tuple[int, ...]] = {name: (1, *shape[1:]) for name, shape in composing.outputs.items()}
        outputs |= {"window_start_s": (-1,), "duration_s": (1,), "render_s": (1,)}
        outputs |= {"probabilities": (-1, -1), "emotions": (-1, len(EMOTIONS)), "embedding": (1, EMBEDDING_SIZE)}
        outputs |= dict.fromkeys(("item_ids", "scores", "titles", "artists"), tracks)
        outputs |= dict.fromkeys(("source", "arm", "unknown"), one)
        parameters = {"composer_model": composing.model, "classifier_model": listening.model}
        super().__init__(ModelResponse(name, (version,), inputs, outputs, 0, parameters))

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Compose N frames, and return them with the outputs for W windows of 3 s and for K tracks."""
        composer, classifier, recommender = self._steps
        written = composer.run(inputs)
        duration_s = written["frames"].shape[1] * float(inputs["frame_s"][0, 0]) + 1.0
        starts_s = np.arange(0.0, duration_s, WINDOW_S, dtype=np.float32)  # (W,)
        level = np.float32((written["frames"] > 0).mean())
        heard = classifier.run({"audio": np.full((len(starts_s), WINDOW_SAMPLES), level, np.float32)})
        mood = inputs["mood"][0, 0]
        about = {"mood": inputs["mood"]} if mood else {}
        found = recommender.run({"k": inputs["k"], "embedding": heard["embedding"][:1], **about})
        return {
            **written,
            **heard,
            **found,
            "embedding": heard["embedding"][:1],
            "window_start_s": starts_s,
            "duration_s": np.array([duration_s], np.float32),
            "render_s": np.zeros(1, np.float32),
        }


def _response(request: InferRequest | StreamRequest, version: str, outputs: Mapping[str, Array]) -> InferResponse:
    outputs = {name: outputs[name] for name in request.outputs}
    return InferResponse(request.model, version, request.request_id, outputs)


def _checked(reply: Any, expected: Any, request: Request) -> Any:
    """Return a reply if it is of the type that belongs to the request.

    Raises:
        TypeError: it is not; the handler is wrong.
    """
    if not isinstance(reply, expected):
        raise TypeError(
            f"invalid reply to {type(request).__name__}: expected {expected.__name__}, got {reply!r}; return one from "
            f"the handler"
        )
    return reply


def _text_row(values: Sequence[str]) -> Array:
    """Return texts as (1, K)."""
    row = np.empty((1, len(values)), np.object_)
    row[0] = values
    return row
