"""Input tensors of a Triton request as recommendation requests, and responses as output tensors.

Similar items are found by the sound index of the version if it has one.
Shapes: B rows of a request, L ids of the longest list, k items of the longest response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tritone_serving.recommender import (
    NOBODY,
    AppliedMood,
    Caller,
    InvalidRequestError,
    PlaylistRequest,
    PlaylistResponse,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    ScoreReason,
    SearchRequest,
    SearchResponse,
    SimilarItem,
    TextRequest,
    TextResponse,
    UnknownInputs,
)
from tritone_serving.recommender.requests import (
    check_answers,
    check_id_lengths,
    check_lists,
    times_problem,
    weights_problem,
)
from tritone_serving.recommender.similarity import MOST_ANSWERS, open_index
from tritone_serving.recommender.title_resolution import TitleResolver

Array = np.ndarray[Any, Any]

DEFAULT_K = 10
NOT_GIVEN = -1  # artist_gap or seed of a row that has none
_LISTS = ("history", "skipped", "friends", "exclude", "after")
_ITEM_LISTS = ("history", "skipped", "exclude", "after")


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
    check_lists(n_rows, {name: tensors[name].shape[1] for name in (*_LISTS, "weights", "times") if name in tensors})
    texts = ("user_id", "mood", "similar_to", "by", "query", "query_field", "text", "playlist_from", "playlist_to")
    names = (*_LISTS, *texts)
    check_id_lengths({name: tensors[name].ravel().tolist() for name in names if name in tensors})
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
    strengths = tensors["mood_strengths"][row] if "mood_strengths" in tensors else None
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


def _unknown(unknown: UnknownInputs, mood: AppliedMood) -> bytes:
    if mood.source == "none":
        return _NOTHING_UNKNOWN if unknown == _KNOWN else _json(vars(unknown))
    return _json({**vars(unknown), "mood_used": {"source": mood.source, "strengths": mood.strengths}})


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


_NOTHING_UNKNOWN = _json(vars(_KNOWN))


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
