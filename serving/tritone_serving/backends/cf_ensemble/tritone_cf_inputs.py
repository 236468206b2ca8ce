"""Input tensors of a Triton request as requests to the recommender.

Shapes: B rows of a request, L ids of the longest list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from tritone_cf_similar import SimilarRequest

from tritone_serving.recommender import (
    NOBODY,
    Caller,
    InvalidRequestError,
    PlaylistRequest,
    RecommendRequest,
    SearchRequest,
    TextRequest,
)
from tritone_serving.recommender.requests import (
    check_answers,
    check_id_lengths,
    check_lists,
    times_problem,
    weights_problem,
)
from tritone_serving.recommender.title_resolution import TitleResolver

Array = np.ndarray[Any, Any]

DEFAULT_K = 10
NOT_GIVEN = -1  # artist_gap or seed of a row that has none
_LISTS = ("history", "skipped", "friends", "exclude", "after")
_ITEM_LISTS = ("history", "skipped", "exclude", "after")
_COUNTED = frozenset((*_LISTS, "weights", "times"))
_TEXTS = ("user_id", "mood", "similar_to", "by", "query", "query_field", "text", "playlist_from", "playlist_to")
_MEASURED = frozenset((*_LISTS, *_TEXTS))


AnyRequest = RecommendRequest | SimilarRequest | SearchRequest | TextRequest | PlaylistRequest


def read_requests(
    tensors: dict[str, Array],
    caller: Caller = NOBODY,
    *,
    embeddings_fit: Callable[[], bool] = lambda: True,
    titles: TitleResolver | None = None,
) -> list[AnyRequest]:
    """Return one query for each row of a request.

    Lists are padded with empty ids, which are ignored together with their weights and times.

    Args:
        tensors: input name -> (B, ...); types and shapes are checked by Triton, except that B is equal for all inputs.
        caller: the authenticated caller.
        embeddings_fit: returns whether recordings are embedded by the network that embedded the items; called only if
            the request has an embedding.
        titles: finds the items that titles name, for rows with `resolve`.

    Raises:
        InvalidRequestError: an input is not UTF-8, too long, or of another number of rows than the others.
    """
    sizes = {array.shape[0] for array in tensors.values()}
    if len(sizes) > 1:
        raise InvalidRequestError(
            f"the inputs' batch sizes differ: { {name: len(each) for name, each in tensors.items()} }"
        )
    n_rows = sizes.pop() if sizes else 1
    check_lists(n_rows, {name: each.shape[1] for name, each in tensors.items() if name in _COUNTED})
    check_id_lengths({name: each.ravel().tolist() for name, each in tensors.items() if name in _MEASURED})
    fits = "embedding" not in tensors or embeddings_fit()
    if n_rows == 1:
        return [_read_row(tensors, 0, caller, fits, titles)]
    found: list[AnyRequest] = []
    for row in range(n_rows):
        try:
            found.append(_read_row(tensors, row, caller, fits, titles))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"row {row}: {error}") from None
    check_answers([_n_items(each) for each in found])
    return found


def _n_items(request: AnyRequest) -> tuple[int, bool]:
    """Return how many items are wanted, and whether with reasons."""
    if isinstance(request, SearchRequest):
        return request.limit, False
    if isinstance(request, PlaylistRequest):
        return request.n, False
    return request.k, isinstance(request, RecommendRequest) and request.explain


def _read_row(
    tensors: dict[str, Array], row: int, caller: Caller, fits: bool, titles: TitleResolver | None
) -> AnyRequest:
    if "resolve" not in tensors or not tensors["resolve"][row, 0]:
        titles = None
    similar_to = _item(tensors, "similar_to", row, titles)
    by = _text(tensors, "by", row)
    embedding = tensors["embedding"][row] if "embedding" in tensors else None
    k = int(tensors["k"][row, 0]) if "k" in tensors else DEFAULT_K
    description = _text(tensors, "text", row)
    if description is not None:
        return TextRequest(description, k)
    query, field = _text(tensors, "query", row), _text(tensors, "query_field", row)
    if query is not None or field is not None:
        return SearchRequest(query or "", field, k, int(tensors["offset"][row, 0]) if "offset" in tensors else 0)
    if similar_to is not None or by is not None:
        return SimilarRequest(similar_to, embedding, by or "both", k, fits)
    given: dict[str, Any] = {name: _texts(tensors[name][row], name) for name in _LISTS if name in tensors}
    if titles is not None:
        given.update({name: titles.ids(given[name]) for name in _ITEM_LISTS if name in given})
    after = given.pop("after", [])
    for name, problem in (("weights", weights_problem), ("times", times_problem)):
        if name in tensors:
            given[name] = _of_history(tensors[name][row], tensors.get("history"), row, problem)
    for name, kind in (("filter_listened", bool), ("explain", bool), ("diversity", float), ("novelty", float)):
        if name in tensors:
            given[name] = kind(tensors[name][row, 0])
    request = RecommendRequest(
        user=_text(tensors, "user_id", row),
        embedding=embedding,
        mood=_mood(tensors, row),
        k=k,
        embedding_fits=fits,
        caller=caller,
        **given,
    )
    start, end = (_item(tensors, name, row, titles) for name in ("playlist_from", "playlist_to"))
    return request if start is None and end is None else _playlist(tensors, row, request, (start or "", end), after)


def _playlist(
    tensors: dict[str, Array], row: int, listener: RecommendRequest, ends: tuple[str, str | None], after: list[str]
) -> PlaylistRequest:
    """Return a request for a playlist; its listener keeps the inputs that describe them."""
    given: dict[str, Any] = {
        name: int(tensors[name][row, 0])
        for name in ("artist_gap", "seed")
        if name in tensors and tensors[name][row, 0] != NOT_GIVEN
    }
    if "diversity" in tensors:
        given["diversity"] = listener.diversity
    start, end = ends
    n, listener = listener.k, replace(listener, k=DEFAULT_K, diversity=0.0, novelty=0.0, explain=False)
    return PlaylistRequest(start, end, n, after, listener=listener, **given)


def _mood(tensors: dict[str, Array], row: int) -> str | Array | None:
    """Return a mood by name or as strengths, None if neither is given; strengths of 0 pad batches."""
    name = _text(tensors, "mood", row)
    strengths: Array | None = tensors["mood_strengths"][row] if "mood_strengths" in tensors else None
    if strengths is None or not strengths.any():
        return name
    if name is not None:
        raise InvalidRequestError("mood and mood_strengths exclude each other; give one of them")
    return strengths


def _item(tensors: dict[str, Array], name: str, row: int, titles: TitleResolver | None) -> str | None:
    """Return the id of an item, None if it is missing or empty."""
    text = _text(tensors, name, row)
    return text if text is None or titles is None else titles.id_of(text)


def _text(tensors: dict[str, Array], name: str, row: int) -> str | None:
    """Return a text input, None if it is missing or empty."""
    array = tensors.get(name)
    if array is None or not array[row, 0]:
        return None
    try:
        text: str = array[row, 0].decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{name} holds bytes that are not UTF-8 text") from None
    return text


def _texts(values: Array, name: str) -> list[str]:
    """Return the ids of a list without padding."""
    try:
        return [value.decode("utf-8") for value in values.tolist() if value]
    except UnicodeDecodeError as error:
        index = values.tolist().index(error.object)
        raise InvalidRequestError(f"{name}[{index}] holds bytes that are not UTF-8 text") from None


def _of_history(values: Array, history: Array | None, row: int, problem: Callable[[int, int], str]) -> Array:
    """Return the values, such as weights, of ids other than padding."""
    ids = [] if history is None else history[row].tolist()
    if len(ids) != len(values):
        raise InvalidRequestError(problem(len(values), len(ids)))
    return values if all(ids) else values[[bool(each) for each in ids]]
