"""Resolution of titles to ids of items, for requests that may name items by either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tritone_serving.recommender.exceptions import InvalidRequestError, shown
from tritone_serving.recommender.track_search import SearchHit, SearchRequest, SearchResponse, TrackSearch

# A search takes up to some milliseconds in a large catalogue; ids of known items are not counted.
MOST_TITLES: Final = 200
_WHOLE: Final = ("exact", "normalized")
_N_NAMED: Final = 5


class TitleResolver:
    """Maps ids or titles to ids. Create one per Triton request: it counts the titles and refuses more than 200.

    A text is an id if an item has it. Otherwise it is the title (or artist) of the only item whose title it is, apart
    from case, accents and punctuation; or the beginning or the words, such as "artist - title", of a single item.
    """

    def __init__(
        self, index_of: Callable[[str], int | None], search: TrackSearch, name_of: Callable[[str], str]
    ) -> None:
        """Remember the lookups.

        Args:
            index_of: returns the index of the item with an id, None if there is none.
            search: finds items by title, artist and id.
            name_of: returns title and artist of an item for messages, empty if unknown.
        """
        self._index_of = index_of
        self._search = search
        self._name_of = name_of
        self._known: dict[str, str] = {}

    def ids(self, texts: Sequence[str]) -> list[str]:
        """Return the ids of ids or titles; a text that is neither is returned unchanged.

        Raises:
            InvalidRequestError: a text is the title of several items, or there are too many titles.
        """
        return [self._id(text) or text for text in texts]

    def id_of(self, text: str) -> str:
        """Return the id of an id or title.

        Raises:
            InvalidRequestError: as `ids`, or the text is neither an id nor a title.
        """
        found = self._id(text)
        if found is None:
            hits = self._found(text).found
            hint = f"; did you mean {self._listed(hits)}?" if hits else ""
            raise InvalidRequestError(f"item {shown(text)} is not known, neither as an id nor as a title{hint}")
        return found

    def _id(self, text: str) -> str | None:
        if self._index_of(text) is not None:
            return text
        if text not in self._known:
            if len(self._known) >= MOST_TITLES:
                raise InvalidRequestError(
                    f"too many titles: expected at most {MOST_TITLES} texts that are not ids with resolve, got more; "
                    "find the ids of the others first"
                )
            self._known[text] = self._item_named(text)
        return self._known[text] or None

    def _item_named(self, text: str) -> str:
        """Return the id of the only item that a text names; empty if there is none."""
        answer = self._found(text)
        if not answer.found or answer.found[0].match == "near":
            return ""
        best = answer.found[0]
        same = [hit for hit in answer.found if hit.match == best.match]
        if best.match in _WHOLE and len(same) > 1:
            more = " and more" if len(same) > _N_NAMED else ""
            raise InvalidRequestError(
                f"ambiguous title {shown(text)}: several tracks match, {self._listed(same)}{more}; give one of their "
                "ids"
            )
        return best.item if best.match in _WHOLE or answer.total == 1 else ""

    def _found(self, text: str) -> SearchResponse:
        try:
            return self._search.search(SearchRequest(text, limit=_N_NAMED + 1))
        except InvalidRequestError:  # blank, or the artifact has no titles
            return SearchResponse((), 0)

    def _listed(self, hits: Sequence[SearchHit]) -> str:
        named = ((hit.item, self._name_of(hit.item)) for hit in hits[:_N_NAMED])
        return ", ".join(f"{shown(item)} ({name})" if name else shown(item) for item, name in named)
