"""The command that fits a recommender starts Ray or Spark itself, or uses a cluster at an address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.engines.conftest import JAVA, N_WORKERS, WORKERS_PATH
from tests.engines.spark_cluster import standalone_cluster
from tests.support import recommender_fits, recommender_models

from tritone_training.kinds.recommender.engines import EngineError, open_engine

N_CLUSTER_CORES = 3  # unlike the 2 that Spark assumes before an executor has registered
_OPTIONS = (
    "interactions",
    "friends",
    "item_tags",
    "metadata",
    "user_column",
    "item_column",
    "plays_column",
    "friend_column",
    "tag_column",
)


def fit(out: Path, *options: str) -> dict[str, Any]:
    """Run `tritone train recommender` in a process of its own; return what `--json` prints."""
    files = recommender_models.files()
    assert set(_OPTIONS) <= {each.name for each in fields(files)}
    given = [text for name in _OPTIONS for text in (f"--{name.replace('_', '-')}", str(getattr(files, name)))]
    settings = ["--set", "taste_vae_epochs=1", "--set", "taste_sequence_epochs=1", "--preset", "tiny"]
    command = [sys.executable, "-m", "tritone_cli", "train", "recommender", *given, *settings, "--json"]
    environment = os.environ | {"PYTHONPATH": WORKERS_PATH, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [*command, "--key", str(out.parent / "users.key"), "--out", str(out), *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": WORKERS_PATH}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def in_one_process(folder: Path) -> Path:
    assert fit(folder / "local")["engine"]["name"] == "local"
    return folder / "local"


@pytest.fixture(scope="module")
def spark_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a standalone master with one worker."""
    if JAVA is None:
        pytest.skip("Spark needs Java (Debian: apt install openjdk-17-jre-headless)")
    environment = {"PYTHONPATH": WORKERS_PATH}
    with (
        pytest.MonkeyPatch.context() as patch,
        standalone_cluster(tmp_path_factory.mktemp("cluster"), n_cores=N_CLUSTER_CORES, environment=environment) as url,
    ):
        patch.setenv("PYSPARK_PYTHON", sys.executable)  # of the driver, which names it to the executors
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        yield url


@pytest.mark.parametrize("name", ["ray", "spark"])
def test_the_command_starts_the_engine_for_the_fit(name: str, in_one_process: Path, folder: Path) -> None:
    if name == "spark" and JAVA is None:
        pytest.skip("Spark needs Java (Debian: apt install openjdk-17-jre-headless)")
    used = fit(folder / name, "--engine", name, "--workers", str(N_WORKERS))["engine"]
    assert (used["name"], used["workers"]) == (name, N_WORKERS)
    assert used["n_worker_processes"] >= 1
    assert used["n_tasks"] > 5
    recommender_fits.assert_equal_checkpoints(in_one_process, folder / name)


def test_a_ray_cluster_is_used_by_its_address(ray_cluster: None, in_one_process: Path, folder: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    used = fit(folder / "cluster", "--engine", "ray", "--engine-address", address)["engine"]
    assert (used["name"], used["workers"]) == ("ray", N_WORKERS)  # the CPUs of that cluster
    recommender_fits.assert_equal_checkpoints(in_one_process, folder / "cluster")


def test_a_standalone_spark_cluster_is_used_by_its_address(
    spark_master: str, in_one_process: Path, folder: Path
) -> None:
    out = folder / "standalone"
    used = fit(out, "--engine", "spark", "--engine-address", spark_master, "--workers", str(N_WORKERS))["engine"]
    assert (used["name"], used["workers"]) == ("spark", N_WORKERS)
    assert 1 <= used["n_worker_processes"] <= N_WORKERS
    recommender_fits.assert_equal_checkpoints(in_one_process, out)


def test_the_workers_of_a_standalone_spark_cluster_are_its_cores(spark_master: str) -> None:
    """In a process of its own, because this one may have a Spark context already."""
    ended = run_code(
        "from pathlib import Path\n"
        "from tritone_training.kind import TrainRequest\n"
        "from tritone_training.kinds.recommender.engines import open_engine\n"
        f"request = TrainRequest(out=Path('nowhere'), engine='spark', engine_address={spark_master!r})\n"
        "with open_engine(request) as engine:\n"
        "    assert list(engine.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]\n"
    )
    assert f"engine: spark at {spark_master}, {N_CLUSTER_CORES} workers" in ended.stderr


def test_an_address_besides_the_connected_ray_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    import ray

    from tritone_training.kinds.recommender.engines.ray_engine import RayEngine

    address = ray.get_runtime_context().gcs_address
    port = address.rpartition(":")[2]
    for same in (address, "auto"):
        with open_engine(recommender_fits.request("tagged", tmp_path, "run", engine="ray", engine_address=same)):
            pass
    other = f"localhost.localdomain:{port}" if address.startswith("127.") else f"127.0.0.1:{port}"
    with pytest.raises(EngineError, match=rf"the Ray cluster that is connected \({address}\), got {other}"):
        RayEngine(address=other)
    assert ray.is_initialized()


def test_a_master_besides_the_open_context_is_refused(spark: Any) -> None:
    from tritone_training.kinds.recommender.engines.spark_engine import SparkEngine

    master = spark.sparkContext.master
    SparkEngine(N_WORKERS, master).close()
    with pytest.raises(EngineError, match=r"the Spark context that is open \(local\[2,4\]\), got yarn"):
        SparkEngine(N_WORKERS, "yarn")
    assert spark.range(3).count() == 3  # the context is still open


@pytest.mark.parametrize(
    ("master", "given", "expected"),
    [
        ("yarn", {}, {"spark.executor.instances": "5", "spark.executor.cores": "1"}),
        ("k8s://https://host:6443", {"spark.executor.cores": "2"}, {"spark.executor.instances": "3"}),
        ("yarn", {"spark.executor.instances": "9"}, {"spark.executor.instances": "5"}),
        ("yarn", {"spark.dynamicAllocation.enabled": "true"}, {"spark.dynamicAllocation.maxExecutors": "5"}),
        ("spark://host:7077", {}, {"spark.cores.max": "5"}),
        ("spark://host:7077", {"spark.io.encryption.enabled": "false"}, {"spark.io.encryption.enabled": "false"}),
        ("local[5]", {}, {"spark.executor.instances": None, "spark.io.encryption.enabled": "true"}),
    ],
)
def test_workers_are_cores_of_executors(master: str, given: dict[str, str], expected: dict[str, str | None]) -> None:
    from pyspark import SparkConf

    from tritone_training.kinds.recommender.engines import spark_engine

    conf = SparkConf(loadDefaults=False)
    conf.setAll(list(given.items()))
    spark_engine._fill(conf, master, 5)
    assert {name: conf.get(name) for name in expected} == expected
