"""Answers as tensors.

Letters: B rows of a request, k items of the longest answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender import Answer, Recommender, Similar, Unknown

Array = np.ndarray[Any, Any]

SIMILAR = "similar"  # the rung of an answer to what is like an item
_NOTHING_UNKNOWN = b'{"user":false,"history":[],"skipped":[],"friends":[],"exclude":[],"mood":false}'
_KNOWN = Unknown()


@dataclass(frozen=True, eq=False)
class Row:
    """One question's answer, as it goes out.

    Attributes:
        reasons: JSON by item, or empty for none.
    """

    items: Sequence[str]
    scores: Array
    rung: str
    arm: str
    unknown: bytes
    reasons: Sequence[bytes] = ()


def row_of(answer: Answer) -> Row:
    """A recommendation's row."""
    return Row(
        answer.items,
        answer.scores,
        answer.rung,
        answer.arm,
        _unknown(answer.unknown),
        [_json([vars(reason) for reason in reasons]) for reasons in answer.reasons],
    )


def row_of_similar(found: Sequence[Similar]) -> Row:
    """The row of what is like an item."""
    scores = np.array([each.score for each in found], np.float32)
    return Row([each.item for each in found], scores, SIMILAR, "", _NOTHING_UNKNOWN)


class Tensors:
    """Makes output tensors; knows items' titles and artists."""

    def __init__(self, recommender: Recommender) -> None:
        self._makers: dict[str, Callable[[Row], Sequence[bytes]]] = {
            "item_ids": lambda row: [item.encode("utf-8") for item in row.items],
            "titles": _by_item(recommender, "titles"),
            "artists": _by_item(recommender, "artists"),
            "reasons": lambda row: row.reasons or [b""] * len(row.items),
        }

    def make(self, name: str, rows: Sequence[Row]) -> Array:
        """One output of one request: (B, k) or (B, 1)."""
        if name == "scores":
            return _filled([row.scores for row in rows], np.zeros((len(rows), _longest(rows)), np.float32))
        if name in self._makers:
            maker = self._makers[name]
            return _filled([maker(row) for row in rows], np.full((len(rows), _longest(rows)), b"", np.object_))
        values = [getattr(row, name) for row in rows]
        return np.array([[v.encode() if isinstance(v, str) else v] for v in values], np.object_)


def _longest(rows: Sequence[Row]) -> int:
    return max((len(row.items) for row in rows), default=0)


def _filled(values: Sequence[Sequence[Any]], array: Array) -> Array:
    for row, each in zip(array, values, strict=True):
        row[: len(each)] = each
    return array


def _by_item(recommender: Recommender, name: str) -> Callable[[Row], Sequence[bytes]]:
    if f"{name}.ends" not in recommender.artifact.arrays:
        return lambda row: [b""] * len(row.items)
    texts = [text.encode("utf-8") for text in recommender.artifact.texts(name)]
    place = recommender.resolver.item
    return lambda row: [texts[place(item)] for item in row.items]


def _unknown(unknown: Unknown) -> bytes:
    return _NOTHING_UNKNOWN if unknown == _KNOWN else _json(vars(unknown))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
