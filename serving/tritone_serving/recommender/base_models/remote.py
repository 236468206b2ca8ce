"""Base models that run as separate Triton models: their inputs, and scores from their outputs.

`taste_vae` scores a weighted history, `taste_sequence` the order of listening.

This package calls no other model. Its caller runs the network on `RemoteInputs` and passes the outputs on, see
`Recommender.respond`.
Shapes: B requests, L items of the longest history, T items known to the network, I all items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.event_sequences import PADDING, UNKNOWN_AGE
from tritone_serving.recommender.remote_kinds import REMOTE_KINDS
from tritone_serving.recommender.rows import Floats

_SEQUENCE_TENSORS: Final = ("items", "ages", "skipped")
# A longer history is cut to its items with the largest weights: the network accepts 131,072 entries in a request, and a
# request may have 64 rows.
MOST_HISTORY_ITEMS: Final = 2_048


@dataclass(frozen=True, eq=False)
class RemoteInputs:
    """Input tensors of a remote base model for a batch of requests.

    Attributes:
        tensors: name -> (B, L).
    """

    tensors: Mapping[str, npt.NDArray[Any]]

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(next(iter(self.tensors.values())))


@dataclass(frozen=True, eq=False)
class RemoteBaseModel:
    """A base model that runs as another Triton model and scores a weighted history.

    score = probability of the item by the network, times the number of items known to it.

    Attributes:
        name: as in the manifest.
        n_known: T; the network knows the first T items, others have score 0.
        n_items: I.
        fingerprint: beginning of the SHA-256 of the weights of the network that belongs to this artifact.
    """

    name: str
    n_known: int
    n_items: int
    fingerprint: str

    def inputs(self, batch: RequestBatch) -> RemoteInputs:
        """Return the network's inputs `items` (int64, padded with 0) and `weights` (0 for padding)."""
        history = batch.history
        kept = np.flatnonzero((history.columns < self.n_known) & (history.values > 0))
        rows = history.row_numbers()[kept]
        counts = np.bincount(rows, minlength=batch.n)
        longest = max(1, int(counts.max(initial=0)))
        if longest > MOST_HISTORY_ITEMS:
            heaviest = _heaviest(rows, history.values[kept], MOST_HISTORY_ITEMS)
            kept, rows, longest = kept[heaviest], rows[heaviest], MOST_HISTORY_ITEMS
            counts = np.minimum(counts, MOST_HISTORY_ITEMS)
        items, weights = np.zeros((batch.n, longest), np.int64), np.zeros((batch.n, longest), np.float32)
        places = rows * longest + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        items.ravel()[places] = history.columns[kept]
        weights.ravel()[places] = history.values[kept]
        return RemoteInputs({"items": items, "weights": weights})

    def scores(self, batch: RequestBatch, outputs: Floats, items: npt.NDArray[np.int64] | None = None) -> Floats:
        """Return the scores (B, I), or only those of the given items (B, n).

        Args:
            batch: the requests.
            outputs: log-probabilities (B, T) of the network for `inputs(batch)`.
            items: (n,) ascending; all if None.

        Raises:
            ValueError: they are of another shape.
        """
        expected = (batch.n, self.n_known)
        if outputs.shape != expected:
            raise ValueError(f"invalid scores of {self.name}: expected shape {expected}, got {outputs.shape}")
        logits = np.asarray(outputs, np.float32)
        scores = np.empty((batch.n, self.n_items), np.float32)
        known = scores[:, : self.n_known]
        np.exp(np.subtract(logits, logits.max(1, keepdims=True), out=known), out=known)
        factors = self.n_known / known.sum(1, keepdims=True)
        if items is not None:
            known = known[:, items[: np.searchsorted(items, self.n_known)]]
            scores = np.empty((batch.n, len(items)), np.float32)
        np.multiply(known, factors, out=scores[:, : known.shape[1]])
        scores[:, known.shape[1] :] = 0
        is_known = self.knows(batch)
        if not is_known.all():
            scores[~is_known] = 0
        return scores

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        """Return for which requests the network can score items (B,): those with a history."""
        return batch.has_history


@dataclass(frozen=True, eq=False)
class RemoteSequenceModel(RemoteBaseModel):
    """As `RemoteBaseModel`, for a network of the order of listening."""

    def inputs(self, batch: RequestBatch) -> RemoteInputs:
        """Return the network's inputs for a batch, oldest first.

        `items` (int64, padded with -1), `ages` (float32, seconds before the request, -1 if unknown) and `skipped`
        (float32, 0 or 1). Items that the network does not know are left out.
        """
        found = batch.sequences
        if found is None:
            shape = (batch.n, 1)
            empty = (np.full(shape, PADDING, np.int64), np.full(shape, -1, np.float32), np.zeros(shape, np.float32))
            return RemoteInputs(dict(zip(_SEQUENCE_TENSORS, empty, strict=True)))
        kept = found.items < self.n_known
        if kept.all():
            return RemoteInputs({"items": found.items, "ages": found.ages, "skipped": found.skipped.astype(np.float32)})
        counts = (kept & (found.items != PADDING)).sum(1)
        order = np.argsort(~kept, axis=1, kind="stable")[:, : max(1, int(counts.max(initial=0)))]
        items, ages, skipped, known = (
            np.take_along_axis(each, order, 1) for each in (found.items, found.ages, found.skipped, kept)
        )
        return RemoteInputs(
            {
                "items": np.where(known, items, PADDING),
                "ages": np.where(known, ages, np.float32(UNKNOWN_AGE)),
                "skipped": np.where(known, skipped, False).astype(np.float32),
            }
        )

    def knows(self, batch: RequestBatch) -> npt.NDArray[np.bool_]:
        """Return for which requests the network can score items (B,): those with a listen to a known item."""
        found = batch.sequences
        if found is None:
            return np.zeros(batch.n, np.bool_)
        known: npt.NDArray[np.bool_] = (found.is_listen & (found.items < self.n_known)).any(1)
        return known


def _heaviest(rows: npt.NDArray[np.int64], weights: Floats, most: int) -> npt.NDArray[np.bool_]:
    """Return which entries are among the `most` largest weights of their row; `rows` is in ascending order."""
    kept = np.ones(len(rows), np.bool_)
    counts = np.bincount(rows) if len(rows) else np.zeros(0, np.int64)
    for row in np.flatnonzero(counts > most).tolist():
        start = int(np.searchsorted(rows, row))
        stop = start + int(counts[row])
        kept[start + np.argsort(-weights[start:stop], kind="stable")[most:]] = False
    return kept


def open_remote_base_models(artifact: Artifact) -> dict[str, RemoteBaseModel]:
    """Return the remote base models of an artifact by name."""
    found: dict[str, RemoteBaseModel] = {}
    for name, described in artifact.manifest["base_models"].items():
        kind = REMOTE_KINDS.get(described.get("kind"))
        if kind is not None:
            model = RemoteSequenceModel if kind.uses_order else RemoteBaseModel
            n_known, fingerprint = int(described["n_known"]), str(described.get("fingerprint", ""))
            found[name] = model(name, n_known, artifact.n_items, fingerprint)
    return found
