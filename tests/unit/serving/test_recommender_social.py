"""Social neighbourhoods: friends, and friends of friends."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.social_neighbourhood import SocialNeighbourhood

# 0 knows 1 and 2; 1 and 2 know 3; 3 knows 4.
PAIRS = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]


def neighbourhood(**described: float) -> SocialNeighbourhood:
    graph = np.zeros((5, 5), np.float32)
    for a, b in PAIRS:
        graph[a, b] = graph[b, a] = 1
    return SocialNeighbourhood.open(Rows.from_csr(sparse.csr_matrix(graph)), described)


def around(direct: list[int], exclude: int = -1, **described: float) -> dict[int, float]:
    graph, friends = neighbourhood(**described), np.array(direct, np.int64)
    people, closeness = graph.around(friends, graph.step_weights(friends), exclude=exclude)
    assert people.tolist() == sorted(people.tolist())
    return dict(zip(people.tolist(), closeness.tolist(), strict=True))


def test_friends_have_equal_weights_without_damping() -> None:
    assert around([1, 2], exclude=0) == {1: 1, 2: 1}


def test_damping_reduces_the_weight_of_users_with_many_friends() -> None:
    found = around([3, 4], damping=0.5)
    assert found == {3: pytest.approx(3**-0.5), 4: 1}


def test_friends_of_friends_are_weighted_by_the_paths_to_them() -> None:
    found = around([1, 2], exclude=0, damping=0.5, second=0.2)
    step = 2**-0.5
    assert found == {1: pytest.approx(step), 2: pytest.approx(step), 3: pytest.approx(2 * 0.2 * step * 3**-0.5)}


def test_the_user_is_not_part_of_the_neighbourhood() -> None:
    assert 0 not in around([1, 2], exclude=0, second=0.2)
    assert 0 in around([1, 2], second=0.2)  # a user who is not stored, with the same friends


def test_without_friends_the_neighbourhood_is_empty() -> None:
    assert around([], second=0.2) == {}


def test_only_the_closest_users_are_kept() -> None:
    n = 1_000
    graph = sparse.lil_matrix((n, n), dtype=np.float32)
    graph[0, 1:] = 1
    graph[1:, 0] = 1
    wide = SocialNeighbourhood.open(Rows.from_csr(sparse.csr_matrix(graph)), {"second": 0.1, "damping": 0.25})
    friends = np.array([0])
    people, closeness = wide.around(friends, wide.step_weights(friends), exclude=-1)
    assert len(people) == 300
    assert closeness[people.tolist().index(0)] == closeness.max()
