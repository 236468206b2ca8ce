"""Conversion of the input tensors of a Triton request to queries, one for each row.

Shapes: B rows of a request, L ids of the longest list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender import NOBODY, Caller, InvalidRequestError, RecommendRequest, SearchRequest
from tritone_serving.recommender.requests import check_answers, check_id_lengths, check_lists, weights_problem

Array = np.ndarray[Any, Any]

DEFAULT_K = 10
_LISTS = ("history", "skipped", "friends", "exclude")


@dataclass(frozen=True)
class SimilarRequest:
    """A query for items similar to an item or a recording; see `Recommender.similar`.

    Attributes:
        k: number of items to return.
        embedding_fits: as in `RecommendRequest`.
    """

    item: str | None
    embedding: Array | None
    by: str
    k: int
    embedding_fits: bool = True


Asked = RecommendRequest | SimilarRequest | SearchRequest


def read_requests(
    tensors: dict[str, Array], caller: Caller = NOBODY, *, embeddings_fit: Callable[[], bool] = lambda: True
) -> list[Asked]:
    """Return one query for each row of a request.

    Lists are padded with empty ids, which are ignored together with their weights.

    Args:
        tensors: input name -> (B, ...); types and shapes are checked by Triton, except that B is equal for all inputs.
        caller: the authenticated caller.
        embeddings_fit: returns whether recordings are embedded by the network that embedded the items; called only if
            the request has an embedding.

    Raises:
        InvalidRequestError: an input is not UTF-8, too long, or of another number of rows than the others.
    """
    sizes = {array.shape[0] for array in tensors.values()}
    if len(sizes) > 1:
        raise InvalidRequestError(
            f"the inputs' batch sizes differ: { {name: len(each) for name, each in tensors.items()} }"
        )
    n_rows = sizes.pop() if sizes else 1
    check_lists(n_rows, {name: tensors[name].shape[1] for name in (*_LISTS, "weights") if name in tensors})
    names = (*_LISTS, "user_id", "mood", "similar_to", "by", "query", "query_field")
    check_id_lengths({name: tensors[name].ravel().tolist() for name in names if name in tensors})
    fits = "embedding" not in tensors or embeddings_fit()
    if n_rows == 1:
        return [_question(tensors, 0, caller, fits)]
    asked: list[Asked] = []
    for row in range(n_rows):
        try:
            asked.append(_question(tensors, row, caller, fits))
        except InvalidRequestError as error:
            raise InvalidRequestError(f"row {row}: {error}") from None
    check_answers([_n_items(each) for each in asked])
    return asked


def _n_items(asked: Asked) -> tuple[int, bool]:
    """Return how many items are wanted, and whether with reasons."""
    if isinstance(asked, SearchRequest):
        return asked.limit, False
    return asked.k, isinstance(asked, RecommendRequest) and asked.explain


def _question(tensors: dict[str, Array], row: int, caller: Caller, fits: bool) -> Asked:
    similar_to = _text(tensors, "similar_to", row)
    by = _text(tensors, "by", row)
    embedding = tensors["embedding"][row] if "embedding" in tensors else None
    k = int(tensors["k"][row, 0]) if "k" in tensors else DEFAULT_K
    query, field = _text(tensors, "query", row), _text(tensors, "query_field", row)
    if query is not None or field is not None:
        return SearchRequest(query or "", field, k, int(tensors["offset"][row, 0]) if "offset" in tensors else 0)
    if similar_to is not None or by is not None:
        return SimilarRequest(similar_to, embedding, by or "both", k, fits)
    given: dict[str, Any] = {name: _texts(tensors[name][row], name) for name in _LISTS if name in tensors}
    if "weights" in tensors:
        given["weights"] = _weights(tensors["weights"][row], tensors.get("history"), row)
    for name, kind in (("filter_listened", bool), ("explain", bool), ("diversity", float), ("novelty", float)):
        if name in tensors:
            given[name] = kind(tensors[name][row, 0])
    return RecommendRequest(
        user=_text(tensors, "user_id", row),
        embedding=embedding,
        mood=_text(tensors, "mood", row),
        k=k,
        embedding_fits=fits,
        caller=caller,
        **given,
    )


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


def _weights(weights: Array, history: Array | None, row: int) -> Array:
    """Return the weights of ids other than padding."""
    ids = [] if history is None else history[row].tolist()
    if len(ids) != len(weights):
        raise InvalidRequestError(weights_problem(len(weights), len(ids)))
    return weights if all(ids) else weights[[bool(each) for each in ids]]
