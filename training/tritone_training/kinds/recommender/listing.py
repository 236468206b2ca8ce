"""What stored users who bring nothing new will be told, worked out once: see `tritone_serving.recommender.lists`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import AskTaste, Question, Recommender
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.scoring import AT_ONCE
from tritone_training.kinds.recommender.world import World


def work_out(
    recommender: Recommender,
    taste: AskTaste | None,
    world: World,
    n: int,
    *,
    on_progress: Callable[[int, int], None],
) -> dict[str, npt.NDArray[Any]]:
    """The arrays `lists.<arm>.*` of the arms that anybody gets."""
    places = {name: place for place, name in enumerate(recommender.item_ids)}
    n = min(n, world.n_items)
    arms: dict[str, tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]] = {}
    for start in range(0, world.n_users, AT_ONCE):
        questions = [Question(user=name, k=n) for name in world.users[start : start + AT_ONCE]]
        for arm in recommender.scorer.arms:
            columns, values = arms.setdefault(arm, ([], []))
            for answer in recommender.answer(questions, taste=taste, arm=arm):
                if isinstance(answer, Exception):
                    raise answer
                columns.append(np.array([places[item] for item in answer.items], np.int64))
                values.append(answer.scores)
        on_progress(min(start + AT_ONCE, world.n_users), world.n_users)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for arm, (columns, values) in arms.items():
        arrays.update(rows_arrays(f"lists.{arm}", Rows.from_lists(columns, values)))
    return arrays
