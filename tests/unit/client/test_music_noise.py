"""Tests that a seed gives the same noise everywhere and in every version of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritone import InvalidInputError
from tritone.sampling import (
    LARGEST_SEED,
    check_seed,
    fresh_seed,
    uniform_noise,
)


def test_the_generator_is_philox_as_published() -> None:
    # The known answer of the authors' Random123 library for an all-zero counter and key; NumPy counts up first.
    words = np.random.Philox(key=0, counter=2**256 - 1).random_raw(4)
    assert [f"{word:016x}" for word in words] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]


@pytest.mark.parametrize(
    ("seed", "stream", "expected"),
    [
        (0, 0, [193722, 4052523, 1869415, 9469306]),
        (7, 0, [14630964, 4955408, 7048069, 6801353]),
        (7, 1, [14805336, 6191435, 8674989, 5566508]),
        (LARGEST_SEED, 0, [15532459, 3046243, 10389406, 8161488]),
    ],
)
def test_pinned_values(seed: int, stream: int, expected: list[int]) -> None:
    values = uniform_noise(seed, 4, stream=stream)
    assert values.dtype == np.float32
    assert (values * 2**24).astype(int).tolist() == expected


def test_values_are_uniform_multiples_in_0_to_1() -> None:
    values = uniform_noise(3, 100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert (values * 2**24 % 1 == 0).all()
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert abs(counts - 5_000).max() < 5 * np.sqrt(5_000)


def test_the_largest_word_stays_below_1(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ones:
        def __init__(self, key: int) -> None:
            pass

        def random_raw(self, n: int) -> np.ndarray:
            return np.full(n, 2**64 - 1, np.uint64)

    monkeypatch.setattr(np.random, "Philox", Ones)
    assert uniform_noise(0, 1)[0] == 1 - 2**-24 < 1.0


@given(st.integers(0, LARGEST_SEED), st.integers(1, 20), st.integers(0, 20))
def test_a_longer_array_begins_with_the_shorter_one(seed: int, n: int, more: int) -> None:
    assert np.array_equal(uniform_noise(seed, n + more, 8)[:n], uniform_noise(seed, n, 8))


def test_seeds_and_streams_differ() -> None:
    drawn = {uniform_noise(seed, 8, stream=stream).tobytes() for seed in range(50) for stream in range(3)}
    assert len(drawn) == 150


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "7", None, True, float("nan"), np.bool_(True), np.float32(1)])
def test_invalid_seeds(seed: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_seed(seed)  # type: ignore[arg-type]
    assert caught.value.argument == "seed"


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(5), np.uint8(5)])
def test_a_seed_comes_back_as_an_int(seed: int) -> None:
    checked = check_seed(seed)
    assert type(checked) is int
    assert checked == int(seed)


def test_fresh_seeds_are_seeds_and_differ() -> None:
    seeds = {check_seed(fresh_seed()) for _ in range(100)}
    assert len(seeds) == 100
