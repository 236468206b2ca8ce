"""The flows of `recommend`, `similar` and `find_tracks`.

Shapes: K tracks of an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from tritone.audio import Audio
from tritone.credentials import Credentials
from tritone.exceptions import ServerError
from tritone.messages import Array, InferRequest, InferResponse
from tritone.model_cache import Catalogue, Flow, check_model_name, next_request_id
from tritone.operations.classify import embed_flow
from tritone.operations.recommend_options import Id, Wanted, likeness_inputs, search_inputs
from tritone.results.recommendations import Reason, Recommendation, Recommendations, Track, TrackPage, UnknownIds

_OF_TRACKS: Final = ("item_ids", "scores", "titles", "artists")
_OF_USERS: Final = ("user_id", "friends")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_OF_SEARCH: Final = ("item_ids", "titles", "artists", "match", "match_field")
_MAY_BE_UNKNOWN: Final = ("embedding", "user_id", "mood", "history", "skipped", "friends", "exclude")


def recommend_flow(
    catalogue: Catalogue,
    wanted: Wanted,
    *,
    audio: Audio | None,
    genre_model: str,
    model: str,
    credentials: Credentials,
    user_token: str | None = None,
) -> Flow[Recommendations]:
    """The flow of `MusicClient.recommend`."""
    check_model_name(model)
    inputs = wanted.inputs()
    # Send credentials only with requests that need them.
    is_about_users = user_token is not None or not inputs.keys().isdisjoint(_OF_USERS)
    headers = credentials.headers(user_token) if is_about_users else {}
    asked = yield from _with_embedding(catalogue, inputs, audio, genre_model)
    outputs = ("source", "arm", *(("reasons",) if "explain" in inputs else ()))
    if any(name in asked for name in _MAY_BE_UNKNOWN):  # each output costs the server time
        outputs += ("unknown",)
    return (yield from _ask("recommend", asked, outputs, model, headers, n_reasons=wanted.n_reasons))


def search_flow(query: Id, *, by: str | None, limit: int, offset: int, model: str) -> Flow[TrackPage]:
    """The flow of `MusicClient.find_tracks`."""
    check_model_name(model)
    inputs = search_inputs(query, by=by, limit=limit, offset=offset)
    request = InferRequest(model, next_request_id("find_tracks"), inputs, (*_OF_SEARCH, "total"))
    response = cast(InferResponse, (yield request))
    with _expecting_recommender(response):
        n_tracks = response.outputs["item_ids"].shape[-1]
        if n_tracks > int(limit):
            raise ValueError(f"{n_tracks} tracks where at most {limit} were requested")
        columns = [_row(response, name, n_tracks) for name in _OF_SEARCH]
        return TrackPage(
            tuple(
                Track(track_id, title or None, artist or None, match, field)
                for track_id, title, artist, match, field in zip(*columns, strict=True)
            ),
            total=int(_row(response, "total", 1)[0]),
            offset=int(offset),
            model=response.model,
            model_version=response.version,
            request_id=response.request_id,
        )


def similar_flow(
    catalogue: Catalogue, track_id: Id | None, *, audio: Audio | None, by: str, n: int, genre_model: str, model: str
) -> Flow[Recommendations]:
    """The flow of `MusicClient.similar`."""
    check_model_name(model)
    inputs = likeness_inputs(track_id, has_audio=audio is not None, by=by, n=n)
    asked = yield from _with_embedding(catalogue, inputs, audio, genre_model)
    return (yield from _ask("similar", asked, (), model))


def _with_embedding(
    catalogue: Catalogue, inputs: Mapping[str, Array], audio: Audio | None, genre_model: str
) -> Flow[Mapping[str, Array]]:
    if audio is None:
        return inputs
    embedding = yield from embed_flow(catalogue, audio, model=genre_model)
    return {**inputs, "embedding": embedding[None]}


def _ask(
    what: str,
    inputs: Mapping[str, Array],
    outputs: tuple[str, ...],
    model: str,
    headers: Mapping[str, str] = _NONE,
    *,
    n_reasons: int | None = None,
) -> Flow[Recommendations]:
    request = InferRequest(model, next_request_id(what), inputs, (*_OF_TRACKS, *outputs), headers=headers)
    response = cast(InferResponse, (yield request))
    with _expecting_recommender(response):
        return _read(response, n_wanted=int(inputs["k"][0, 0]), n_reasons=n_reasons)


@contextmanager
def _expecting_recommender(response: InferResponse) -> Iterator[None]:
    """Translate errors of parsing a response into `ServerError`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        what = f"without {error}" if isinstance(error, KeyError) else str(error)
        raise ServerError(
            f"model {response.model!r} version {response.version} answered {what}; is it a recommender, and was it "
            f"exported by the same release?",
            model=response.model,
            request_id=response.request_id,
        ) from error


def _read(response: InferResponse, *, n_wanted: int, n_reasons: int | None) -> Recommendations:
    n_tracks = response.outputs["item_ids"].shape[-1]
    if n_tracks > n_wanted:
        raise ValueError(f"{n_tracks} tracks where {n_wanted} were wanted")
    columns = [_row(response, name, n_tracks) for name in _OF_TRACKS]
    if not np.isfinite(response.outputs["scores"]).all():
        raise ValueError("scores that are not finite")
    reasons = _row(response, "reasons", n_tracks) if "reasons" in response.outputs else [""] * n_tracks
    source, arm, unknown = (_text(response, name) for name in ("source", "arm", "unknown"))
    return Recommendations(
        tuple(
            Recommendation(track_id, score, title or None, artist or None, _reasons(why)[:n_reasons])
            for track_id, score, title, artist, why in zip(*columns, reasons, strict=True)
        ),
        source=source or None,
        arm=arm or None,
        unknown=_unknown(unknown),
        model=response.model,
        model_version=response.version,
        request_id=response.request_id,
    )


def _row(response: InferResponse, name: str, size: int) -> list[Any]:
    array = response.outputs[name]
    if array.shape != (1, size):
        raise ValueError(f"{name!r} of shape {array.shape}; expected {(1, size)}")
    row: list[Any] = array[0].tolist()
    return row


def _text(response: InferResponse, name: str) -> str:
    """A single text; empty if it was not asked for."""
    return str(_row(response, name, 1)[0]) if name in response.outputs else ""


def _reasons(text: str) -> tuple[Reason, ...]:
    """Parse a JSON list of reasons; an empty text holds none."""
    found = json.loads(text) if text else []
    return tuple(
        Reason(
            str(each["base_model"]),
            str(each["because"]),
            str(each["id"]),
            float(each["amount"]),
            str(each.get("title", "")) or None,
            str(each.get("artist", "")) or None,
        )
        for each in found
    )


def _unknown(text: str) -> UnknownIds:
    """Parse `{"user": true, "history": ["x"], ...}`, or ""."""
    found = json.loads(text) if text else {}
    lists = {name: tuple(map(str, found.get(name, ()))) for name in ("history", "skipped", "friends", "exclude")}
    user, mood, audio = (bool(found.get(name, False)) for name in ("user", "mood", "audio"))
    return UnknownIds(user=user, mood=mood, audio=audio, **lists)
