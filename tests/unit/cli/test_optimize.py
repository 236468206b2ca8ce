"""`tritone optimize`: the settings, the search on a simulated machine, the report, and one short real run."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.conftest import make_repository

from tritone_cli.optimize import report
from tritone_cli.optimize.search import NoMeasurementError, SearchLimits, SearchResult, search
from tritone_cli.optimize.space import SearchSpace, SearchSpaceError, search_space
from tritone_export.config import build_config, parse_config
from tritone_export.tuned import TunedSetting, setting_of
from tritone_serving import PerfAnalyzerError
from tritone_serving.perf_analyzer import PerfAnalyzer, Reading
from tritone_training.kinds.genre_cnn.declaration import DECLARATION

CONFIG = build_config(DECLARATION)
IN_FORCE = setting_of(CONFIG)
SPACE = SearchSpace(instances=(2, 3), threads=(0, 1), batches=((), (4, 8)), delays_us=(0, 500))
NOTHING: Mapping[str, str | None] = {}


def test_default_search_space() -> None:
    space = search_space(CONFIG, IN_FORCE, NOTHING, n_cores=2)
    assert space.instances == (2, 3), "a lone instance stalls beside the queue limit"
    assert space.threads == (0, 1)
    assert space.batches == ((), (4, 8), (8, 16, 32))
    assert search_space(CONFIG, IN_FORCE, NOTHING, n_cores=8).instances == (2, 4, 8, 9)
    small = build_config(DECLARATION)
    small.max_batch_size = 16
    assert search_space(small, IN_FORCE, NOTHING).batches == ((), (4, 8))
    unlimited = build_config(DECLARATION)
    unlimited.dynamic_batching.ClearField("default_queue_policy")
    assert search_space(unlimited, IN_FORCE, NOTHING, n_cores=2).instances == (1, 2, 3)


def test_given_values_are_tried() -> None:
    space = search_space(
        CONFIG, IN_FORCE, {"instances": "4,2", "threads": "1", "batches": "none; 8,4", "delays": "0,100"}
    )
    assert space == SearchSpace(instances=(2, 4), threads=(1,), batches=((), (4, 8)), delays_us=(0, 100))
    assert len(space.placements(IN_FORCE)) == 2
    assert len(space.batchings(IN_FORCE)) == 4


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("instances", ""), ("instances", "0"), ("instances", "a"), ("instances", "999"), ("instances", "1,2"),
        ("threads", "-1"), ("delays", "2000000"), ("batches", ""), ("batches", "0"), ("batches", "4;x"),
        ("batches", "128"),
    ],
)  # fmt: skip
def test_invalid_search_options(option: str, text: str) -> None:
    with pytest.raises(SearchSpaceError, match=f"--{option}"):
        search_space(CONFIG, IN_FORCE, {option: text})


def test_models_without_settings_are_refused(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    texts = {
        "streams": 'max_batch_size: 4 backend: "composer" model_transaction_policy { decoupled: true }',
        "joins": 'platform: "ensemble" ensemble_scheduling { step { model_name: "streams" model_version: -1 } }',
        "pools": 'max_batch_size: 0 backend: "onnxruntime"',
    }
    for name, text in texts.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
        done = run_tritone("optimize", name, "--repository", tmp_path)
        assert done.status == 1
        assert f"{name} cannot be optimized: it" in " ".join(done.stderr.split())
    threadless = parse_config(b'name: "r" backend: "cf" max_batch_size: 64 dynamic_batching { }')
    with pytest.raises(SearchSpaceError, match="--threads"):
        search_space(threadless, replace(IN_FORCE, threads=None), {"threads": "1"})


class Machine:
    """A simulated machine whose speed drifts: the speed of a setting times a factor that changes over time."""

    def __init__(self, speed: Callable[[TunedSetting], float], *, noise: float = 0.0, turn_s: float = 1.0) -> None:
        self.speed, self.noise, self.turn_s = speed, noise, turn_s
        self.now_s = 0.0
        self.asked: list[TunedSetting] = []
        self.random = np.random.default_rng(1)

    def __call__(self, setting: TunedSetting) -> Reading:
        self.now_s += self.turn_s
        self.asked.append(setting)
        per_s = self.speed(setting) * (1 - 0.001 * self.now_s) * (1 + self.random.uniform(-self.noise, self.noise))
        p99_ms = 8000 / per_s + setting.max_queue_delay_microseconds / 100
        return Reading(per_s=per_s, p50_ms=5.0, p90_ms=6.0, p95_ms=7.0, p99_ms=p99_ms)

    def search(self, *, bound_ms: float | None = None, limit_s: float = 1e6, **more: Any) -> SearchResult:
        effort = SearchLimits(rounds=3, limit_s=limit_s, now_s=lambda: self.now_s)
        return search(SPACE, IN_FORCE, self, bound_ms=bound_ms, effort=effort, **more)


def by_threads_and_batches(setting: TunedSetting) -> float:
    return 100 + 20 * (setting.threads == 1) + 15 * (setting.preferred_batch_sizes == (4, 8))


def test_the_better_setting_is_found_in_interleaved_rounds() -> None:
    machine = Machine(by_threads_and_batches, noise=0.01)
    found = machine.search()
    assert found.changes
    assert (found.best.threads, found.best.preferred_batch_sizes) == (1, (4, 8))
    assert found.gain == pytest.approx(0.35, abs=0.05)
    first, second = machine.asked[:4], machine.asked[4:8]
    assert len(set(first)) == 4, "each once a round"
    assert second == first[::-1], "and the next round the other way around"


def test_a_setting_that_is_not_better_changes_nothing() -> None:
    for noise in (0.0, 0.1):
        found = Machine(lambda setting: 100.0, noise=noise).search()
        assert not found.changes
        assert found.best == IN_FORCE
    slight = Machine(lambda setting: 100.0 + (setting.threads == 1)).search()
    assert not slight.changes
    assert "no clear gain" in slight.why


def test_a_gain_within_the_spread_of_the_rounds_is_ignored() -> None:
    factors = itertools.cycle((1.3, 0.95, 1.15))
    found = Machine(lambda setting: 100.0 * next(factors) if setting.threads == 1 else 100.0).search()
    assert not found.changes
    assert found.gain == pytest.approx(0.15, abs=0.02)
    assert found.spread == pytest.approx(0.35, abs=0.02)
    assert found.why.endswith("no clear gain; use a quieter machine or more --rounds")


def test_the_best_of_many_equal_settings_is_not_a_gain() -> None:
    """If all settings are equal, hardly any of many searches finds a gain."""
    n_wrong = 0
    for seed in range(100):
        machine = Machine(lambda setting: 100.0, noise=0.1)
        machine.random = np.random.default_rng(seed)
        n_wrong += machine.search().changes
    assert n_wrong <= 5


def test_settings_above_the_bound_are_not_used() -> None:
    def slow_but_steady(setting: TunedSetting) -> float:
        return 100 + 50 * (setting.max_queue_delay_microseconds == 500)

    assert Machine(slow_but_steady).search().best.max_queue_delay_microseconds == 500
    # 8000 / 150 + 5 = 58 ms, where 8000 / 100 = 80 ms is what is in force.
    assert Machine(slow_but_steady).search(bound_ms=62.0).changes
    none = Machine(slow_but_steady).search(bound_ms=1.0)
    assert not none.is_within
    assert not none.changes
    assert "no setting keeps p99 within 1 ms" in none.why


def test_a_lower_throughput_is_accepted_if_the_current_setting_exceeds_the_bound() -> None:
    in_force = replace(IN_FORCE, max_queue_delay_microseconds=500)
    machine = Machine(lambda setting: 100 + 5 * (setting.max_queue_delay_microseconds == 500))
    effort = SearchLimits(now_s=lambda: machine.now_s)
    found = search(SPACE, in_force, machine, bound_ms=81.0 * 1.06, effort=effort)
    assert found.best.max_queue_delay_microseconds in (0, 500)
    strict = search(SPACE, replace(in_force, max_queue_delay_microseconds=2000), machine, bound_ms=95.0, effort=effort)
    assert strict.changes
    assert strict.best.max_queue_delay_microseconds < 2000


def test_a_setting_that_fails_is_reported_and_skipped() -> None:
    machine = Machine(by_threads_and_batches)

    def measure(setting: TunedSetting) -> Reading:
        if setting.threads == 1:
            raise PerfAnalyzerError("it does not load")
        return machine(setting)

    found = search(SPACE, IN_FORCE, measure, effort=SearchLimits(now_s=lambda: machine.now_s))
    assert (found.best.threads, found.best.preferred_batch_sizes) == (0, (4, 8))
    assert {trial.problem for trial in found.trials if trial.setting.threads == 1} == {"it does not load"}
    told = [row for row in report.cells(found) if row["threads"] == 1]
    assert all((row["problem"], row["per_s"], row["gain"]) == ("it does not load", None, None) for row in told)


def test_a_current_setting_that_cannot_be_measured_is_an_error() -> None:
    def measure(setting: TunedSetting) -> Reading:
        raise PerfAnalyzerError("no answer")

    with pytest.raises(NoMeasurementError, match="no answer"):
        search(SPACE, IN_FORCE, measure)


def test_only_the_current_setting_to_try_is_an_error() -> None:
    machine = Machine(by_threads_and_batches)
    one = SearchSpace(instances=(2,), threads=(0,), batches=((),), delays_us=(0,))
    with pytest.raises(SearchSpaceError):
        search(one, IN_FORCE, machine)
    assert machine.asked == []
    found = search(replace(one, batches=((4, 8),)), IN_FORCE, machine, effort=SearchLimits(now_s=lambda: machine.now_s))
    assert found.changes
    assert {trial.stage for trial in found.trials} == {"batches and delay", "confirmation"}


def test_the_time_limit_ends_a_search() -> None:
    machine = Machine(by_threads_and_batches, turn_s=10.0)
    found = machine.search(limit_s=60.0)
    assert machine.now_s <= 60.0 + 5 * 10.0 + 4 * 10.0, "a round of each stage at least"
    assert not found.changes
    assert "--minutes" in found.why


def test_the_declared_setting_is_tried_if_another_one_is_current() -> None:
    declared = replace(IN_FORCE, instances=9)
    found = Machine(lambda setting: 100.0 + 50 * (setting.instances == 9)).search(declared=declared)
    assert found.best == declared


def test_the_report_has_all_trials(tmp_path: Path) -> None:
    found = Machine(by_threads_and_batches).search()
    written = report.write(found, "m", tmp_path / "new" / "folder", facts={"cores": 2})
    text = written[0].read_text()
    assert "- cores: 2" in text
    assert f"Best: {found.best}" in text
    assert text.count("| current |") == 3
    assert re.search(r"\| 2 \| 1 \| 4 8 \| 0 \| \d+ .* \| \+3\d\.\d% \| 3 \| best \|", text)
    assert written[1].read_bytes().startswith(b"\x89PNG")
    table = report.cells(found)
    assert len(table) == len(found.trials)
    assert json.loads(json.dumps(table)) == table
    assert len(table[0]["per_s_by_round"]) == 3


def two_instances(path: Path) -> Path:
    make_repository(path, name="genre_cnn")
    config = path / "genre_cnn" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    return path


def test_an_interrupt_changes_nothing(
    run_tritone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritone_cli.optimize import trials

    def interrupted(setting: TunedSetting) -> Reading:
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "setting_measurer", lambda *given, **named: interrupted)
    monkeypatch.setattr(PerfAnalyzer, "find", lambda folder: None)
    repository = two_instances(tmp_path / "repository")
    before = sorted((path, path.read_bytes()) for path in repository.rglob("*") if path.is_file())
    assert run_tritone("optimize", "genre_cnn", "--repository", repository).status != 0
    assert sorted((path, path.read_bytes()) for path in repository.rglob("*") if path.is_file()) == before
