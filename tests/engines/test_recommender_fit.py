"""Fits of the recommender on a local Ray and a local Spark equal those in one process."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engines.conftest import N_WORKERS
from tests.support import engine_tasks, recommender_fits

from tritone_training.kinds.recommender.engines import Engine, EngineError, open_engine

ENGINES = ("ray", "spark")


@pytest.fixture(params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue({"ray": "ray_cluster", "spark": "spark"}[request.param])
    return str(request.param)


@pytest.fixture
def engine(name: str, tmp_path: Path) -> Iterator[Engine]:
    with open_engine(recommender_fits.request("tagged", tmp_path, "run", engine=name, workers=N_WORKERS)) as opened:
        yield opened


@functools.cache
def in_this_process(log: str, folder: Path) -> Path:
    return recommender_fits.train(recommender_fits.request(log, folder, f"{log}-local"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.mark.parametrize("log", recommender_fits.LOGS)
def test_a_fit_on_two_workers_is_that_of_one_process(name: str, log: str, folder: Path) -> None:
    expected = in_this_process(log, folder)
    wanted = recommender_fits.request(log, folder, f"{log}-{name}", engine=name, workers=N_WORKERS)
    found = recommender_fits.train(wanted)
    recommender_fits.assert_equal_checkpoints(expected, found)
    used = recommender_fits.engine_use(found)
    assert (used["name"], used["workers"]) == (name, N_WORKERS)
    assert used["n_worker_processes"] >= N_WORKERS
    assert used["n_tasks"] > 20
    assert min(used[each] for each in ("broadcast_mb", "sent_mb", "gathered_mb")) > 0
    assert used["worker_peak_mb"] > 0


# --- what the engines do with tasks ------------------------------------------------------------------


def test_results_are_in_the_order_of_the_parts(engine: Engine) -> None:
    factors = np.arange(1000.0)
    with engine.share(factors) as shared, engine.share("a name") as named:
        found = list(engine.map(engine_tasks.scaled, range(9), shared, named))
    assert [name for name, _, _ in found] == ["a name"] * 9
    assert os.getpid() not in {pid for _, pid, _ in found}
    for part, (_, _, values) in enumerate(found):
        np.testing.assert_array_equal(values, factors * part)


def test_an_error_of_a_task_is_raised_as_it_is(engine: Engine) -> None:
    found = engine.map(engine_tasks.refuses_2, range(4))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(np.linalg.LinAlgError, match="part 2"):
        next(found)


def test_a_task_whose_worker_is_killed_is_repeated(engine: Engine, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    with engine.share(marker) as shared:
        assert list(engine.map(engine_tasks.dies_once, range(6), shared)) == [0, 1, 4, 9, 16, 25]
    assert marker.exists()


def test_a_task_that_always_kills_its_worker_ends_the_fit(engine: Engine) -> None:
    with pytest.raises(EngineError, match="--resume"):
        list(engine.map(engine_tasks.dies, range(2)))


def test_memory_that_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(EngineError, match="out of memory"):
        list(engine.map(engine_tasks.runs_out_of_memory, [0]))


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize("address", ["127.0.0.1:9", "{engine}://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named(engine_name: str, address: str, tmp_path: Path) -> None:
    address = address.format(engine=engine_name)
    wanted = recommender_fits.request("tagged", tmp_path, "run", engine=engine_name, engine_address=address)
    began_s = time.monotonic()
    with pytest.raises(EngineError, match=f"running {engine_name} cluster, got {address} "):
        recommender_fits.train(wanted)
    assert time.monotonic() - began_s < 60
    assert not (tmp_path / "run").exists()
