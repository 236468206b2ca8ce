"""The engine `local`, parts of a fit, and engines that cannot be opened."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from tests.support import engine_tasks, recommender_fits
from threadpoolctl import threadpool_info

from tritone_training.data.interactions import UserSequences
from tritone_training.exceptions import UnsupportedOptionError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import PRESETS
from tritone_training.kinds.recommender.engines import EngineError, LocalEngine, check_engine, open_engine, opening
from tritone_training.kinds.recommender.engines.mapped_arrays import MappedArrays
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_by_work, blocks_of
from tritone_training.kinds.recommender.engines.spark_engine import _fill
from tritone_training.kinds.recommender.fitting import base_models
from tritone_training.kinds.recommender.fitting.interaction_dataset import dataset_of_matrix
from tritone_training.registry import get_kind


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Iterator[LocalEngine]:
    with LocalEngine(request.param) as opened:
        yield opened


def test_results_are_in_the_order_of_the_parts(engine: LocalEngine) -> None:
    factors = np.arange(200_000.0)
    with engine.share(factors) as shared, engine.share("a name") as named:
        found = list(engine.map(engine_tasks.scaled, range(5), shared, named))
    for part, (name, pid, values) in enumerate(found):
        assert name == "a name"
        assert (pid == os.getpid()) == (engine.n_workers == 1)
        np.testing.assert_array_equal(values, factors * part)
    used = engine.describe()
    assert (used["name"], used["workers"], used["n_tasks"]) == ("local", engine.n_workers, 5)
    assert used["worker_peak_mb"] > 0
    moved = [used[each] for each in ("broadcast_mb", "gathered_mb")]
    assert moved == ([0, 0] if engine.n_workers == 1 else [pytest.approx(1.6, abs=0.2), pytest.approx(8, abs=0.5)])


def test_an_error_of_a_task_is_raised_as_it_is(engine: LocalEngine) -> None:
    found = engine.map(engine_tasks.refuses_2, range(4))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(np.linalg.LinAlgError, match="part 2"):
        next(found)


def test_memory_that_is_not_there_is_named(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="ran out of memory; use fewer --workers"):
        list(engine.map(engine_tasks.runs_out_of_memory, [0]))


def test_an_error_that_cannot_be_sent_keeps_its_text(engine: LocalEngine) -> None:
    with pytest.raises(RuntimeError, match="OwnError: the disk: full"):
        list(engine.map(engine_tasks.raises_own_error, [0]))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["C", "F"])
def test_workers_map_large_arrays(order: Literal["C", "F"]) -> None:
    large = np.arange(300_000.0).reshape(600, 500, order=order)
    files = open_files()
    with LocalEngine(2) as pool:
        for _ in range(2):
            with pool.share({"array": large, "name": "n"}) as shared:
                assert open_files() == files + 1
                (found,) = set(pool.map(engine_tasks.array_of, range(6), shared))
                assert found == (np.memmap, False, large.sum())
            assert open_files() == files


def open_files() -> int:
    """Count the open files of this process that have no name."""
    n = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            n += str(link.readlink()).endswith("(deleted)")
    return n


@pytest.mark.slow
def test_arrays_of_mapped_files_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.arange(300_000.0))
    mapped = np.load(tmp_path / "large.npy", mmap_mode="r")
    files = open_files()
    with LocalEngine(2) as pool:
        for array in (mapped[100:], np.asarray(mapped)[100:]):
            with pool.share({"array": array}) as shared:
                assert open_files() == files
                (found,) = set(pool.map(engine_tasks.array_of, range(3), shared))
                assert found == (np.memmap, False, array.sum())


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: full)
        with pytest.raises(EngineError, match=r"cannot write .* \(No space left on device\); free some space"):
            MappedArrays().add(np.zeros(300_000))


@pytest.mark.slow
def test_the_pool_is_not_that_of_other_users_of_joblib() -> None:
    with LocalEngine(2) as pool:
        others = Parallel(2, return_as="generator")(delayed(engine_tasks.waits)(number) for number in range(12))
        assert next(others) == 0
        assert list(pool.map(engine_tasks.waits, range(2))) == [0, 1]
    assert list(others) == list(range(1, 12))


@pytest.mark.slow
def test_results_that_are_not_wanted_do_not_disturb_the_next_ones() -> None:
    large = np.ones(300_000)
    with LocalEngine(2) as pool:
        with pool.share({"array": large}) as shared:
            found: Any = pool.map(engine_tasks.array_of, range(100), shared)
            assert next(found) == (np.memmap, False, large.sum())
            found.close()
        with pool.share({"array": 2 * large}) as shared:
            assert set(pool.map(engine_tasks.array_of, range(5), shared)) == {(np.memmap, False, 2 * large.sum())}
        assert pool.use.n_tasks == 6


@pytest.mark.slow
def test_a_killed_worker_of_the_pool_is_named() -> None:
    with LocalEngine(2) as pool, pytest.raises(EngineError, match="--resume and fewer --workers"):
        list(pool.map(engine_tasks.dies, range(3)))


def n_threads(part: int) -> int:
    return max((each["num_threads"] for each in threadpool_info()), default=1)


def test_a_task_has_one_thread() -> None:
    before = n_threads(0)
    assert list(LocalEngine().map(n_threads, [0])) == [1]
    assert n_threads(0) == before


# --- parts ---------------------------------------------------------------------------------------------


def test_parts_are_cut_when_they_are_needed() -> None:
    cut: list[slice] = []

    def take(block: slice) -> int:
        cut.append(block)
        return block.stop - block.start

    parts = Parts(blocks_of(10, 4), take)
    assert (len(parts), cut) == (3, [])
    assert parts[2] == 2
    assert list(parts[:2]) == [4, 4]
    assert cut == [slice(8, 10), slice(0, 4), slice(4, 8)]
    with pytest.raises(IndexError):
        parts[3]


@pytest.mark.parametrize(
    ("work", "blocks"),
    [
        ([1, 1, 1, 1, 1], [(0, 2), (2, 4), (4, 5)]),
        ([5, 1, 1, 9], [(0, 1), (1, 3), (3, 4)]),  # a row with more than the limit is alone
        ([0, 0, 2, 0], [(0, 4)]),
        ([], []),
    ],
)
def test_blocks_have_at_most_so_much_work(work: list[int], blocks: list[tuple[int, int]]) -> None:
    found = blocks_by_work(np.array(work), 2)
    assert [(block.start, block.stop) for block in found] == blocks


# --- opening --------------------------------------------------------------------------------------------


def request(**changes: Any) -> TrainRequest:
    return TrainRequest(out=Path("nowhere"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "dask"}, "unknown engine: expected one of local, ray, spark, got 'dask'"),
        ({"workers": 0}, "expected at least 1, got 0"),
        ({"engine_address": "head:6379"}, "local has no address"),
        ({"engine": "local", "engine_address": "auto"}, "local has no address"),
    ],
)
def test_a_request_that_no_engine_meets_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_engine(request(**changes))


@pytest.mark.parametrize(("workers", "shown"), [(None, "engine: local, 1 worker\n"), (3, "engine: local, 3 workers\n")])
def test_what_is_used_is_printed(workers: int | None, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    for progress in (True, False):
        with open_engine(request(workers=workers, progress=progress)):
            pass
        assert capfd.readouterr() == ("", shown if progress else "")


@pytest.mark.parametrize(("engine_name", "extra"), [("ray", "ray"), ("spark", "spark")])
def test_an_engine_that_is_not_installed_names_its_extra(
    engine_name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match=rf"pip install 'tritone\[train,{extra}\]'"):
        check_engine(request(engine=engine_name))


@pytest.mark.parametrize(
    ("engine_name", "address"),
    [
        ("ray", "127.0.0.1:9"),
        ("ray", "ray://127.0.0.1:9"),
        ("spark", "spark://127.0.0.1:9"),
        ("spark", "k8s://https://127.0.0.1:9"),
        ("spark", "spark://[::1]:9"),
        ("ray", "no-such-host.invalid:6379"),
        ("ray", "127.0.0.1:99999"),
    ],
)
def test_an_address_that_cannot_be_reached_is_named(
    engine_name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(EngineError, match="--engine-address: expected the address of a running"):
        check_engine(request(engine=engine_name, engine_address=address))


@pytest.mark.parametrize("changes", [{"engine": "ray"}, {"workers": 2}, {"engine_address": "auto"}])
def test_kinds_without_engines_refuse_them(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedOptionError, match="taste_vae does not take"):
        get_kind("taste_vae").check(request(**changes))


def test_the_workers_modules_do_not_import_pytorch() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from tritone_training.kinds.recommender.fitting import factorization, neighbourhoods, order, tables\n"
        "sys.exit(','.join({'torch', 'pandas', 'lightning'} & set(sys.modules)) or None)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


# --- fits -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("log", recommender_fits.LOGS)
def test_a_fit_in_a_pool_of_processes_is_that_of_one(log: str, tmp_path: Path) -> None:
    expected = recommender_fits.train(recommender_fits.request(log, tmp_path, "one"))
    found = recommender_fits.train(recommender_fits.request(log, tmp_path, "two", workers=2))
    recommender_fits.assert_equal_checkpoints(expected, found)
    assert recommender_fits.engine_use(found)["n_worker_processes"] >= 2


@pytest.mark.slow
def test_a_fit_whose_worker_is_killed_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LocalEngine", Dying)
    with pytest.raises(EngineError, match="a worker process ended"):
        recommender_fits.train(recommender_fits.request("timed", tmp_path, "run", workers=2))
    assert not (tmp_path / "run").exists()


class Dying(LocalEngine):
    """Its workers are killed in the middle of the fit."""

    def _results(self, task: Any, parts: Any, references: Any) -> Any:
        if self.use.n_tasks > 12:
            return super()._results(engine_tasks.dies, [1, 1, 1], [])
        return super()._results(task, parts, references)


class Settings(dict[str, str]):
    """Stands for a `SparkConf`."""

    def setIfMissing(self, name: str, value: str) -> None:  # noqa: N802 - Spark's name
        self.setdefault(name, value)

    def set(self, name: str, value: str) -> None:
        self[name] = value


@pytest.mark.parametrize("master", ["yarn", "k8s://https://api:6443"])
@pytest.mark.parametrize(
    ("own", "n_workers", "expected"),
    [
        ({}, 4, {"instances": "4", "cores": "1"}),
        ({"spark.executor.cores": "4"}, 6, {"instances": "2", "cores": "4"}),
        ({"spark.executor.instances": "9"}, 4, {"instances": "4", "cores": "1"}),  # --workers comes first
        ({}, None, {}),
    ],
)
def test_workers_of_a_resource_manager_are_executors(
    master: str, own: dict[str, str], n_workers: int | None, expected: dict[str, str]
) -> None:
    conf = Settings(own)
    _fill(conf, master, n_workers)
    assert {name: conf.get(f"spark.executor.{name}") for name in ("instances", "cores")} == {
        "instances": None, "cores": None, **expected,
    }  # fmt: skip
    assert "spark.cores.max" not in conf


def test_workers_of_a_standalone_cluster_are_cores() -> None:
    conf = Settings()
    _fill(conf, "spark://head:7077", 4)
    assert conf["spark.cores.max"] == "4"
    assert "spark.executor.instances" not in conf


# Sums of the absolute values of the arrays by the fit of version 0.2, which was not cut into parts.
AMONG_ALL = {
    "item_knn.values": 463.86965,
    "ease.values": 35.78992,
    "graph.values": 48.94505,
    "factorization.factors": 83.95983,
    "transitions.values": 49.45852,
    "markov.values": 33.15789,
    "popularity.shares": 62.06142,
    "listeners.values": 290.50597,
    "vectors": 874.91771,  # of their products, as the sign of a factor is arbitrary
}
AMONG_NEIGHBOURS = {
    **{name: value for name, value in AMONG_ALL.items() if name != "factorization.factors"},
    "ease.values": 38.39668,
    "graph.values": 50.22573,
}


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize(("is_large", "expected"), [(False, AMONG_ALL), (True, AMONG_NEIGHBOURS)])
def test_a_fit_in_parts_is_the_fit_of_earlier_versions(
    is_large: bool, expected: dict[str, float], is_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_cut:
        recommender_fits.cut_small(monkeypatch)
    monkeypatch.setattr(base_models, "MOST_DUAL_USERS", 10 if is_large else 8_000)
    changes = {"n_neighbours": 12, "ease_most_items": 10 if is_large else 20_000}
    config = from_preset(PRESETS, "tiny", changes)
    user, item = np.mgrid[:90, :70]
    heard = (user * 37 + item * 101 + user * item) % 11 < 2
    plays = sparse.csr_matrix(np.where(heard, 1 + (user + item) % 5, 0).astype(np.float32))
    listener, step = np.repeat(np.arange(90), 8), np.tile(np.arange(8), 90)
    items = (listener * 7 + step * (1 + listener % 3)) % 70
    sequences = UserSequences.ordered(listener, items, None, np.zeros(720, np.bool_))
    dataset = replace(dataset_of_matrix(plays, config, b"a key of a test, long enough"), sequences=sequences)
    arrays = dict(base_models.fit_base_models(dataset, config, metadata={}, on_step=lambda step: quiet).arrays)
    arrays["vectors"] = arrays["vectors"] @ arrays["vectors"].T
    found = {name: float(np.abs(arrays[name].astype(np.float64)).sum()) for name in expected}
    assert found == pytest.approx(expected, rel=2e-6)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total
