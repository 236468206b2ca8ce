"""Rankings for stored users, computed in training: see `tritone_serving.recommender.precomputed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import Recommender, RecommendRequest, RemoteScorer
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.interaction_dataset import InteractionDataset
from tritone_training.kinds.recommender.offline import AT_ONCE


def precompute_rankings(
    recommender: Recommender,
    taste: RemoteScorer | None,
    dataset: InteractionDataset,
    n: int,
    *,
    on_progress: Callable[[int, int], None],
) -> dict[str, npt.NDArray[Any]]:
    """The arrays `lists.<arm>.*` of the arms that anybody gets."""
    indices = {name: index for index, name in enumerate(recommender.item_ids)}
    n = min(n, dataset.n_items)
    arms: dict[str, tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]] = {}
    for start in range(0, dataset.n_users, AT_ONCE):
        requests = [RecommendRequest(user=name, k=n) for name in dataset.users[start : start + AT_ONCE]]
        for arm in recommender.scorer.arms:
            columns, values = arms.setdefault(arm, ([], []))
            for answer in recommender.answer(requests, taste=taste, arm=arm):
                if isinstance(answer, Exception):
                    raise answer
                columns.append(np.array([indices[item] for item in answer.items], np.int64))
                values.append(answer.scores)
        on_progress(min(start + AT_ONCE, dataset.n_users), dataset.n_users)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for arm, (columns, values) in arms.items():
        arrays.update(rows_arrays(f"lists.{arm}", Rows.from_lists(columns, values)))
    return arrays
