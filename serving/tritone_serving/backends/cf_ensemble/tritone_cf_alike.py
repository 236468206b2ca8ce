"""What is like an item or a recording: by its sound from an index where the version has one, else item by item."""

from __future__ import annotations

import numpy as np
from tritone_cf_questions import Likeness

from tritone_serving.recommender import QuestionError, Recommender, Similar
from tritone_serving.sound_index import MOST_ANSWERS, open_index

_SIZE = 256


class Alike:
    """Answers one model's questions about likeness."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._index = open_index(recommender.artifact.folder)

    def similar(self, question: Likeness) -> list[Similar]:
        """Best first.

        Raises:
            QuestionError: as `Recommender.similar`.
        """
        if question.embedding is not None and not question.embedding_fits:
            raise QuestionError(
                "nothing is known by sound: the genre_cnn of this server is not the one that embedded the "
                "recommender's items; publish the two that belong together"
            )
        found = self._by_index(question)
        if found is None:  # so it is with all that is asked wrongly, too
            found = self._recommender.similar(question.item, embedding=question.embedding, by=question.by, n=question.k)
        return found

    def _by_index(self, question: Likeness) -> list[Similar] | None:
        """None where the index has no say."""
        if self._index is None or question.by != "sound" or not 1 <= question.k <= MOST_ANSWERS:
            return None
        if (question.item is None) == (question.embedding is None):
            return None
        place, wanted = None, question.embedding
        if question.item is not None:
            place = self._recommender.resolver.item(question.item)
            if place is None:
                return None
            wanted = self._recommender.artifact.arrays["items.embeddings"][place]
        length = float(np.linalg.norm(wanted))
        if wanted.shape != (_SIZE,) or not np.isfinite(length) or length == 0:
            return None
        places, cosines = self._index.search(wanted, question.k + (place is not None))
        kept = [(each, score) for each, score in zip(places.tolist(), cosines.tolist(), strict=True) if each != place]
        return [Similar(self._recommender.item_ids[each], score) for each, score in kept[: question.k]]
