"""The base model that relates the popularity of items to that of the history."""

from __future__ import annotations

import numpy as np
import pytest

from tritone_serving.recommender.base_models.item_based import Mainstream
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.moods import AppliedMood
from tritone_serving.recommender.requests import UnknownInputs
from tritone_serving.recommender.rows import Rows

SHARES = np.array([1.0, 0.75, 0.5, 0.25, 0.0], np.float32)
MODEL = Mainstream("mainstream", SHARES, 0.5)


def batch_of(*histories: dict[int, float]) -> RequestBatch:
    """Return requests with the given histories, item -> weight."""
    n = len(histories)
    history = Rows.from_lists(
        [np.array(list(each), np.int64) for each in histories],
        [np.array(list(each.values()), np.float32) for each in histories],
    )
    nobody = Rows.from_lists([np.zeros(0, np.int64)] * n, [np.zeros(0, np.float32)] * n)
    return RequestBatch(
        users=np.full(n, -1),
        history=history,
        consumed=history,
        friends=nobody,
        social_neighbourhood=nobody,
        embeddings=None,
        moods=[AppliedMood()] * n,
        unknown=[UnknownInputs()] * n,
        friend_ids=[{}] * n,
        borrowed=np.zeros(n, np.bool_),
        is_known=np.zeros(n, np.bool_),
    )


def test_popular_histories_score_popular_items_higher_and_others_lower() -> None:
    popular, rare = MODEL.score(batch_of({0: 1.0, 1: 1.0}, {3: 5.0}))
    assert popular == pytest.approx(0.375 * SHARES)
    assert rare == pytest.approx(-0.25 * SHARES)


def test_without_a_history_all_scores_are_0() -> None:
    batch = batch_of({}, {0: 1.0})
    assert not MODEL.score(batch)[0].any()
    assert MODEL.knows(batch).tolist() == [False, True]


def test_skipped_items_do_not_count() -> None:
    listened, skipped_too, only_skipped = MODEL.score(batch_of({3: 1.0}, {3: 1.0, 0: -0.5}, {0: -0.5}))
    assert listened == pytest.approx(skipped_too)
    assert not only_skipped.any()


def test_parts_add_up_to_the_scores() -> None:
    batch = batch_of({0: 1.0}, {4: 2.0, 3: 1.0})
    items = np.array([4, 0, 2])
    for request, scores in enumerate(MODEL.score(batch)):
        [part] = MODEL.parts(batch, request, items)
        assert part.because == "popularity"
        assert part.amounts.sum(1) == pytest.approx(scores[items])
