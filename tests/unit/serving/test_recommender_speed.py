"""What makes answering fast must not change an answer: sparse products, the best of many, plays, kept memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import RecommendRequest, RecommendResponse, memory, rows
from tritone_serving.recommender.artifact import open_artifact
from tritone_serving.recommender.lookup import NOT_STORED
from tritone_serving.recommender.pseudonyms import read_key
from tritone_serving.recommender.ranking import top
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows, product


def sparse_rows(shape: tuple[int, int], density: float, seed: int) -> tuple[Rows, np.ndarray]:
    matrix = sparse.random(*shape, density, format="csr", random_state=seed, dtype=np.float32)
    return Rows.from_csr(matrix), matrix.toarray()


@pytest.mark.parametrize("most_counted", [2**31 - 1, 10])
def test_a_product_is_the_dense_one(most_counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MOST_COUNTED", most_counted)
    table, dense_table = sparse_rows((50, 70), 0.05, 0)  # some rows are empty
    assert (np.diff(table.starts) == 0).any()
    left, dense_left = sparse_rows((20, 50), 0.3, 1)
    np.testing.assert_allclose(product(left, table, 70), dense_left @ dense_table, atol=1e-5)


def test_a_product_takes_rows_in_any_order_and_twice() -> None:
    table, dense = sparse_rows((9, 30), 0.4, 2)
    places = [np.array([7, 0, 3, 7, 8]), np.zeros(0, np.int64), np.array([8])]
    weights = [np.array([1, -2, 0.5, 3, 4], np.float32), np.zeros(0, np.float32), np.ones(1, np.float32)]
    wanted = np.stack([w @ dense[p] for p, w in zip(places, weights, strict=True)])
    np.testing.assert_allclose(product(Rows.from_lists(places, weights), table, 30), wanted, atol=1e-5)


@pytest.mark.parametrize("column", [-1, 30, 10**6])
def test_a_damaged_row_is_refused_and_the_others_are_not(column: int) -> None:
    table, dense = sparse_rows((9, 30), 0.4, 3)
    columns = table.columns.copy()
    columns[table.starts[4]] = column
    damaged = Rows(table.starts, columns, table.values)
    one = [np.ones(1, np.float32)]
    np.testing.assert_allclose(product(Rows.from_lists([np.array([3])], one), damaged, 30)[0], dense[3], atol=1e-6)
    with pytest.raises(IndexError, match="of a table with 30"):
        product(Rows.from_lists([np.array([4])], one), damaged, 30)


@pytest.mark.parametrize("n", [1, 9, 640, 5_000])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("n_values", [2, 50, 10**6])  # with many ties, and hardly any
def test_the_best_are_those_of_a_stable_sort(n: int, k: int, n_values: int) -> None:
    rng = np.random.default_rng(n * k + n_values)
    scores = rng.integers(0, n_values, n).astype(np.float32)
    scores[rng.random(n) < 0.3] = -np.inf
    wanted = np.argsort(-scores, kind="stable")[:k]
    assert top(scores, k).tolist() == wanted[scores[wanted] > -np.inf].tolist()


def test_users_of_a_batch_may_be_looked_up_before(tmp_path: Path) -> None:
    folder = models.make_artifact(tmp_path / "artifact", tmp_path / "key")
    resolver = Resolver(open_artifact(folder), read_key(tmp_path / "key"))
    requests = [RecommendRequest(user=models.user_id(3)), RecommendRequest(k=0), RecommendRequest(user="nobody")]
    users = [resolver.user_of(each) for each in requests]
    batch, errors = resolver.batch(requests, users=users)
    assert batch.users.tolist() == [resolver.user(models.user_id(3)), NOT_STORED]
    assert list(errors) == [1]


def test_where_all_must_not_come_nothing_does() -> None:
    assert not len(top(np.full(5_000, -np.inf, np.float32), 10))


def test_stored_and_given_plays_are_added_by_item(tmp_path: Path) -> None:
    folder = models.make_artifact(tmp_path / "artifact", tmp_path / "key")
    resolver = Resolver(open_artifact(folder), read_key(tmp_path / "key"))
    user = resolver.user(models.user_id(3))
    stored = dict(zip(*(each.tolist() for each in resolver._history.row(user)), strict=True))
    known = next(iter(stored))
    history = [models.item_id(known), "nobody knows it", models.item_id(119), models.item_id(known), "nor this"]
    question = RecommendRequest(user=models.user_id(3), history=history, weights=[1, 1, 2.5, 4, 1])
    items, plays, unknown = resolver._plays(question, user)
    wanted = {**stored, known: stored[known] + 5, 119: stored.get(119, 0) + 2.5}
    assert dict(zip(items.tolist(), plays.tolist(), strict=True)) == wanted
    assert items.tolist() == sorted(wanted)
    assert unknown == ("nobody knows it", "nor this")


def test_the_stand_in_has_lists_if_asked(tmp_path: Path) -> None:
    listed = models.make_artifact(tmp_path / "listed", tmp_path / "key", n_listed=30)
    plain = models.make_artifact(tmp_path / "plain", tmp_path / "key")
    assert "lists.a.starts" in open_artifact(listed).arrays
    for number in range(5):
        question = RecommendRequest(user=models.user_id(number))
        [one], [other] = (models.opened(each, tmp_path / "key").recommend([question]) for each in (listed, plain))
        assert isinstance(one, RecommendResponse)
        assert isinstance(other, RecommendResponse)
        assert one.items == other.items
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc alone is told")
def test_freed_memory_is_kept() -> None:
    resource = pytest.importorskip("resource")
    assert memory.keep_freed_memory()
    for _ in range(3):
        np.ones(4 << 20, np.float32)  # 16 MB, 4,096 pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(4 << 20, np.float32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4_096


def test_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
