"""What a soak makes of what it measured, and that its requests are what a server takes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.benchmark_tools import run_tool
from tritonclient.grpc import service_pb2

from benchmarks.soak_mix import SentRequest, arrivals, message_of, shares, varied
from benchmarks.soak_report import Memory, evaluate, p99_interval, spans

SECONDS = 600.0
KEPT = [True, True, True]


def load(*, slower_from_s: float = 1e9, factor: float = 1.0, per_s: float = 20.0, seed: int = 0) -> list[SentRequest]:
    """Two models, one ten times as slow; from a moment on all take `factor` times as long."""
    rng = np.random.default_rng(seed)
    due_s, which = arrivals(rng, [0.7, 0.3], per_s=per_s, seconds=SECONDS)
    base_s = rng.gamma(4, 1, len(due_s))
    return [
        SentRequest(f"model{place}", due, float(base * (0.001, 0.01)[place] * (factor if due > slower_from_s else 1)))
        for due, place, base in zip(due_s, which, base_s, strict=True)
    ]


def memory(growth: float = 0.0) -> list[Memory]:
    """So much more at the end than after a minute; in the first minute it grows by a half."""
    return [
        Memory(at, 1000 * min(1.0, 0.5 + at / 100) * (1 + growth * max(0.0, at - 75) / (SECONDS - 90)))
        for at in np.arange(0, SECONDS, 5.0).tolist()
    ]


def verdicts(sent: list[SentRequest], looked: list[Memory]) -> list[bool]:
    return list(evaluate(sent, looked, spans(SECONDS))["verdicts"].values())


def test_a_steady_load_passes() -> None:
    assert verdicts(load(), memory(0.008)) == KEPT


def test_one_failure_fails() -> None:
    sent = load()
    sent[len(sent) // 2].error = "UNAVAILABLE: gone"
    found = evaluate(sent, memory(), spans(SECONDS))
    assert list(found["verdicts"].values()) == [False, True, True]
    assert found["n_failed"] == 1
    assert "UNAVAILABLE: gone" in found["errors"][0]


def test_growth_after_the_warm_up_fails() -> None:
    assert verdicts(load(), memory(0.015)) == [True, False, True]


def test_slower_at_the_end_fails() -> None:
    assert verdicts(load(slower_from_s=400, factor=1.4), memory()) == [True, True, False]
    assert verdicts(load(slower_from_s=400, factor=1.05), memory()) == KEPT


def test_one_model_that_is_clearly_slower_fails() -> None:
    sent = load(per_s=60)
    for each in sent:
        if each.model == "model1" and each.due_s > 400:
            each.latency_s *= 3
    found = evaluate(sent, memory(), spans(SECONDS))
    assert found["clearly_slower"] == ["model1"]
    assert not found["passed"]


def test_latencies_between_both_ends_do_not_count() -> None:
    sent = load()
    for each in sent:
        if 130 < each.due_s < 470:
            each.latency_s *= 50
    assert verdicts(sent, memory()) == KEPT


def test_a_p99_of_few_has_no_upper_end() -> None:
    assert p99_interval(np.arange(50.0))[1] == float("inf")
    low, high = p99_interval(np.arange(10_000.0))
    assert 9870 < low < 9900 < high < 9930


def test_too_short_a_load_says_so() -> None:
    with pytest.raises(ValueError, match="too short"):
        evaluate(load(), [Memory(0, 1000)], spans(SECONDS))


def test_arrivals_are_poisson() -> None:
    due_s, which = arrivals(np.random.default_rng(1), [3, 1], per_s=200, seconds=100)
    gaps = np.diff(due_s)
    assert len(due_s) == pytest.approx(20_000, rel=0.05)
    assert all(before <= after for before, after in pairwise(due_s))
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1, abs=0.05)  # of an exponential distribution
    assert np.mean(which) == pytest.approx(0.25, abs=0.02)


def test_every_model_gets_the_same_part_of_the_time() -> None:
    cost_s = {"fast": 0.001, "slow": 0.1}
    share = shares(cost_s)
    assert sum(share.values()) == pytest.approx(1)
    assert share["fast"] * cost_s["fast"] == pytest.approx(share["slow"] * cost_s["slow"])


def test_a_request_differs_from_all_before_and_means_the_same() -> None:
    request = {
        "noise": np.linspace(0, 1, 8, dtype=np.float32),
        "style": np.array([3], np.int64),
        "words": np.array([b"a", b"bc"], np.object_),
    }
    message, n_tail = message_of({"name": "writer", "max_batch_size": 4}, request)
    sent = {varied(message, n_tail, number) for number in range(1000)}
    assert len(sent) == 1000
    for each in list(sent)[:20]:
        read = service_pb2.ModelInferRequest.FromString(each)
        by_name = dict(zip([i.name for i in read.inputs], read.raw_input_contents, strict=True))
        noise = np.frombuffer(by_name["noise"], np.float32)
        np.testing.assert_allclose(noise, request["noise"], rtol=1e-4)
        assert np.frombuffer(by_name["style"], np.int64).tolist() == [3]
        assert by_name["words"].endswith(b"bc")
        assert [list(i.shape) for i in read.inputs if i.name == "noise"] == [[1, 8]]


def test_a_request_without_floats_stays_as_it_is() -> None:
    message, n_tail = message_of({"name": "m"}, {"k": np.array([1], np.int32)})
    assert n_tail == 0
    assert varied(message, n_tail, 7) == message


@pytest.mark.soak
@pytest.mark.triton
@pytest.mark.timeout(240)
def test_a_short_soak_of_stand_ins_loses_nothing(tmp_path: Path) -> None:
    arguments = ["--minutes", "0.5", "--capacity-seconds", "5", "--json", "--report", tmp_path / "r"]
    done = run_tool("soak", *arguments, cwd=tmp_path)  # without a model_repository, it serves stand-ins
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["n"] > 100
    assert found["n_failed"] == 0, found["errors"]
    assert {"composer", "genre_cnn", "recommender"} <= found["models"].keys()
    assert found["memory_mb"]["end"] > 50
    assert done.returncode == (0 if found["passed"] else 1)
    assert (tmp_path / "r" / "soak.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "words",
    [
        ["soak", "--minutes", "nan"],
        ["soak", "--repository", "."],
        ["latency_start", "--rounds", "0"],
        ["latency_classify", "--rounds", "-1"],
        ["load_gateway", "--clients", "0"],
        ["load_gateway", "--seconds", "inf"],
    ],
)
def test_tools_refuse_what_measures_nothing(tmp_path: Path, words: list[str]) -> None:
    done = run_tool(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"{words[0]}.py: error: ")
