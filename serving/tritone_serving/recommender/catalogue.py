"""The items of one artifact: their titles and artists, search among them, and items that are similar.

Shapes: I items.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.exceptions import InvalidRequestError, cut, shown
from tritone_serving.recommender.lookup import IdLookup
from tritone_serving.recommender.similarity import SimilarItem, similar_items
from tritone_serving.recommender.text_search import TextSearch
from tritone_serving.recommender.texts import Texts
from tritone_serving.recommender.title_resolution import TitleResolver
from tritone_serving.recommender.track_search import (
    SearchRequest,
    SearchResponse,
    TrackSearch,
    search_arrays_of,
    texts_of_items,
)

_LONGEST_NAME: Final = 60  # characters of a title or an artist in an error


class Catalogue:
    """The items of one artifact. Safe to use from several threads, since it is immutable.

    Attributes:
        item_ids: (I,) in the order of the artifact.
        tags: names of tags, for reasons.
        titles: (I,) of the items, empty where unknown; None if the artifact has no titles.
        artists: as `titles`.
    """

    def __init__(self, artifact: Artifact, lookup: IdLookup) -> None:
        """Read the texts of an artifact.

        Args:
            artifact: the opened artifact.
            lookup: finds its items by their ids.
        """
        self._artifact = artifact
        self._lookup = lookup
        self.item_ids = artifact.texts("items")
        self.titles, self.artists = (_texts(artifact, name) for name in ("titles", "artists"))
        self.tags: tuple[str, ...] = tuple(artifact.texts("tags")) if "tags.ends" in artifact.arrays else ()

    def texts_of(self, item: int) -> tuple[str, str]:
        """Return the title and the artist of an item, empty where unknown."""
        return (
            self.titles[item] if self.titles is not None else "",
            self.artists[item] if self.artists is not None else "",
        )

    @cached_property
    def track_search(self) -> TrackSearch:
        """Search index of ids, titles and artists."""
        return TrackSearch(texts_of_items(self._artifact), self._artifact.derive("search", search_arrays_of))

    def search(self, search: SearchRequest) -> SearchResponse:
        """Find items by id, title or artist.

        Raises:
            InvalidRequestError: as `TrackSearch.search`.
        """
        return self.track_search.search(search)

    @cached_property
    def text_search(self) -> TextSearch:
        """Search index of descriptions.

        Raises:
            ArtifactError: the arrays of the search are damaged.
        """
        return TextSearch(self._artifact)

    def title_resolver(self) -> TitleResolver:
        """Return a new resolver of titles to ids."""
        return TitleResolver(self._lookup.item, self.track_search, self._name_of)

    def _name_of(self, item: str) -> str:
        title, artist = self.texts_of(index) if (index := self._lookup.item(item)) is not None else ("", "")
        return " by ".join(filter(None, (cut(title, _LONGEST_NAME), cut(artist, _LONGEST_NAME))))

    def similar(
        self,
        item: str | None = None,
        *,
        embedding: npt.NDArray[np.floating[Any]] | None = None,
        by: str = "both",
        n: int = 10,
    ) -> list[SimilarItem]:
        """Return the items most similar to an item or a recording, best first.

        Args:
            item: id of an item, or
            embedding: (256,) embedding of a recording.
            by: compare by `listening` (who listens to the items), `sound`, or `both`.
            n: number of items to return.

        Raises:
            InvalidRequestError: the item is unknown, or it cannot be compared in this way.
        """
        index = None
        if item is not None:
            index = self._lookup.item(item)
            if index is None:
                raise InvalidRequestError(f"item {shown(item)} is not known")
        found = similar_items(
            self._artifact, index, embedding, by=by, n=n, n_listeners=lambda: self._lookup.n_listeners
        )
        return [SimilarItem(self.item_ids[each], score) for each, score in found]


def _texts(artifact: Artifact, name: str) -> Texts | None:
    return artifact.texts(name) if f"{name}.ends" in artifact.arrays else None
