"""The comparison of ways to combine base models, and the models it adds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from benchmarks import compare_blends
from benchmarks.recommender_members import MEMBERS
from tritone_training.kinds.recommender.ensemble.weight_fitting import Candidates

N_USERS, N_ITEMS = 60, 40


@pytest.fixture(scope="module")
def weights() -> sparse.csr_matrix:
    """Two groups of users, each of which listens to 12 of its 20 items."""
    rng = np.random.default_rng(0)
    dense = np.zeros((N_USERS, N_ITEMS), np.float32)
    for user in range(N_USERS):
        dense[user, rng.choice(20, 12, replace=False) + 20 * (user % 2)] = 1
    return sparse.csr_matrix(dense)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_added_models_prefer_new_items_of_the_own_group(name: str, weights: sparse.csr_matrix) -> None:
    rows = np.arange(6)
    scores = MEMBERS[name](weights, rows)
    assert scores.shape == (6, N_ITEMS)
    assert scores.dtype == np.float32
    for user, each in zip(rows, scores, strict=True):
        own = slice(20, None) if user % 2 else slice(20)
        new = weights[[user]].toarray().ravel() == 0
        assert each[own][new[own]].mean() > np.delete(each, np.arange(N_ITEMS)[own]).max()


@pytest.fixture(scope="module")
def scores() -> compare_blends.Scores:
    """Candidates of which `good` tells the held-out ones with some noise, and all other models nothing."""
    rng = np.random.default_rng(1)
    n = 120
    users, items = np.repeat(np.arange(n), N_ITEMS), np.tile(np.arange(N_ITEMS), n)
    wanted = items == rng.integers(0, N_ITEMS, n)[users]
    names = ("popularity", "noise", *MEMBERS)
    features = {name: rng.random(len(users)).astype(np.float32) for name in names}
    features["good"] = (wanted + rng.random(len(users))).astype(np.float32)
    candidates = Candidates(
        users,
        items,
        wanted,
        np.zeros(len(users), np.bool_),
        features,
        {name: np.ones(n, np.float32) for name in features},
        np.ones(n, np.int64),
    )
    tops = {name: np.ones(n) for name in features}
    return compare_blends.Scores(candidates, tops, np.zeros(n), np.full(n, 12), ("popularity", "noise", "good"))


def test_combinations_are_compared_with_the_weighted_sum(scores: compare_blends.Scores) -> None:
    rows = {row["combination"]: row for row in compare_blends.compare(scores, 1, ("noise", "good"))}
    assert rows["weighted sum"]["ndcg@10 difference"] == 0
    assert rows["weighted sum"]["recall@40"] == 1  # all items are among the candidates
    assert rows["without good"]["ndcg@10 difference"] < -5 * rows["without good"]["ndcg@10 standard error"] < 0
    assert abs(rows["without noise"]["ndcg@10 difference"]) < 0.05
    assert set(rows) >= {"scale of each request", "with all of these", *(f"with {name}" for name in MEMBERS)}
    table = compare_blends.markdown(list(rows.values())).splitlines()
    assert len(table) == len(rows) + 2
    assert {line.count("|") for line in table} == {6}


def test_weights_are_not_evaluated_on_the_users_they_were_learned_from(scores: compare_blends.Scores) -> None:
    row = compare_blends.Row.empty(scores.candidates)
    half = np.arange(120) % 2 == 0
    row.add(scores.candidates, scores.candidates.features["good"].astype(float), ~half, 1)
    assert not row.metrics["ndcg@10"][half].any()
    assert row.metrics["ndcg@10"][~half].all()
