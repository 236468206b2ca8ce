"""Ranking metrics over all items, users with held-out listens averaged.

recall@k = hits / held-out; precision@k = hits / k; NDCG@k binary, against the best order of min(k, held-out); MAP@k
divided by min(k, held-out); MRR@k by the first hit. Held-out items that are not in the catalogue count as missed.
Shapes: B users, I items, E held-out entries, K deepest cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.ranking import top

CUTS: Final = (10, 20, 40)
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
    """(B, K) whether each recommended item was held out."""
    n_items = wanted.shape[1]
    held_out = np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr)) * n_items + wanted.indices
    return np.isin(np.arange(len(best))[:, None] * n_items + best, held_out) & (best >= 0)


def per_user(hits: npt.NDArray[np.bool_], n_held_out: Ints, cuts: Sequence[int] = CUTS) -> dict[str, Floats]:
    """Every metric for each user: name@k -> (B,).

    Args:
        hits: (B, K).
        n_held_out: (B,) at least 1.
    """
    discounts = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    found: dict[str, Floats] = {}
    for k in cuts:
        here = hits[:, :k]
        n_hits = here.sum(1).astype(np.float64)
        possible = np.minimum(k, n_held_out)
        recall, precision = n_hits / n_held_out, n_hits / k
        both = recall + precision
        f1 = np.divide(2 * recall * precision, both, out=np.zeros(len(hits)), where=both > 0)
        gains = (here * discounts[:k]).sum(1) / np.cumsum(discounts)[possible - 1]
        precisions = np.cumsum(here, axis=1) / np.arange(1, here.shape[1] + 1)
        first = np.where(here.any(1), here.argmax(1) + 1, np.inf)
        values = {
            "recall": recall,
            "precision": precision,
            "f1": f1,
            "ndcg": gains,
            "map": (precisions * here).sum(1) / possible,
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
    """Coverage, novelty and diversity of what was recommended.

    coverage@k: share of the catalogue that anybody was recommended; novelty@k: mean self-information of the items,
    -log2 of the share of users who listen to them; diversity@k: mean cosine distance between the items of a list.

    Args:
        listeners: (I,) of each item.
        vectors: (I, D) of length 1 or 0.
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
    """Average over some users."""
    return {name: float(each[users].mean()) if len(each[users]) else 0.0 for name, each in values.items()}
