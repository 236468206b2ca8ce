"""Recommendations, similar tracks and track search.

Everything is sent for a batch of one.

Shapes: L ids of a list, K tracks of a response.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Container, Mapping, Sized
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from tritone.arguments import (
    Id,
    Ids,
    Mood,
    Times,
    Weights,
    check_bool,
    check_count,
    check_id,
    check_ids,
    check_model_name,
    check_share,
    check_times,
    check_weights,
    mood_input,
    scalar,
    text,
)
from tritone.audio import Audio
from tritone.constants import (
    LARGEST_OFFSET,
    N_DIVERSE_MAX,
    N_EXPLAINED_MAX,
    N_FRIENDS_MAX,
    N_RECOMMENDED_MAX,
    SEARCH_FIELDS,
    WAYS_TO_BE_ALIKE,
    AudioFormat,
)
from tritone.credentials import Credentials
from tritone.exceptions import InvalidInputError
from tritone.messages import Array, Flow, InferRequest, InferResponse, next_request_id
from tritone.model_cache import ModelCache
from tritone.operations.classify import embed_flow
from tritone.operations.track_outputs import check_finite, n_tracks_of, parse_reasons, parse_unknown, parsed, row_of
from tritone.results.recommendations import (
    AppliedMood,
    Reason,
    Recommendation,
    Recommendations,
    Track,
    TrackPage,
    UnknownIds,
)

_MAX_INLINE: Final = 1_000  # ids of a list, checked in 0.3 ms
_BY_SOUND: Final = tuple(way for way in WAYS_TO_BE_ALIKE if way != "listening")
TRACK_OUTPUTS: Final = ("item_ids", "scores", "titles", "artists")
_USER_INPUTS: Final = ("user_id", "friends")
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_SEARCH_OUTPUTS: Final = ("item_ids", "titles", "artists", "match", "match_field")
_MAY_BE_UNKNOWN: Final = ("embedding", "user_id", "mood", "mood_strengths", "history", "skipped", "friends", "exclude")


@dataclass(frozen=True, eq=False)
class RecommendOptions:
    """The arguments of `MusicClient.recommend`, without the recording."""

    user_id: Id | None
    history: Ids | None
    weights: Weights | None
    times: Times | None
    skipped: Ids | None
    friends: Ids | None
    mood: Mood | None
    n: int
    exclude: Ids | None
    filter_listened: bool
    diversity: float
    novelty: float
    explain: bool | int
    resolve: bool = False

    @property
    def is_small(self) -> bool:
        """Whether checking the options takes so little time that an event loop may do it."""
        lists = (self.history, self.weights, self.times, self.skipped, self.friends, self.exclude)
        try:
            return all(each is None or (isinstance(each, Sized) and len(each) <= _MAX_INLINE) for each in lists)
        except TypeError:  # an array without dimensions, which is refused later
            return True

    @property
    def n_reasons(self) -> int | None:
        """Largest number of reasons for each track: 0 for no reasons, None for all."""
        if isinstance(self.explain, bool | np.bool_):
            return None if self.explain else 0
        return int(self.explain)

    def inputs(self) -> dict[str, Array]:
        """Check the options and return them as tensors, without those that have the default value.

        Raises:
            InvalidInputError: an option is invalid.
        """
        inputs = {"k": count_input(self.n)}
        if self.user_id is not None:
            inputs["user_id"] = text([check_id("user_id", self.user_id)])
        for name in ("history", "skipped", "friends", "exclude"):
            ids = check_ids(name, getattr(self, name))
            if ids:
                inputs[name] = text(ids)
            if name == "friends" and (n_friends := len(set(ids))) > N_FRIENDS_MAX:
                raise InvalidInputError(
                    f"invalid friends: expected at most {N_FRIENDS_MAX:,} different ids, got {n_friends:,}",
                    argument="friends",
                )
        weights = check_weights(self.weights, inputs["history"].size if "history" in inputs else 0)
        if weights is not None and weights.size:
            inputs["weights"] = weights[None]
        times = check_times(self.times, inputs["history"].size if "history" in inputs else 0)
        if times is not None and times.size:
            inputs["times"] = times[None]
        if self.mood is not None:
            inputs |= mood_input(self.mood)
        for name in ("diversity", "novelty"):
            share = check_share(name, getattr(self, name))
            if share:
                inputs[name] = scalar(share, 1, np.float32)
        if not check_bool("filter_listened", self.filter_listened):
            inputs["filter_listened"] = scalar(False, 1, np.bool_)
        if check_bool("resolve", self.resolve):
            inputs["resolve"] = scalar(True, 1, np.bool_)
        if _check_explain(self.explain):
            inputs["explain"] = scalar(True, 1, np.bool_)
        self._check_costly()
        return inputs

    def _check_costly(self) -> None:
        """Check the limits of options that cost the server time for each track."""
        for most, option in ((N_EXPLAINED_MAX, "explain"), (N_DIVERSE_MAX, "diversity")):
            if self.n > most and getattr(self, option):
                raise InvalidInputError(
                    f"invalid n: expected a whole number from 1 to {most} with {option}, got {self.n}", argument="n"
                )


def recommend_flow(
    cache: ModelCache,
    options: RecommendOptions,
    *,
    audio: Audio | None,
    genre_model: str,
    audio_format: AudioFormat,
    model: str,
    credentials: Credentials,
    user_token: str | None = None,
) -> Flow[Recommendations]:
    """Recommend tracks; see `MusicClient.recommend`."""
    check_model_name(model)
    inputs = options.inputs()
    # Send credentials only with requests that need them.
    is_about_users = user_token is not None or not inputs.keys().isdisjoint(_USER_INPUTS)
    headers = credentials.headers(user_token) if is_about_users else {}
    inputs = yield from _with_embedding(cache, inputs, audio, genre_model, audio_format)
    outputs = ("source", "arm", *(("reasons",) if "explain" in inputs else ()))
    if any(name in inputs for name in _MAY_BE_UNKNOWN):  # each output costs the server time
        outputs += ("unknown",)
    return (yield from _infer("recommend", inputs, outputs, model, headers, n_reasons=options.n_reasons))


def find_tracks_flow(query: Id, *, by: str | None, limit: int, offset: int, model: str) -> Flow[TrackPage]:
    """Search for tracks; see `MusicClient.find_tracks`."""
    check_model_name(model)
    inputs = search_inputs(query, by=by, limit=limit, offset=offset)
    request = InferRequest(model, next_request_id("find_tracks"), inputs, (*_SEARCH_OUTPUTS, "total"))
    response = cast(InferResponse, (yield request))
    n_tracks = n_tracks_of(response, most=int(limit))
    columns = [row_of(response, name, n_tracks) for name in _SEARCH_OUTPUTS]
    return TrackPage(
        tuple(
            Track(track_id, title or None, artist or None, match, field)
            for track_id, title, artist, match, field in zip(*columns, strict=True)
        ),
        total=parsed(response, "total", int, row_of(response, "total", 1))[0],
        offset=int(offset),
        model=response.model,
        model_version=response.version,
        request_id=response.request_id,
    )


def search_flow(query: Id, *, n: int, model: str) -> Flow[Recommendations]:
    """Search for tracks by a description; see `MusicClient.search`."""
    check_model_name(model)
    inputs = {"text": text([_check_text("query", query, "words to search for")]), "k": count_input(n)}
    return (yield from _infer("search", inputs, ("source",), model))


def similar_flow(
    cache: ModelCache,
    track_id: Id | None,
    *,
    audio: Audio | None,
    by: str,
    n: int,
    resolve: bool,
    genre_model: str,
    audio_format: AudioFormat,
    model: str,
) -> Flow[Recommendations]:
    """Find similar tracks; see `MusicClient.similar`."""
    check_model_name(model)
    inputs = similar_inputs(track_id, has_audio=audio is not None, by=by, n=n)
    if check_bool("resolve", resolve):
        inputs["resolve"] = scalar(True, 1, np.bool_)
    inputs = yield from _with_embedding(cache, inputs, audio, genre_model, audio_format)
    return (yield from _infer("similar", inputs, (), model))


def similar_inputs(track_id: Id | None, *, has_audio: bool, by: str, n: int) -> dict[str, Array]:
    """Check the arguments of `MusicClient.similar` and return them as tensors.

    Raises:
        InvalidInputError: an argument is invalid.
    """
    if (track_id is None) != has_audio:
        given = "neither" if track_id is None else "both"
        raise InvalidInputError(
            f"ambiguous arguments: expected either track_id or audio, got {given}",
            argument="track_id",
            reason="conflict",
        )
    if not isinstance(by, str) or by not in WAYS_TO_BE_ALIKE:
        raise InvalidInputError(
            f"invalid by: expected one of {', '.join(WAYS_TO_BE_ALIKE)}, got {reprlib.repr(by)}", argument="by"
        )
    if has_audio and by not in _BY_SOUND:
        raise InvalidInputError(
            f"invalid by: expected {' or '.join(_BY_SOUND)} with audio, got {by!r}; by='listening' needs a track_id, "
            f"as a recording passed as audio has no listening history",
            argument="by",
            reason="conflict",
        )
    inputs = {"k": count_input(n), "by": text([by.encode()])}
    if track_id is not None:
        inputs["similar_to"] = text([check_id("track_id", track_id)])
    return inputs


def search_inputs(query: Any, *, by: Any, limit: Any, offset: Any) -> dict[str, Array]:
    """Check the arguments of `MusicClient.find_tracks` and return them as tensors.

    Raises:
        InvalidInputError: an argument is invalid.
    """
    encoded = _check_text("query", query, "a title, an artist or an id")
    if by is not None and (not isinstance(by, str) or by not in SEARCH_FIELDS):
        raise InvalidInputError(
            f"invalid by: expected one of {', '.join(SEARCH_FIELDS)}, or None for all, got {reprlib.repr(by)}",
            argument="by",
        )
    inputs = {
        "query": text([encoded]),
        "k": scalar(check_count("limit", limit, least=1, most=N_RECOMMENDED_MAX), 1, np.int32),
    }
    if check_count("offset", offset, least=0, most=LARGEST_OFFSET):
        inputs["offset"] = scalar(int(offset), 1, np.int32)
    if by is not None:
        inputs["query_field"] = text([by.encode()])
    return inputs


def _check_text(name: str, value: Any, what: str) -> bytes:
    """Return a text as UTF-8.

    Raises:
        InvalidInputError: as `check_id`, or the text is blank.
    """
    encoded = check_id(name, value, what=what)
    # As on the server, zero-width characters such as U+200B and control characters count as blanks.
    if all(each.isspace() or unicodedata.category(each) in ("Cc", "Cf") for each in encoded.decode()):
        raise InvalidInputError(f"invalid {name}: expected {what}, got blanks only", argument=name)
    return encoded


def _with_embedding(
    cache: ModelCache, inputs: dict[str, Array], audio: Audio | None, genre_model: str, audio_format: AudioFormat
) -> Flow[dict[str, Array]]:
    if audio is None:
        return inputs
    embedding = yield from embed_flow(cache, audio, model=genre_model, audio_format=audio_format)
    return {**inputs, "embedding": embedding[None]}


def _infer(
    operation: str,
    inputs: Mapping[str, Array],
    outputs: tuple[str, ...],
    model: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    *,
    n_reasons: int | None = None,
) -> Flow[Recommendations]:
    request = InferRequest(model, next_request_id(operation), inputs, (*TRACK_OUTPUTS, *outputs), headers=headers)
    response = cast(InferResponse, (yield request))
    return recommendations_of(response, outputs, n_most=int(inputs["k"][0, 0]), n_reasons=n_reasons)


def recommendations_of(
    response: InferResponse, outputs: Container[str], *, n_most: int, n_reasons: int | None = None
) -> Recommendations:
    """Return the tracks of a response for a batch of one.

    Args:
        outputs: which of `source`, `arm`, `reasons` and `unknown` were requested.
        n_most: the number of tracks that were requested.
        n_reasons: largest number of reasons for each track; None for all.

    Raises:
        ServerError: an output is missing or not as expected.
    """
    n_tracks = n_tracks_of(response, most=n_most)
    columns = [row_of(response, name, n_tracks) for name in TRACK_OUTPUTS]
    parsed(response, "scores", check_finite, [response.outputs["scores"]])
    reasons: list[tuple[Reason, ...]] = [()] * n_tracks
    if "reasons" in outputs:
        reasons = parsed(response, "reasons", parse_reasons, row_of(response, "reasons", n_tracks))
    source, arm = (str(row_of(response, name, 1)[0]) if name in outputs else "" for name in ("source", "arm"))
    unknown, mood = UnknownIds(), AppliedMood()
    if "unknown" in outputs:
        ((unknown, mood),) = parsed(response, "unknown", parse_unknown, row_of(response, "unknown", 1))
    return Recommendations(
        tuple(
            Recommendation(track_id, score, title or None, artist or None, why[:n_reasons])
            for track_id, score, title, artist, why in zip(*columns, reasons, strict=True)
        ),
        source=source or None,
        arm=arm or None,
        unknown=unknown,
        mood=mood,
        model=response.model,
        model_version=response.version,
        request_id=response.request_id,
    )


def _check_explain(value: Any) -> bool:
    """Return whether reasons are requested."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, int | np.integer) or value < 1:
        raise InvalidInputError(
            f"invalid explain: expected True, False or the number of reasons per track, 1 or more, got "
            f"{reprlib.repr(value)}",
            argument="explain",
        )
    return True


def count_input(n: int) -> Array:
    """Return the input `k` for a number of tracks.

    Raises:
        InvalidInputError: it is not a whole number from 1 to 10,000.
    """
    return scalar(check_count("n", n, least=1, most=N_RECOMMENDED_MAX), 1, np.int32)
