"""The matrix factorization: its solver, scores of histories, and their parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from tests.unit.serving.test_recommender_mainstream import batch_of

from tritone_serving.recommender.base_models.factorization import FactorSolver, MatrixFactorization
from tritone_serving.recommender.rows import Rows
from tritone_training.kinds.recommender.fitting.factorization import item_factors

N_ITEMS, SIZE = 30, 6
GIVEN = np.random.default_rng(0).standard_normal((N_ITEMS, SIZE)).astype(np.float32)
SOLVER = FactorSolver.of(GIVEN, unobserved=0.1, l2=0.02)
FACTORS = SOLVER.factors
MODEL = MatrixFactorization("factorization", SOLVER)


@pytest.mark.parametrize("n", [1, SIZE - 1, SIZE, SIZE + 5])  # by n unknowns, and by SIZE
def test_the_solution_minimises_the_loss(n: int) -> None:
    columns, weights = np.arange(n), np.linspace(-1, 2, n, dtype=np.float32)
    weights[weights == 0] = 1
    [found] = SOLVER.solve(Rows.from_lists([columns], [weights])).astype(np.float64)

    def gradient(x: np.ndarray) -> np.ndarray:
        rest = np.sign(weights) - FACTORS[columns] @ x
        ridge = 0.02 * (n + 0.1 * N_ITEMS)
        return -FACTORS[columns].T @ (np.abs(weights) * rest) + 0.1 * FACTORS.T @ (FACTORS @ x) + ridge * x

    assert gradient(found) == pytest.approx(np.zeros(SIZE), abs=1e-4)


def test_rotation_keeps_products_and_makes_the_gram_matrix_diagonal() -> None:
    np.testing.assert_allclose(FACTORS @ FACTORS.T, GIVEN @ GIVEN.T, atol=1e-4)
    np.testing.assert_allclose(np.diag(SOLVER.spectrum), 0.1 * FACTORS.T @ FACTORS, atol=1e-4)


def test_rows_of_all_lengths_are_solved_each_as_if_alone() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.choice(N_ITEMS, n, replace=False) for n in (3, 0, 9, 3, 1)]
    weights = [np.ones(len(each), np.float32) for each in columns]
    together = SOLVER.solve(Rows.from_lists(columns, weights))
    assert not together[1].any()
    for number, each in enumerate(together):
        [alone] = SOLVER.solve(Rows.from_lists([columns[number]], [weights[number]]))
        assert each == pytest.approx(alone, abs=1e-5)


def test_all_items_of_a_history_weigh_the_same() -> None:
    light, heavy = MODEL.score(batch_of({3: 0.2, 5: 1.0}, {3: 7.0, 5: 0.1}))
    assert light == pytest.approx(heavy)


def test_skipped_items_lower_scores_like_theirs() -> None:
    plain, skipped = MODEL.score(batch_of({3: 1.0}, {3: 1.0, 5: -0.5}))
    assert skipped[5] < plain[5]


def test_without_a_history_all_scores_are_0() -> None:
    assert not MODEL.score(batch_of({}, {2: 0.0})).any()


def test_parts_add_up_to_the_scores() -> None:
    batch = batch_of({1: 2.0, 4: 1.0, 9: -0.5}, dict.fromkeys(range(SIZE + 4), 1.0))
    items = np.array([7, 0, 29])
    for request, scores in enumerate(MODEL.score(batch)):
        [part] = MODEL.parts(batch, request, items)
        assert part.because == "history"
        assert part.causes.tolist() == batch.history.row(request)[0].tolist()
        assert part.amounts.sum(1) == pytest.approx(scores[items], abs=1e-4)


def test_the_fit_separates_groups_of_listeners() -> None:
    rng = np.random.default_rng(2)
    dense = np.zeros((60, N_ITEMS), np.float32)
    for user in range(60):
        dense[user, rng.choice(14, 9, replace=False) + 14 * (user % 2)] = 1
    steps: list[tuple[int, int]] = []
    factors = item_factors(
        sparse.csr_matrix(dense), size=2, unobserved=0.1, l2=0.03, on_progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == (10, 10)
    assert not factors[28:].any()  # nobody listens to them
    scores = MatrixFactorization("factorization", FactorSolver.of(factors, unobserved=0.1, l2=0.03)).score(
        batch_of({0: 1.0, 1: 1.0, 2: 1.0})
    )[0]
    assert scores[3:14].min() > scores[14:28].max()
