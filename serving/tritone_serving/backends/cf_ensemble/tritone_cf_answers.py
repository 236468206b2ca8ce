"""Responses as tensors, and similar items by the sound index of the version if it has one.

Shapes: B rows of a request, k items of the longest response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritone_cf_questions import SimilarRequest

from tritone_serving.recommender import (
    InvalidRequestError,
    Recommender,
    RecommendResponse,
    ScoreReason,
    SearchResponse,
    SimilarItem,
    UnknownInputs,
)
from tritone_serving.recommender.sound_index import MOST_ANSWERS, open_index

Array = np.ndarray[Any, Any]

# Values of `source` in responses other than recommendations.
SIMILAR = "similar"
SEARCH = "search"
_NOTHING_UNKNOWN = b'{"user":false,"history":[],"skipped":[],"friends":[],"exclude":[],"mood":false,"audio":false}'
_KNOWN = UnknownInputs()


@dataclass(frozen=True, eq=False)
class OutputRow:
    """The response to one query.

    Attributes:
        unknown: JSON of the ignored inputs.
        reasons: JSON of each item's reasons; empty if none were requested.
        matches: kind of match and matching field of each item of a search; empty for other queries.
        total: number of items that a search found.
    """

    items: Sequence[str]
    scores: Array
    source: str
    arm: str
    unknown: bytes
    reasons: Sequence[bytes] = ()
    matches: Sequence[tuple[str, str]] = ()
    total: int = 0


def row_of(answer: RecommendResponse) -> OutputRow:
    """Return the row of a recommendation."""
    return OutputRow(
        answer.items,
        answer.scores,
        answer.source,
        answer.arm,
        _unknown(answer.unknown),
        [_json([_reason(reason) for reason in reasons]) for reasons in answer.reasons],
    )


def row_of_similar(found: Sequence[SimilarItem]) -> OutputRow:
    """Return the row of a query for similar items."""
    scores = np.array([each.score for each in found], np.float32)
    return OutputRow([each.item for each in found], scores, SIMILAR, "", _NOTHING_UNKNOWN)


def row_of_search(answer: SearchResponse) -> OutputRow:
    """Return the row of a search, with scores of 0."""
    return OutputRow(
        [each.item for each in answer.found],
        np.zeros(len(answer.found), np.float32),
        SEARCH,
        "",
        _NOTHING_UNKNOWN,
        matches=[(each.match, each.field) for each in answer.found],
        total=answer.total,
    )


class OutputTensors:
    """Builds output tensors, including items' titles and artists."""

    def __init__(self, recommender: Recommender) -> None:
        self._makers: dict[str, Callable[[OutputRow], Sequence[bytes]]] = {
            "item_ids": lambda row: [item.encode("utf-8") for item in row.items],
            "titles": _by_item(recommender, recommender.titles),
            "artists": _by_item(recommender, recommender.artists),
            "reasons": lambda row: row.reasons or [b""] * len(row.items),
            "match": lambda row: [match.encode() for match, _ in row.matches] or [b""] * len(row.items),
            "match_field": lambda row: [field.encode() for _, field in row.matches] or [b""] * len(row.items),
        }

    def make(self, name: str, rows: Sequence[OutputRow]) -> Array:
        """Return an output tensor of one request, (B, k) or (B, 1)."""
        if name == "scores":
            return _filled([row.scores for row in rows], np.zeros((len(rows), _longest(rows)), np.float32))
        if name in self._makers:
            maker = self._makers[name]
            return _filled([maker(row) for row in rows], np.full((len(rows), _longest(rows)), b"", np.object_))
        if name == "total":
            return np.array([[row.total] for row in rows], np.int32)
        values = [getattr(row, name) for row in rows]
        return np.array([[v.encode() if isinstance(v, str) else v] for v in values], np.object_)


def _longest(rows: Sequence[OutputRow]) -> int:
    return max((len(row.items) for row in rows), default=0)


def _filled(values: Sequence[Sequence[Any] | Array], array: Array) -> Array:
    for row, each in zip(array, values, strict=True):
        row[: len(each)] = each
    return array


def _by_item(recommender: Recommender, texts: Sequence[str] | None) -> Callable[[OutputRow], Sequence[bytes]]:
    if texts is None:
        return lambda row: [b""] * len(row.items)
    encoded = [text.encode("utf-8") for text in texts]
    index: Callable[[str], Any] = recommender.resolver.item  # never None, because results hold known items only
    return lambda row: [encoded[index(item)] for item in row.items]


def _reason(reason: ScoreReason) -> dict[str, Any]:
    """Return a reason as a dict, without title and artist if they are unknown."""
    return {name: value for name, value in vars(reason).items() if value or name not in ("title", "artist")}


def _unknown(unknown: UnknownInputs) -> bytes:
    return _NOTHING_UNKNOWN if unknown == _KNOWN else _json(vars(unknown))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


_SIZE = 256


class SimilarItemFinder:
    """Finds similar items, by the version's sound index if it has one."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._index = open_index(recommender.artifact.folder)

    def similar(self, query: SimilarRequest) -> list[SimilarItem]:
        """Return the most similar items, best first.

        Raises:
            InvalidRequestError: as `Recommender.similar`.
        """
        if query.embedding is not None and not query.embedding_fits:
            raise InvalidRequestError(
                "nothing is known by sound: the genre_cnn of this server is not the one that embedded the "
                "recommender's items; publish the two that belong together"
            )
        found = self._by_index(query)
        if found is None:  # including invalid queries, which are rejected here
            found = self._recommender.similar(query.item, embedding=query.embedding, by=query.by, n=query.k)
        return found

    def _by_index(self, query: SimilarRequest) -> list[SimilarItem] | None:
        """Return similar items by the sound index; None if the query cannot be answered by it."""
        if self._index is None or query.by != "sound" or not 1 <= query.k <= MOST_ANSWERS:
            return None
        if (query.item is None) == (query.embedding is None):
            return None
        index, wanted = None, query.embedding
        if query.item is not None:
            index = self._recommender.resolver.item(query.item)
            if index is None:
                return None
            wanted = self._recommender.artifact.arrays["items.embeddings"][index]
        if wanted is None or wanted.shape != (_SIZE,):
            return None
        length = float(np.linalg.norm(wanted))
        if not np.isfinite(length) or length == 0:
            return None
        indices, cosines = self._index.search(wanted, query.k + (index is not None))
        kept = [(each, score) for each, score in zip(indices.tolist(), cosines.tolist(), strict=True) if each != index]
        return [SimilarItem(self._recommender.item_ids[each], score) for each, score in kept[: query.k]]
