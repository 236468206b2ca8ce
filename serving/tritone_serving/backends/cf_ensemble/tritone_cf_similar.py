"""Requests for similar items, answered by the version's sound index if it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender import InvalidRequestError, Recommender, SimilarItem
from tritone_serving.recommender.similarity import MOST_ANSWERS, open_index

Array = np.ndarray[Any, Any]
_SIZE = 256


@dataclass(frozen=True)
class SimilarRequest:
    """A query for items similar to an item or a recording; see `Catalogue.similar`.

    Attributes:
        k: number of items to return.
        embedding_fits: as in `RecommendRequest`.
    """

    item: str | None
    embedding: Array | None
    by: str
    k: int
    embedding_fits: bool = True


class SimilarItemFinder:
    """Finds similar items, by the version's sound index if it has one."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._index = open_index(recommender.artifact.folder)

    def similar(self, query: SimilarRequest) -> list[SimilarItem]:
        """Return the most similar items, best first.

        Raises:
            InvalidRequestError: as `Catalogue.similar`.
        """
        if query.embedding is not None and not query.embedding_fits:
            raise InvalidRequestError(
                "nothing is known by sound: the genre_cnn of this server is not the one that embedded the "
                "recommender's items; publish the two that belong together"
            )
        found = self._by_index(query)
        if found is None:  # including invalid queries, which are rejected here
            found = self._recommender.catalogue.similar(query.item, embedding=query.embedding, by=query.by, n=query.k)
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
