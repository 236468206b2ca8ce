"""Responses of the recommender as output tensors.

Shapes: B rows of a request, k items of the longest response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender import (
    AppliedMood,
    PlaylistResponse,
    Recommender,
    RecommendResponse,
    ScoreReason,
    SearchResponse,
    SimilarItem,
    TextResponse,
    UnknownInputs,
)
from tritone_serving.recommender.texts import Texts

Array = np.ndarray[Any, Any]

# Values of `source` in responses other than recommendations.
SIMILAR = "similar"
SEARCH = "search"
BY_MEANING = "meaning"
BY_WORDS = "words"
PLAYLIST = "playlist"
NOT_RECOMMENDED = (SIMILAR, SEARCH, BY_MEANING, BY_WORDS, PLAYLIST)
_KNOWN = UnknownInputs()


@dataclass(frozen=True, eq=False)
class OutputRow:
    """The response to one query.

    Attributes:
        unknown: JSON of the ignored inputs, and of the mood that was taken into account.
        reasons: JSON of each item's reasons; empty if none were requested.
        matches: kind of match and matching field of each item of a search; empty for other queries.
        total: number of items that a search found.
        playlist: JSON of how a playlist was made; empty for other queries.
    """

    items: Sequence[str]
    scores: Array
    source: str
    arm: str
    unknown: bytes
    reasons: Sequence[bytes] = ()
    matches: Sequence[tuple[str, str]] = ()
    total: int = 0
    playlist: bytes = b""


def row_of(answer: RecommendResponse) -> OutputRow:
    """Return the row of a recommendation."""
    return OutputRow(
        answer.items,
        answer.scores,
        answer.source,
        answer.arm,
        _unknown(answer.unknown, answer.mood),
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


def row_of_text(answer: TextResponse) -> OutputRow:
    """Return the row of a search by a description."""
    source = BY_MEANING if answer.by_meaning else BY_WORDS
    return OutputRow(answer.items, answer.scores, source, "", _NOTHING_UNKNOWN)


def row_of_playlist(answer: PlaylistResponse) -> OutputRow:
    """Return the row of a playlist, with the similarity of each item to the one before it as score."""
    details = {name: getattr(answer, name) for name in ("artist_gap", "relaxed", "compared_by", "by_taste")}
    return OutputRow(
        answer.items,
        answer.similarities,
        PLAYLIST,
        "",
        _unknown(answer.unknown, answer.mood),
        playlist=_json(details),
    )


def repeated_value(name: str, rows: Sequence[OutputRow]) -> str | bytes | None:
    """Return the value of an output that many responses have in common, None for other outputs."""
    if len(rows) != 1:
        return None
    if name == "unknown":
        return _NOTHING_UNKNOWN if rows[0].unknown is _NOTHING_UNKNOWN else None
    value: str | None = getattr(rows[0], name) if name in ("source", "arm") else None
    return value


class OutputTensors:
    """Builds output tensors, including items' titles and artists."""

    def __init__(self, recommender: Recommender) -> None:
        self._makers: dict[str, Callable[[OutputRow], Sequence[bytes]]] = {
            "item_ids": lambda row: [item.encode("utf-8") for item in row.items],
            "titles": _by_item(recommender, recommender.catalogue.titles),
            "artists": _by_item(recommender, recommender.catalogue.artists),
            "reasons": lambda row: row.reasons or [b""] * len(row.items),
            "match": lambda row: [match.encode() for match, _ in row.matches] or [b""] * len(row.items),
            "match_field": lambda row: [field.encode() for _, field in row.matches] or [b""] * len(row.items),
        }

    def make(self, name: str, rows: Sequence[OutputRow]) -> Array:
        """Return an output tensor of one request, (B, k) or (B, 1)."""
        if name == "scores":
            return _padded([row.scores for row in rows], 0, np.float32)
        if name in self._makers:
            maker = self._makers[name]
            return _padded([maker(row) for row in rows], b"", np.object_)
        if name == "total":
            return np.array([[row.total] for row in rows], np.int32)
        values = [getattr(row, name) for row in rows]
        return np.array([[v.encode() if isinstance(v, str) else v] for v in values], np.object_)


def _padded(values: Sequence[Sequence[Any] | Array], filler: Any, dtype: type) -> Array:
    """Return values of different lengths as an array of the longest one."""
    if len(values) == 1:  # the usual case
        return np.array(values, dtype)
    array: Array = np.full((len(values), max(map(len, values), default=0)), filler, dtype)
    for row, each in zip(array, values, strict=True):
        row[: len(each)] = each
    return array


def _by_item(recommender: Recommender, texts: Texts | None) -> Callable[[OutputRow], Sequence[bytes]]:
    if texts is None:
        return lambda row: [b""] * len(row.items)
    index: Callable[[str], Any] = recommender.resolver.item  # never None, because results hold known items only
    return lambda row: [bytes(texts.encoded(index(item))) for item in row.items]


def _reason(reason: ScoreReason) -> dict[str, Any]:
    """Return a reason as a dict, without title and artist if they are unknown."""
    return {name: value for name, value in vars(reason).items() if value or name not in ("title", "artist")}


def _unknown(unknown: UnknownInputs, mood: AppliedMood) -> bytes:
    if mood.source == "none":
        return _NOTHING_UNKNOWN if unknown == _KNOWN else _json(vars(unknown))
    return _json({**vars(unknown), "mood_used": {"source": mood.source, "strengths": mood.strengths}})


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


_NOTHING_UNKNOWN = _json(vars(_KNOWN))
