"""A local Ray, a local Spark, and a real server of the environment that has Triton (see `make test-engines`)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.engines.model_server import ModelServer

ROOT = Path(__file__).parents[2]
N_WORKERS = 2
# Workers import the modules of the tests. The same folders as here, but not the packages of this environment, since the
# server runs in another one.
WORKERS_PATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
JAVA = shutil.which("java")
# In the environment of `make test`, which has neither Ray nor Spark, there is nothing to collect.
collect_ignore_glob = [] if all(map(importlib.util.find_spec, ("ray", "pyspark"))) else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engines)
            for package in ("ray", "pyspark"):  # their own use of what they deprecate themselves
                item.add_marker(pytest.mark.filterwarnings(rf"ignore::Warning:{package}\."))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A server of tiny models; tests leave it running."""
    running = ModelServer(tmp_path_factory.mktemp("models"))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 recordings, and `broken.wav`, which is none."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(17)
    for number in range(12):
        samples = rng.uniform(-0.5, 0.5, 22_050 * (2 + number % 5)).astype(np.float32)
        soundfile.write(folder / f"{number:02}.wav", samples, 22_050)
    (folder / "broken.wav").write_bytes(b"RIFF, and no more")
    return folder


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this machine alone, with two CPUs; `import ray` works after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or other work on this machine would delay the workers
        patch.setenv("RAY_AUTH_MODE", "disabled")  # no token in the home folder
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", WORKERS_PATH)
        import ray

        ray.init(
            num_cpus=N_WORKERS,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            configure_logging=False,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Spark session of this machine alone, with two workers."""
    if JAVA is None:
        pytest.skip("Spark needs Java (Debian: apt install openjdk-17-jre-headless)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("PYTHONPATH", WORKERS_PATH)
        from pyspark.sql import SparkSession

        folder = tmp_path_factory.mktemp("spark")
        settings = {
            "spark.driver.memory": "1g",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": "4",
            "spark.sql.execution.arrow.pyspark.enabled": "true",
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder / "local"),
            "spark.task.maxFailures": "4",
        }
        builder = SparkSession.builder.master(f"local[{N_WORKERS},4]").appName("tritone-tests")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        try:
            yield session
        finally:
            gateway = session.sparkContext._gateway
            session.stop()
            gateway.shutdown()
            gateway.proc.stdin.close()  # Spark's Java process ends with its input
            gateway.proc.wait(30)
