"""Content-based base models: tags and metadata words, audio embeddings, and moods.

Shapes: B requests, I items, G tags, n items to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.base_models.base import Ints, OwnTags, ScoreParts, TableModel, best_of, whole
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.rows import Floats, Rows, product
from tritone_serving.recommender.similarity import SoundIndex, open_index


@dataclass(frozen=True, eq=False)
class Tags(TableModel):
    """Cosine similarity between an item's tags and the tags of a history; also scores items without listeners.

    Attributes:
        table: (G, I) sparse, the transpose of `by_item`.
        by_item: (I, G) sparse tag weights, each item of norm 1.
        n_profile: number of a history's tags that are used, by weight.
        own: correction for the user's own tags.
    """

    by_item: Rows
    n_profile: int
    own: OwnTags

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Tags:
        by_item, by_tag = artifact.rows(f"{name}.by_item"), artifact.rows(f"{name}.by_tag")
        own = OwnTags.open(artifact, name)
        return cls(name, by_tag, artifact.n_items, by_item, int(described["n_profile"]), own)

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        return batch.has_history

    def rows(self, batch: RequestBatch) -> Rows:
        """Return the tags with the largest weights of each history, sparse (B, G), each row of norm 1."""
        totals = product(batch.history, self.by_item, self.table.n_rows)
        columns, values = [], []
        for row in totals:
            best = np.flatnonzero(row != 0)  # NumPy counts booleans several times as fast as numbers
            if len(best) > self.n_profile:
                best = best[np.argpartition(-np.abs(row[best]), self.n_profile - 1)[: self.n_profile]]
            amounts = row[best]
            columns.append(best)
            values.append(amounts / max(float(np.sqrt((amounts * amounts).sum())), 1e-9))
        return Rows.from_lists(columns, values)

    def corrected(self, scores: Floats, batch: RequestBatch, items: Ints | None) -> Floats:
        self.own.apply(scores, batch, items)
        return scores

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        tags, amounts = self.rows(batch.only(request)).row(0)
        strengths = np.zeros((len(items), len(tags)), np.float32)
        for row, item in zip(strengths, items.tolist(), strict=True):
            known = dict(zip(*(each.tolist() for each in self.by_item.row(item)), strict=True))
            row[:] = [known.get(tag, 0.0) for tag in tags.tolist()]
        strengths *= amounts * self.own.of(batch, request, items)[:, None]
        return [ScoreParts("tag", tags.astype(np.int64), strengths)]


@dataclass(frozen=True, eq=False)
class Sound:
    """Cosine similarity between an item's audio embedding and that of a recording, or the mean of a history's.

    Attributes:
        embeddings: (I, 256) of norm 1, zeros for items without a recording.
        centre: (256,) mean of all embeddings, which is subtracted from the query.
        index: approximate index of the embeddings; None compares all items.
    """

    name: str
    embeddings: Floats
    centre: Floats
    index: SoundIndex | None = None

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Sound:
        centre = np.asarray(artifact.arrays[f"{name}.centre"])
        return cls(name, artifact.arrays["items.embeddings"], centre, open_index(artifact.folder))

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        given = np.zeros(batch.n, np.bool_) if batch.embeddings is None else batch.embeddings.any(1)
        return given | batch.has_history

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        scores: Floats = self._wanted(batch) @ (self.embeddings if items is None else self.embeddings[items]).T
        return scores

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        [wanted] = self._wanted(batch)
        if first:
            return best_of(self.embeddings[first:] @ wanted, n) + first
        if self.index is not None and wanted.any():
            return self.index.search(wanted, n)[0]
        return best_of(self.embeddings @ wanted, n)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        one = batch.only(request)
        because = "audio" if one.embeddings is not None and one.embeddings.any() else "history"
        return [whole(because, self.score(one)[0, items])]

    def _wanted(self, batch: RequestBatch) -> Floats:
        """Return the query (B, 256) of norm 1 or 0: the given recording, else the weighted mean of the history."""
        wanted = np.zeros((batch.n, self.embeddings.shape[1]), np.float32)
        for request, row in enumerate(wanted):
            if batch.embeddings is not None and batch.embeddings[request].any():
                row[:] = batch.embeddings[request] - self.centre
            else:
                items, weights = batch.history.row(request)
                sounds = self.embeddings[items]
                consumed = sounds.any(1)
                row[:] = weights[consumed] @ (sounds[consumed] - self.centre)
            length = float(np.linalg.norm(row))
            if length:
                np.divide(row, length, out=row)
        return wanted


@dataclass(frozen=True, eq=False)
class Mood:
    """Strength of the requested emotions in each item, as predicted by `genre_cnn` or taken from mood tags.

    Attributes:
        moods: (I, 9) standardised over all items.
    """

    name: str
    moods: Floats

    @classmethod
    def open(cls, artifact: Artifact, name: str, described: Mapping[str, Any]) -> Mood:
        return cls(name, artifact.arrays["items.moods"])

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        known: npt.NDArray[np.bool_] = batch.mood_vectors.any(1)
        return known

    def score(self, batch: RequestBatch, items: Ints | None = None) -> Floats:
        moods = self.moods if items is None else self.moods[items]
        scores = np.zeros((batch.n, len(moods)), np.float32)
        vectors = batch.mood_vectors
        for request in np.flatnonzero(vectors.any(1)).tolist():
            # The length of the vector is the weight of this base model, see `RequestBatch.brought`.
            scores[request] = moods @ (vectors[request] / np.linalg.norm(vectors[request]))
        return scores

    def propose(self, batch: RequestBatch, n: int, first: int = 0) -> Ints:
        return best_of(self.score(batch)[0], n, first)

    def parts(self, batch: RequestBatch, request: int, items: npt.NDArray[np.int64]) -> Sequence[ScoreParts]:
        return [whole("mood", self.score(batch.only(request))[0, items])]
