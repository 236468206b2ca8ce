"""Ranking metrics: by hand, and beside a library that others rely on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse

from tritone_training.ranking_metrics import beyond_accuracy, hits_of, means, per_user, top_items


def _random(
    seed: int, n_users: int = 40, n_items: int = 120
) -> tuple[np.ndarray, sparse.csr_matrix, sparse.csr_matrix]:
    rng = np.random.default_rng(seed)
    scores = rng.random((n_users, n_items)).astype(np.float32)
    heard = sparse.random(n_users, n_items, 0.1, format="csr", random_state=rng, dtype=np.float32)
    wanted = sparse.random(n_users, n_items, 0.08, format="lil", random_state=rng, dtype=np.float32)
    wanted[heard.nonzero()] = 0
    for user in range(n_users):  # everybody has something to find
        free = np.setdiff1d(np.arange(n_items), heard[user].indices)
        wanted[user, int(rng.choice(free))] = 1
    wanted = wanted.tocsr()
    wanted.eliminate_zeros()
    wanted.data[:] = 1
    return scores, heard, wanted


def test_one_list_by_hand() -> None:
    hits = np.zeros((1, 40), np.bool_)
    hits[0, [1, 4]] = True  # second and fifth of three that were held out
    found = {name: float(value[0]) for name, value in per_user(hits, np.array([3])).items()}
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["precision@10"] == pytest.approx(0.2)
    assert found["f1@10"] == pytest.approx(2 * (2 / 3) * 0.2 / (2 / 3 + 0.2))
    assert found["mrr@10"] == pytest.approx(0.5)
    assert found["map@10"] == pytest.approx((1 / 2 + 2 / 5) / 3)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(6)) / ideal)
    assert found["hit_rate@10"] == 1


def test_held_out_items_outside_the_catalogue_count_as_missed() -> None:
    hits = np.zeros((1, 40), np.bool_)
    hits[0, 0] = True
    assert per_user(hits, np.array([4]))["recall@40"][0] == 0.25


def test_heard_items_never_rank_and_ties_go_to_the_better_known() -> None:
    scores = np.zeros((1, 5), np.float32)
    heard = sparse.csr_matrix(np.array([[1, 0, 0, 0, 0]], np.float32))
    assert top_items(scores, heard, 6).tolist() == [[1, 2, 3, 4, -1, -1]]


def test_a_list_of_one_item_covers_little_and_repeats_itself() -> None:
    best = np.zeros((3, 40), np.int64)
    best[:, 1:] = -1
    figures = beyond_accuracy(best, np.array([4, 1, 1, 1]), 8, np.ones((4, 1), np.float32), (10,))
    assert figures == {"coverage@10": 0.25, "novelty@10": 1.0, "diversity@10": 1.0}
    same = beyond_accuracy(np.array([[0, 1]]), np.array([4, 1]), 8, np.ones((2, 1), np.float32), (2,))
    assert same["diversity@2"] == pytest.approx(0)


def test_an_untrained_order_finds_by_chance() -> None:
    scores, heard, wanted = _random(0, n_users=400)
    hits = hits_of(top_items(scores, heard), wanted)
    n_free = 120 - np.diff(heard.indptr)
    expected = float(np.mean(40 / n_free))
    assert means(per_user(hits, np.diff(wanted.indptr)))["recall@40"] == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ranx_agrees(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own dependencies deprecate
        ranx = pytest.importorskip("ranx")
        scores, heard, wanted = _random(seed)
        free = scores.copy()
        free[heard.nonzero()] = -1
        best = top_items(scores.copy(), heard)
        ours = means(per_user(hits_of(best, wanted), np.diff(wanted.indptr)))
        qrels = ranx.Qrels({f"u{u}": {f"i{i}": 1 for i in wanted[u].indices} for u in range(len(scores))})
        run = ranx.Run(
            {
                f"u{u}": {f"i{i}": float(free[u, i]) for i in range(free.shape[1]) if free[u, i] >= 0}
                for u in range(len(free))
            }
        )
        names = {
            "recall": "recall",
            "precision": "precision",
            "f1": "f1",
            "ndcg": "ndcg",
            "hit_rate": "hit_rate",
            "mrr": "mrr",
        }
        wanted_names = [f"{theirs}@{k}" for theirs in names.values() for k in (10, 20, 40)]
        theirs = ranx.evaluate(qrels, run, wanted_names)
        whole = ranx.evaluate(qrels, run, "map@40")
    for mine, other in names.items():
        for k in (10, 20, 40):
            assert ours[f"{mine}@{k}"] == pytest.approx(theirs[f"{other}@{k}"], abs=1e-6), (mine, k)
    # ranx divides by all held-out items; so do we where they are no more than k.
    if np.diff(wanted.indptr).max() <= 40:
        assert ours["map@40"] == pytest.approx(float(whole), abs=1e-6)
