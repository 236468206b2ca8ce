"""Search for items by id, title or artist.

Texts are compared by their keys, see `text_keys`, and ids by `ids.normalize_id` instead.

Keys of all texts are sorted once, so that exact and prefix matches take two binary searches. Words are found by
scanning the bytes of all keys, and similar spellings by an index of character bigrams. With 100,000 titles a search
takes milliseconds. The index is made when an artifact is written, and mapped into memory, see `derived`.
Shapes: I items.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.exceptions import InvalidRequestError, shown
from tritone_serving.recommender.requests import check_k
from tritone_serving.recommender.text_keys import BigramIndex, key_of, same_text, words_of
from tritone_serving.recommender.texts import Texts

FIELDS: Final = ("id", "title", "artist")
MATCHES: Final = ("exact", "normalized", "prefix", "words", "near")
_UNRANKED: Final = 255
_LAST: Final = "\U0010ffff"
_SHORTEST_WORD: Final = 3  # characters of an ASCII word that is searched within texts; shorter ones match too much
_LARGEST_OFFSET: Final = 2**31 - 1
_LONGEST_NEAR: Final = 100  # characters of a key; comparing two takes time proportional to the product of their lengths
_N_COMPARED: Final = 60
_LEAST_RATIO: Final = 0.7
_N_NEAR: Final = 10

ItemIndices = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SearchRequest:
    """A request for items by text.

    Attributes:
        query: an id, a title, an artist, or words of artist and title.
        field: one of `FIELDS`, or None for all.
        limit: how many items to return, 1 to 10,000.
        offset: how many of the found items to skip.
    """

    query: str
    field: str | None = None
    limit: int = 10
    offset: int = 0

    def check(self) -> None:
        """Check the values.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        if self.field is not None and self.field not in FIELDS:
            raise InvalidRequestError(
                f"invalid query_field: expected one of {', '.join(FIELDS)}, got {shown(self.field)}"
            )
        check_k(self.limit)
        if not 0 <= self.offset <= _LARGEST_OFFSET:
            raise InvalidRequestError(
                f"invalid offset: expected a whole number from 0 to {_LARGEST_OFFSET}, got {self.offset}"
            )


@dataclass(frozen=True)
class SearchHit:
    """One item that a search found.

    Attributes:
        match: one of exact, normalized, prefix, words, near.
        field: one of `FIELDS`.
    """

    item: str
    match: str
    field: str


@dataclass(frozen=True)
class SearchResponse:
    """One page of what a search found.

    Attributes:
        total: how many items were found in all.
    """

    found: tuple[SearchHit, ...]
    total: int


class TrackSearch:
    """Searches the items of one artifact. Safe to use from several threads."""

    def __init__(self, texts: Mapping[str, Sequence[str]], arrays: Mapping[str, Array] | None = None) -> None:
        """Read the index.

        Args:
            texts: field -> (I,) texts in the order of the artifact's items, empty where unknown.
            arrays: the index, as returned by `search_arrays`, which is called if it is None.
        """
        self._ids = texts["id"]
        found = search_arrays(texts) if arrays is None else arrays
        self._columns = {
            field: _Column(texts[field], {name: found[f"{field}.{name}"] for name in _COLUMN_ARRAYS})
            for field in FIELDS
            if field in texts
        }

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that can be searched."""
        return tuple(self._columns)

    def search(self, search: SearchRequest) -> SearchResponse:
        """Return one page of the items that match, best match first.

        Equally good matches are ordered by field, then by popularity, which is the order of the items.

        Raises:
            InvalidRequestError: the query is blank, a value is out of range, or the artifact does not have the field.
        """
        search.check()
        words = words_of(search.query)
        if not words:
            raise InvalidRequestError("invalid query: expected a title, an artist or an id, got blanks only")
        fields = self._fields_of(search)
        items, ranks = self._ranked(search.query, words, fields)
        if not len(items) and search.field is None and len(self._columns) == 1:
            raise InvalidRequestError(f"no item has this id, and {_NO_TITLES}")
        page = slice(search.offset, search.offset + search.limit)
        found = (
            SearchHit(self._ids[item], MATCHES[rank // len(FIELDS)], FIELDS[rank % len(FIELDS)])
            for item, rank in zip(items[page].tolist(), ranks[page].tolist(), strict=True)
        )
        return SearchResponse(tuple(found), len(items))

    def _fields_of(self, search: SearchRequest) -> list[str]:
        if search.field is None:
            return list(self._columns)
        if search.field not in self._columns:
            raise InvalidRequestError(f"the {search.field} of no item is known: {_NO_TITLES}")
        return [search.field]

    def _ranked(self, query: str, words: list[str], fields: list[str]) -> tuple[ItemIndices, npt.NDArray[np.uint8]]:
        """Return the items found, best first, and their ranks: 3 x index of the match + index of the field."""
        key = "".join(words)
        best = np.full(len(self._ids), _UNRANKED, np.uint8)

        def add(match: str, field: str, items: ItemIndices) -> None:
            rank = MATCHES.index(match) * len(FIELDS) + FIELDS.index(field)
            best[items] = np.minimum(best[items], rank)

        for field in fields:
            column = self._columns[field]
            equal = column.equal(key)
            add("exact", field, column.same(equal, query))
            add("normalized", field, equal)
            add("prefix", field, column.beginning_with(key))
            add("words", field, self._with_words(words, field, fields))
        items = np.flatnonzero(best < _UNRANKED)
        if len(items):
            items = items[np.argsort(best[items], kind="stable")]
            return items, best[items]
        near: dict[int, tuple[float, int]] = {}
        for field in fields:
            for item, ratio in self._columns[field].near(key):
                rated = (-ratio, MATCHES.index("near") * len(FIELDS) + FIELDS.index(field))
                near[item] = min(rated, near.get(item, rated))
        order = sorted(near, key=lambda item: (near[item][0], item))[:_N_NEAR]
        return np.array(order, np.int64), np.array([near[item][1] for item in order], np.uint8)

    def _with_words(self, words: list[str], field: str, fields: list[str]) -> ItemIndices:
        """Return the items in whose field every word occurs; for the title, words may occur in the artist too."""
        none = np.zeros(0, np.int64)
        if all(len(word) < _SHORTEST_WORD and word.isascii() for word in words):
            return none
        longest = max(words, key=lambda word: (not word.isascii(), len(word)))
        others = set(words) - {longest}
        columns = [self._columns[field]]
        if not others:
            return columns[0].containing(longest)
        if field == "title" and "artist" in fields:
            columns.append(self._columns["artist"])
        items = np.unique(np.concatenate([column.containing(longest) for column in columns])).tolist()
        keys = [column.keys for column in columns]
        return np.array([i for i in items if all(any(word in each[i] for each in keys) for word in others)], np.int64)


_NO_TITLES: Final = "this recommender was trained without titles and artists; train it with --metadata"


# Of each field: keys as UTF-8, the end of each, the items in the order of their keys, and an index of bigrams.
_COLUMN_ARRAYS: Final = ("keys", "key_ends", "order", "bigrams", "bigram_starts", "n_bigrams")


def search_arrays(texts: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """Return the index of the fields' texts, which takes about a second for 100,000 items.

    Args:
        texts: as in `TrackSearch`.
    """
    arrays: dict[str, Array] = {}
    for field, each in texts.items():
        known: dict[str, str] = {}  # many items share an artist
        keys = [known[text] if text in known else known.setdefault(text, key_of(text)) for text in each]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        index = BigramIndex.of(keys)
        encoded = [key.encode("utf-8") for key in keys]
        arrays[f"{field}.keys"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{field}.key_ends"] = np.cumsum([len(key) for key in encoded], dtype=np.int64)
        arrays[f"{field}.order"] = np.array(order, np.int32)
        arrays[f"{field}.bigrams"] = index.entries
        arrays[f"{field}.bigram_starts"] = index.starts
        arrays[f"{field}.n_bigrams"] = index.lengths
    return arrays


def texts_of_items(artifact: Artifact) -> dict[str, Texts]:
    """Return the texts of an artifact's items by field."""
    names = {"id": "items", "title": "titles", "artist": "artists"}
    return {field: artifact.texts(name) for field, name in names.items() if f"{name}.ends" in artifact.arrays}


def search_arrays_of(artifact: Artifact) -> dict[str, Array]:
    """Return the index of an artifact's items, see `search_arrays`."""
    return search_arrays(texts_of_items(artifact))


class _Column:
    """Keys of one field. (I,) `keys` are empty where the text is unknown."""

    def __init__(self, texts: Sequence[str], arrays: Mapping[str, Array]) -> None:
        self.texts = texts
        self.keys = Texts(arrays["keys"], arrays["key_ends"])
        self._order = arrays["order"]
        self._sorted = _Sorted(self.keys, self._order)
        self._bytes, self._ends = arrays["keys"], arrays["key_ends"]
        self._bigrams = BigramIndex(arrays["bigrams"], arrays["bigram_starts"], arrays["n_bigrams"])

    def equal(self, key: str) -> ItemIndices:
        """Return the items with this key, ascending."""
        return self._between(bisect_left(self._sorted, key), bisect_right(self._sorted, key))

    def beginning_with(self, key: str) -> ItemIndices:
        """Return the items whose key begins with `key`, ascending."""
        return self._between(bisect_left(self._sorted, key), bisect_right(self._sorted, key + _LAST))

    def _between(self, first: int, end: int) -> ItemIndices:
        items: ItemIndices = np.sort(self._order[first:end]).astype(np.int64)
        return items

    def same(self, items: ItemIndices, text: str) -> ItemIndices:
        """Return those of the items whose text equals `text` apart from its Unicode form."""
        known = {each: same_text(each, text) for each in {self.texts[item] for item in items.tolist()}}
        return np.array([item for item in items.tolist() if known[self.texts[item]]], np.int64)

    def containing(self, part: str) -> ItemIndices:
        """Return the items whose key contains `part`, ascending."""
        wanted = np.frombuffer(part.encode("utf-8", "surrogatepass"), np.uint8)
        starts = np.flatnonzero(self._bytes[: max(len(self._bytes) - len(wanted) + 1, 0)] == wanted[0])
        for offset, byte in enumerate(wanted[1:].tolist(), 1):
            if not len(starts):
                break
            starts = starts[self._bytes[starts + offset] == byte]
        items: ItemIndices = np.searchsorted(self._ends, starts, "right")
        whole: ItemIndices = np.unique(items[starts + len(wanted) <= self._ends[items]])  # not across two keys
        return whole

    def near(self, key: str) -> list[tuple[int, float]]:
        """Return items of similar spelling with their similarity, 0.7 to 1."""
        if len(key) > _LONGEST_NEAR:
            return []
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(key)
        rated: dict[str, float] = {}
        for other in {self.keys[item] for item in self._bigrams.most_shared(key, _N_COMPARED)}:
            matcher.set_seq1(other[: 2 * _LONGEST_NEAR])
            rated[other] = matcher.ratio() if matcher.quick_ratio() >= _LEAST_RATIO else 0.0
        near = [each for each, ratio in rated.items() if ratio >= _LEAST_RATIO]
        return [(int(item), rated[each]) for each in near for item in self.equal(each)[:_N_NEAR]]


class _Sorted(Sequence[str]):
    """The keys in ascending order."""

    def __init__(self, keys: Texts, order: Array) -> None:
        self._keys, self._order = keys, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        return self._keys[int(self._order[index])]
