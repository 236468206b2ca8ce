"""Ranking metrics over the full catalogue, averaged over users with held-out listens.

With h held-out items of a user: recall@k = hits / h; precision@k = hits / k; NDCG@k has binary relevance and an ideal
DCG of min(k, h) hits; MAP@k is normalised by min(k, h); MRR@k uses the first hit. Held-out items outside the catalogue
count as missed.
Shapes: B users, I items, K largest cutoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.ranking import top

CUTS: Final = (10, 20, 40)
MAIN_METRICS: Final = ("ndcg@10", "recall@10", "hit_rate@10", "mrr@10", "map@10", "ndcg@40", "recall@40")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def top_items(scores: npt.NDArray[np.float32], consumed: sparse.csr_matrix, k: int = CUTS[-1]) -> Ints:
    """Return the best k items of each row without those in `consumed`, (B, k); -1 where there are fewer.

    The array `scores` (B, I) is overwritten.
    """
    best = np.full((len(scores), k), -1, np.int64)
    for row in range(len(scores)):
        scores[row, consumed.indices[consumed.indptr[row] : consumed.indptr[row + 1]]] = -np.inf
        found = top(scores[row], k)
        best[row, : len(found)] = found
    return best


def hits_of(best: Ints, wanted: sparse.csr_matrix) -> npt.NDArray[np.bool_]:
    """Return whether each recommended item is among the held-out items `wanted` (B, I); (B, K)."""
    n_items = wanted.shape[1]
    held_out = np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr)) * n_items + wanted.indices
    return np.isin(np.arange(len(best))[:, None] * n_items + best, held_out) & (best >= 0)


def per_user(hits: npt.NDArray[np.bool_], n_held_out: Ints, cuts: Sequence[int] = CUTS) -> dict[str, Floats]:
    """Return every metric of each user, name@k -> (B,).

    Args:
        hits: (B, K) as returned by `hits_of`.
        n_held_out: (B,) number of held-out items, at least 1.
        cuts: the cutoffs k.
    """
    discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    found: dict[str, Floats] = {}
    for k in cuts:
        top_hits = hits[:, :k]
        n_hits = top_hits.sum(1).astype(np.float64)
        possible = np.minimum(k, n_held_out)
        recall, precision = n_hits / n_held_out, n_hits / k
        both = recall + precision
        f1 = np.divide(2 * recall * precision, both, out=np.zeros(len(hits)), where=both > 0)
        gains = (top_hits * discounts[:k]).sum(1) / np.cumsum(discounts)[possible - 1]
        precisions = np.cumsum(top_hits, axis=1) / np.arange(1, top_hits.shape[1] + 1)
        first = np.where(top_hits.any(1), top_hits.argmax(1) + 1, np.inf)
        values = {
            "recall": recall,
            "precision": precision,
            "f1": f1,
            "ndcg": gains,
            "map": (precisions * top_hits).sum(1) / possible,
            "hit_rate": (n_hits > 0).astype(np.float64),
            "mrr": 1 / first,
        }
        found.update({f"{name}@{k}": value for name, value in values.items()})
    return found


def beyond_accuracy(
    best: Ints,
    listeners: npt.NDArray[np.integer[Any]],
    n_users: int,
    vectors: npt.NDArray[np.float32] | None,
    cuts: Sequence[int] = CUTS,
) -> dict[str, float]:
    """Return coverage, novelty and diversity of recommendations, name@k -> value.

    coverage@k: share of the catalogue recommended to at least one user; novelty@k: mean self-information of the items,
    -log2 of the share of users who listen to them; diversity@k: mean pairwise cosine distance within a list.

    Args:
        best: (B, K) recommended items, -1 for none.
        listeners: (I,) number of listeners of each item.
        n_users: number of users.
        vectors: (I, D) of norm 1 or 0; without them, diversity is left out.
        cuts: the cutoffs k.
    """
    surprise = -np.log2(np.maximum(listeners, 1) / max(n_users, 1))
    found: dict[str, float] = {}
    for k in cuts:
        shown = best[:, :k]
        real = shown >= 0
        found[f"coverage@{k}"] = float(len(np.unique(shown[real])) / max(len(listeners), 1))
        found[f"novelty@{k}"] = float(surprise[shown[real]].mean()) if real.any() else 0.0
        if vectors is not None:
            each = vectors[shown] * real[..., None]  # (B, k, D)
            n = np.maximum(real.sum(1), 2)
            total = (each.sum(1) ** 2).sum(1) - (each**2).sum((1, 2))
            found[f"diversity@{k}"] = float(np.mean(1 - total / (n * (n - 1))))
    return found


def means(values: dict[str, Floats], users: npt.NDArray[np.bool_] | slice = slice(None)) -> dict[str, float]:
    """Return the mean of each metric over the given users, 0 if there are none."""
    return {name: float(each[users].mean()) if len(each[users]) else 0.0 for name, each in values.items()}
