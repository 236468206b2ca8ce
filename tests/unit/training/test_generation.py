"""Choosing inside the graph, and the loops around it."""

from __future__ import annotations

import pytest
import torch

from tritone_training.generation import NEVER, SamplingFilter, choose, least_kept, open_above, unrolled_or_loop


def choice(*, temperature: float = 1.0, top_k: int = 100, top_p: float = 1.0, n_choices: int = 4) -> SamplingFilter:
    return SamplingFilter.of(
        temperature=torch.tensor([temperature]),
        top_k=torch.tensor([top_k]),
        top_p=torch.tensor([top_p]),
        n_choices=n_choices,
    )


def chosen(shares: list[float], noise: float, how: SamplingFilter) -> int:
    logits = torch.tensor([shares]).log().clamp_min(NEVER)
    return int(choose(logits, open_above(torch.tensor([[noise]])), how))


def test_choices_come_in_the_order_of_the_vocabulary_as_often_as_they_are_likely() -> None:
    shares = [0.1, 0.4, 0.2, 0.3]
    picked = [chosen(shares, (n + 0.5) / 1000, choice()) for n in range(1000)]
    assert picked == sorted(picked)
    assert [picked.count(n) for n in range(4)] == pytest.approx([100, 400, 200, 300], abs=1)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    shares = [0.1, 0.4, 0.2, 0.3]
    noises = [n / 50 for n in range(50)]
    for how, kept in (
        (choice(top_k=1), {1}),
        (choice(top_k=2), {1, 3}),
        (choice(top_p=0.4), {1}),
        (choice(top_p=0.41), {1, 3}),
        (choice(top_p=0.71), {1, 2, 3}),
        (choice(top_k=2, top_p=0.95), {1, 3}),
        (choice(top_k=0, top_p=0.0), {1}),  # something must stay
        (choice(), {0, 1, 2, 3}),
    ):
        assert {chosen(shares, noise, how) for noise in noises} == kept


def test_only_the_choices_that_may_be_kept_are_ranked_and_the_last_one_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    shares = torch.softmax(3 * torch.randn(64, 40, generator=generator), 1)
    top_k = torch.randint(1, 60, (64,), generator=generator)
    top_p = torch.rand(64, generator=generator).clamp_min(0.01)
    top_p[::3] = 1.0
    how = SamplingFilter.of(temperature=torch.ones(64), top_k=top_k, top_p=top_p, n_choices=40)
    ranked = shares.sort(1, descending=True).values
    before = ranked.cumsum(1) - ranked
    is_kept = (before < top_p[:, None]) & (torch.arange(40) < top_k[:, None])
    expected = torch.where(is_kept, ranked, torch.inf).amin(1, keepdim=True)
    least = least_kept(shares, how.reach, how.floor, how.most)
    assert torch.equal(how.is_limited[:, 0] > 0, (top_k < 40) | (top_p < 1))
    limited = how.is_limited > 0
    torch.testing.assert_close(least[limited], expected[limited])
    # A row that keeps everything needs no ranking, and greedy choice ranks one.
    assert how.most[~limited].unique().tolist() == [1]


def test_uniform_choices_with_almost_no_top_p() -> None:
    how = choice(top_p=1e-9, n_choices=177)
    assert 0 <= int(choose(torch.zeros(1, 177), torch.tensor([[0.5]]), how)) < 177


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1.0, 1e3, 1e9])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2.0**-24])
def test_the_forbidden_is_never_chosen(temperature: float, noise: float) -> None:
    for top_p in (0.5, 1.0):
        how = choice(temperature=temperature, top_p=top_p, n_choices=6)
        assert chosen([0.0, 0.3, 0.0, 0.0, 0.7, 0.0], noise, how) in {1, 4}


def test_temperature_sharpens_and_flattens() -> None:
    noises = [(n + 0.5) / 200 for n in range(200)]
    shares = [0.2, 0.8]
    counts = [
        sum(chosen(shares, noise, choice(temperature=t, n_choices=2)) for noise in noises) for t in (0.25, 1.0, 50.0)
    ]
    assert counts[0] > 195
    assert counts[1] == pytest.approx(160, abs=1)
    assert counts[2] == pytest.approx(101, abs=2)


def test_a_loop_continues_while_its_condition_holds() -> None:
    begin = (torch.tensor(0), torch.tensor(0))
    n, total = unrolled_or_loop(lambda state: state[0] < 5, lambda state: (state[0] + 1, state[1] + state[0]), begin)
    assert (int(n), int(total)) == (5, 10)
    same = (torch.tensor(9), torch.tensor(1))
    assert unrolled_or_loop(lambda state: state[0] < 5, lambda state: state, same) == same
