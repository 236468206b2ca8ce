"""Who stands for whom: friends, and friends of friends."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.social import SocialNeighbourhood

# 0 knows 1 and 2; 1 and 2 know 3; 3 knows 4.
PAIRS = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]


def circle(**described: float) -> SocialNeighbourhood:
    graph = np.zeros((5, 5), np.float32)
    for a, b in PAIRS:
        graph[a, b] = graph[b, a] = 1
    return SocialNeighbourhood.open(Rows.from_csr(sparse.csr_matrix(graph)), described)


def around(direct: list[int], but: int = -1, **described: float) -> dict[int, float]:
    people, closeness = circle(**described).around(np.array(direct, np.int64), but=but)
    assert people.tolist() == sorted(people.tolist())
    return dict(zip(people.tolist(), closeness.tolist(), strict=True))


def test_without_a_second_step_friends_count_alike() -> None:
    assert around([1, 2], but=0) == {1: 1, 2: 1}


def test_who_has_many_friends_counts_less() -> None:
    found = around([3, 4], damping=0.5)
    assert found == {3: pytest.approx(3**-0.5), 4: 1}


def test_friends_of_friends_count_by_the_ways_to_them() -> None:
    found = around([1, 2], but=0, damping=0.5, second=0.2)
    step = 2**-0.5
    assert found == {1: pytest.approx(step), 2: pytest.approx(step), 3: pytest.approx(2 * 0.2 * step * 3**-0.5)}


def test_nobody_is_their_own_friend_s_friend() -> None:
    assert 0 not in around([1, 2], but=0, second=0.2)
    assert 0 in around([1, 2], second=0.2)  # of a stranger with the same friends


def test_nobody_around_nobody() -> None:
    assert around([], second=0.2) == {}


def test_the_closest_are_kept() -> None:
    n = 1_000
    graph = sparse.lil_matrix((n, n), dtype=np.float32)
    graph[0, 1:] = 1
    graph[1:, 0] = 1
    wide = SocialNeighbourhood.open(Rows.from_csr(sparse.csr_matrix(graph)), {"second": 0.1, "damping": 0.25})
    people, closeness = wide.around(np.array([0]), but=-1)
    assert len(people) == 300
    assert closeness[people.tolist().index(0)] == closeness.max()
