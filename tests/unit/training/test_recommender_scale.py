"""Base models of large logs: the sparse way against the dense one, and what is drawn or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tritone_serving.recommender import Recommender, RecommendRequest, RecommendResponse, write_artifact
from tritone_serving.recommender.base_models.user_based import Social, UserKnn
from tritone_training.exceptions import HyperparameterError
from tritone_training.hyperparameters import from_preset
from tritone_training.kinds.recommender.config import PRESETS, RecommenderConfig
from tritone_training.kinds.recommender.fitting import base_models, neighbourhoods
from tritone_training.kinds.recommender.fitting.base_models import fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import dataset_of_matrix
from tritone_training.kinds.recommender.fitting.neighbourhoods import ease_near, graph_near, solve
from tritone_training.kinds.recommender.fitting.tables import (
    ease_table,
    graph_of,
    graph_table,
    item_knn_table,
    item_vectors,
    item_vectors_drawn,
    ridge,
)

KEY = b"a key of a test, long enough"
N_USERS, N_ITEMS = 90, 40


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def listening() -> sparse.csr_matrix:
    """So dense that every two items share listeners."""
    rng = np.random.default_rng(0)
    matrix = sparse.random(N_USERS, N_ITEMS, 0.4, format="csr", random_state=rng, dtype=np.float32)
    matrix.data = rng.uniform(0.5, 2, matrix.nnz).astype(np.float32)
    return matrix


# --- base models among neighbours -------------------------------------------------------------------


@pytest.mark.parametrize("most_entries", [40_000_000, 100])  # in one block, and in many
def test_item_knn_is_the_dense_one(
    listening: sparse.csr_matrix, most_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbourhoods, "_MOST_ENTRIES", most_entries)
    near = neighbourhoods.neighbourhoods(listening, 7, 3.0, quiet)
    np.testing.assert_allclose(
        near.table(7, near.cosines).toarray(), item_knn_table(listening, 3.0, 7, quiet).toarray(), atol=1e-6
    )


def test_ease_among_all_is_ease(listening: sparse.csr_matrix) -> None:
    near = neighbourhoods.neighbourhoods(listening, N_ITEMS, 0.0, quiet)
    dense = ease_table(ridge(listening, 5.0), N_ITEMS, quiet).toarray()
    np.testing.assert_allclose(ease_near(near, N_ITEMS, 5.0, quiet).toarray(), dense, atol=1e-5)
    assert np.abs(dense).max() > 0.05


def test_the_graph_filter_among_all_is_the_filter(listening: sparse.csr_matrix) -> None:
    graph = graph_of(listening)
    near = neighbourhoods.neighbourhoods(graph.edges, N_ITEMS, 0.0, quiet)
    dense = graph_table(graph, 0.1, N_ITEMS, quiet).toarray()
    found = graph_near(near, graph.degrees, N_ITEMS, 0.1, quiet).toarray()
    np.testing.assert_allclose(found, dense, atol=1e-6)
    assert np.abs(dense).max() > 0.01


def test_ease_among_some_is_ease_of_these(listening: sparse.csr_matrix) -> None:
    n, l2 = 6, 5.0
    near = neighbourhoods.neighbourhoods(listening, n, 0.0, quiet)
    weights = solve(near, n, l2, quiet).weights
    for item in (0, 17, N_ITEMS - 1):
        others = near.items[item, :n]
        known = near.items[others].tolist()
        dense = listening.toarray()[:, others].astype(np.float64)
        gram = dense.T @ dense
        for a in range(n):
            for b in range(n):  # what neither of the two knows of the other counts as nothing
                if a != b and others[b] not in known[a] and others[a] not in known[b]:
                    gram[a, b] = 0
        wanted = np.linalg.solve(gram + l2 * np.eye(n), dense.T @ listening.toarray()[:, item])
        np.testing.assert_allclose(weights[item], wanted, atol=1e-5)


def test_overlaps_that_cannot_be_are_halved() -> None:
    impossible = np.array([[[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]]], np.float32)
    wanted = np.ones((1, 3), np.float32)
    assert np.linalg.eigvalsh(impossible[0]).min() < 0
    halved = np.where(np.eye(3, dtype=bool), impossible[0], impossible[0] / 2)
    found = neighbourhoods._positive(impossible.copy(), wanted)
    np.testing.assert_allclose(found[0], np.linalg.solve(halved, wanted[0]), rtol=1e-5)


def test_items_without_listeners_speak_for_nothing() -> None:
    matrix = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], np.float32))
    near = neighbourhoods.neighbourhoods(matrix, 2, 0.0, quiet)
    table = ease_near(near, 2, 1.0, quiet).toarray()
    assert not table[2].any()
    assert not table[:, 2].any()
    assert table[0, 1] == pytest.approx(2 / 4)  # X'X = [[3, 2], [2, 2]], and a ridge of 1
    assert table[1, 0] == pytest.approx(2 / 3)


def test_drawn_factors_lie_as_the_exact_ones() -> None:
    rng = np.random.default_rng(1)
    taste, kind = rng.integers(0, 4, 300), rng.integers(0, 4, 60)
    heard = rng.random((300, 60)) < np.where(taste[:, None] == kind, 0.6, 0.02)
    graph = graph_of(sparse.csr_matrix(heard.astype(np.float32)))
    exact, drawn = item_vectors(graph, 4), item_vectors_drawn(graph, 4)
    np.testing.assert_allclose(drawn @ drawn.T, exact @ exact.T, atol=1e-3)


# --- the whole fit ------------------------------------------------------------------------------


def fitted(folder: Path, plays: sparse.csr_matrix, **changes: Any) -> Recommender:
    config = from_preset(PRESETS, "tiny", {"n_neighbours": N_ITEMS, **changes})
    world = dataset_of_matrix(plays, config, KEY)
    steps: list[str] = []

    def on_step(name: str) -> Any:
        steps.append(name)
        return quiet

    parts = fit_base_models(world, config, metadata={}, on_step=on_step)
    assert steps[0] == "item-kNN"
    weights = {segment: dict.fromkeys(parts.base_models, 1.0) for segment in ("warm", "short", "cold")}
    manifest = {**manifest_of(parts, world, config, KEY), "ensembles": {"a": {"warm_from": 3, "weights": weights}}}
    write_artifact(folder, manifest, parts.arrays)
    return Recommender.open(folder, key=KEY)


def test_beyond_the_limit_the_answers_are_the_same_where_neighbours_are_all(
    listening: sparse.csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_models, "MOST_DUAL_USERS", 10)
    dense = fitted(tmp_path / "dense", listening, factorization_size=0)
    near = fitted(tmp_path / "near", listening, ease_most_items=N_ITEMS - 1)
    assert "factorization" not in near.artifact.manifest["base_models"]
    assert "among" not in dense.artifact.manifest["base_models"]["ease"]
    assert near.artifact.manifest["base_models"]["ease"]["among"] == N_ITEMS
    for user in ("user-0", "user-41"):
        [one], [other] = dense.recommend([RecommendRequest(user=user)]), near.recommend([RecommendRequest(user=user)])
        assert isinstance(one, RecommendResponse)
        assert isinstance(other, RecommendResponse)
        assert one.items == other.items
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_only_people_who_were_drawn_are_neighbours(listening: sparse.csr_matrix, tmp_path: Path) -> None:
    n_drawn = 20
    whole, drawn = fitted(tmp_path / "all", listening), fitted(tmp_path / "drawn", listening, user_knn_people=n_drawn)
    every, some = whole.scorer.base_models["user_knn"], drawn.scorer.base_models["user_knn"]
    assert isinstance(every, UserKnn)
    assert isinstance(some, UserKnn)
    people = some.listeners.people
    assert len(people) == n_drawn
    questions = [RecommendRequest(user=f"user-{number}") for number in range(40)] + [
        RecommendRequest(history=["item-1", "item-2"])
    ]
    batch, _ = whole.resolver.batch(questions)
    others, _ = drawn.resolver.batch(questions)
    similarity = some.listeners.similarity(others)
    np.testing.assert_allclose(similarity, every.listeners.similarity(batch)[:, people], atol=1e-6)
    itself = [place for place, user in enumerate(batch.users.tolist()) if user in people]
    assert itself
    assert all(similarity[place, np.searchsorted(people, batch.users[place])] == 0 for place in itself)
    scores = some.score(others)
    for row in (0, len(questions) - 1):  # its reasons add up, by the same people
        items = np.argsort(-scores[row])[:5]
        [part] = some.parts(others, row, items)
        np.testing.assert_allclose(part.amounts.sum(1), scores[row, items], atol=1e-5)


def test_friends_count_by_their_taste_whether_drawn_or_not(listening: sparse.csr_matrix, tmp_path: Path) -> None:
    recommender = fitted(tmp_path / "drawn", listening, user_knn_people=20)
    whole = fitted(tmp_path / "all", listening)
    question = RecommendRequest(user="user-3", friends=[f"user-{number}" for number in range(10, 40)])
    found = []
    for each in (recommender, whole):
        batch, _ = each.resolver.batch([question])
        described = {"base": 0.02, **each.artifact.manifest["base_models"]["user_knn"]}
        found.append(Social.open(each.artifact, "social", described).score(batch))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert found[0].any()


def test_up_to_the_limit_everybody_is_a_neighbour() -> None:
    assert RecommenderConfig().user_knn_people == 100_000
    with pytest.raises(HyperparameterError):
        from_preset(PRESETS, "tiny", {"user_knn_people": 0})
