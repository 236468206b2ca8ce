"""What is like an item or a recording: by its sound from an index where the version has one, else item by item."""

from __future__ import annotations

import numpy as np
from tritone_cf_questions import SimilarRequest

from tritone_serving.recommender import InvalidRequestError, Recommender, SimilarItem
from tritone_serving.sound_index import MOST_ANSWERS, open_index

_SIZE = 256


class Alike:
    """Answers one model's queries about similarity."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._index = open_index(recommender.artifact.folder)

    def similar(self, query: SimilarRequest) -> list[SimilarItem]:
        """Best first.

        Raises:
            InvalidRequestError: as `Recommender.similar`.
        """
        if query.embedding is not None and not query.embedding_fits:
            raise InvalidRequestError(
                "nothing is known by sound: the genre_cnn of this server is not the one that embedded the "
                "recommender's items; publish the two that belong together"
            )
        found = self._by_index(query)
        if found is None:  # so it is with all that is asked wrongly, too
            found = self._recommender.similar(query.item, embedding=query.embedding, by=query.by, n=query.k)
        return found

    def _by_index(self, query: SimilarRequest) -> list[SimilarItem] | None:
        """None where the index has no say."""
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
        length = float(np.linalg.norm(wanted))
        if wanted.shape != (_SIZE,) or not np.isfinite(length) or length == 0:
            return None
        indices, cosines = self._index.search(wanted, query.k + (index is not None))
        kept = [(each, score) for each, score in zip(indices.tolist(), cosines.tolist(), strict=True) if each != index]
        return [SimilarItem(self._recommender.item_ids[each], score) for each, score in kept[: query.k]]
