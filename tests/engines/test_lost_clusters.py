"""What a fit reports if its cluster is lost, has no free CPU, or lacks Tritone; Ray's client (`ray://`)."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.engines.conftest import JAVA, N_WORKERS, WORKERS_PATH
from tests.engines.ray_nodes import RayHead, kill, ray_head, ray_node

from tritone_training.kinds.recommender.engines import EngineError, cpu_wait, ray_engine, spark_engine
from tritone_training.kinds.recommender.engines.ray_engine import RayEngine
from tritone_training.kinds.recommender.engines.spark_engine import SparkEngine

R = TypeVar("R")
WORKERS = {"PYTHONPATH": WORKERS_PATH}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "2",
        "PYTHONPATH": WORKERS_PATH,
        "SPARK_LOCAL_IP": "127.0.0.1",
        cpu_wait.TIMEOUT_VARIABLE: "60",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which tasks leave files to be seen by tests."""
    return tmp_path


@contextmanager
def driver(function: Callable[..., R], *arguments: Any) -> Iterator[Future[R]]:
    """Call a function in a process of its own: this one may be connected to another cluster."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield process.submit(function, *arguments)


def result_of(function: Callable[..., R], *arguments: Any) -> R:
    with driver(function, *arguments) as outcome:
        return outcome.result(240)


def poll_often() -> None:
    for module in (ray_engine, spark_engine):
        module.POLL_S = 0.5


def marks_and_waits(part: int, folder: str) -> int:
    """Wait in all parts but the first one."""
    if part:
        Path(folder, str(part)).touch()
        time.sleep(300)
    return part


def wait_for(path: Path) -> None:
    ends_s = time.monotonic() + 180
    while not path.exists():
        assert time.monotonic() < ends_s, f"{path.name} is not there"
        time.sleep(0.05)


# --- Ray's client -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with ray_head(n_cpus=N_WORKERS, environment=WORKERS) as started:
            yield started


def twice(part: int) -> tuple[int, int]:
    return 2 * part, os.getpid()


def fit_by_client(address: str) -> tuple[int, list[tuple[int, int]], bool]:
    import ray

    with RayEngine(address=address) as engine:
        found = list(engine.map(twice, range(5)))
        n_workers = engine.n_workers
    return n_workers, found, ray.is_initialized()


def test_a_cluster_is_used_by_rays_client(head: RayHead) -> None:
    try:
        n_workers, found, is_connected = result_of(fit_by_client, head.client_address)
    except EngineError:
        print(head.client_logs())  # Ray's message only names the file
        raise
    assert n_workers == N_WORKERS
    assert [value for value, _ in found] == [0, 2, 4, 6, 8]
    assert os.getpid() not in {pid for _, pid in found}
    assert not is_connected


def fail_to_start(n_failures: int, text: str) -> tuple[int, str]:
    import ray

    init, attempts = ray.init, []

    def init_later(**options: Any) -> Any:
        attempts.append(options)
        if len(attempts) <= n_failures:
            raise ConnectionAbortedError(f"Initialization failure from server:\n{text}")
        return init(**options)

    ray.init = init_later
    try:
        with RayEngine(1) as engine:
            return len(attempts), str(list(engine.map(abs, [-1])))
    except EngineError as error:
        return len(attempts), str(error)


NOT_STARTED = "Starting Ray client server failed. See ray_client_server_23000.err for detailed logs."


@pytest.mark.parametrize(
    ("n_failures", "text", "n_attempts", "outcome"),
    [
        (2, NOT_STARTED, 3, "[1]"),
        (3, NOT_STARTED, 3, "ray: cannot be used on this computer (Initialization failure from server:"),
        (1, "no such cluster", 1, "ray: cannot be used on this computer (Initialization failure from server:"),
    ],
)
def test_a_client_whose_process_was_not_started_is_tried_again(
    n_failures: int, text: str, n_attempts: int, outcome: str
) -> None:
    made, found = result_of(fail_to_start, n_failures, text)
    assert made == n_attempts
    assert found.startswith(outcome)


def use_open_connection(connected: str, addresses: Sequence[str | None]) -> list[str]:
    import ray

    ray.init(connected, log_to_driver=False)
    outcomes = []
    for address in addresses:
        try:
            with RayEngine(1, address) as engine:
                outcomes.append(str(list(engine.map(abs, [-1]))))
        except EngineError as error:
            outcomes.append(str(error))
        assert ray.is_initialized()
    return outcomes


def test_an_open_connection_of_rays_client_is_used_by_either_address(head: RayHead) -> None:
    other = head.client_address[:-1]
    *used, refused = result_of(
        use_open_connection, head.client_address, [None, "auto", head.address, head.client_address, other]
    )
    assert used == ["[1]"] * 4
    assert refused.startswith(
        f"--engine-address: expected the Ray cluster that is connected ({head.address} or {head.client_address}), got "
        f"{other}; "
    )


def lose_head(address: str, folder: str) -> tuple[str, bool]:
    import ray

    with pytest.raises(EngineError) as raised, RayEngine(2, address) as engine, engine.share(folder) as shared:
        list(engine.map(marks_and_waits, range(4), shared))
    return str(raised.value), ray.is_initialized()


def test_a_head_that_is_lost_is_named(folder: Path) -> None:
    with (
        ray_head(n_cpus=2, environment=WORKERS) as head,
        driver(lose_head, head.client_address, str(folder)) as outcome,
    ):
        wait_for(folder / "1")
        kill(head.process)
        message, is_connected = outcome.result(120)
    assert message.startswith("ray: the connection to the cluster is lost (")
    assert message.endswith("check that its head runs, then start again with --resume")
    assert not is_connected  # nor has Ray started one on this computer


# --- no free CPU --------------------------------------------------------------------------------------


def open_without_cpu(n_cpus: int, folder: str) -> tuple[list[str], str, bool]:
    import ray

    poll_often()
    os.environ[cpu_wait.TIMEOUT_VARIABLE] = "3"
    ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    if n_cpus:  # another job uses all of them
        ray.remote(marks_and_waits).remote(n_cpus, folder)
        wait_for(Path(folder, str(n_cpus)))
    with redirect_stderr(io.StringIO()) as printed, pytest.raises(EngineError) as raised:
        RayEngine(progress=True)
    return printed.getvalue().splitlines(), str(raised.value), ray.is_initialized()


@pytest.mark.parametrize("n_cpus", [0, 1])
def test_a_ray_cluster_without_a_free_cpu_is_named(n_cpus: int, folder: Path) -> None:
    lines, message, is_connected = result_of(open_without_cpu, n_cpus, str(folder))
    state = f"({n_cpus} CPUs, 0 of them free)"
    assert f"waiting for a free CPU in the Ray cluster {state}, 1 s" in lines
    assert message == (
        f"no free CPU in the Ray cluster for 3 s {state}; add workers, wait for other jobs to end, or raise "
        f"TRITONE_CLUSTER_TIMEOUT_S (seconds)"
    )
    assert is_connected


def open_and_lose_nodes(address: str, folder: str) -> tuple[int, str]:
    poll_often()
    with RayEngine(address=address) as engine, engine.share(folder) as shared:
        os.environ[cpu_wait.TIMEOUT_VARIABLE] = "2"
        engine._cpu_wait = cpu_wait.CpuWait("Ray", progress=False)
        with pytest.raises(EngineError) as raised:
            list(engine.map(marks_and_waits, range(2), shared))
        return engine.n_workers, str(raised.value)


def test_nodes_may_join_later_and_their_loss_is_named(folder: Path) -> None:
    with (
        ray_head(n_cpus=0, environment=WORKERS) as head,
        driver(open_and_lose_nodes, head.address, str(folder)) as outcome,
    ):
        with ray_node(head, n_cpus=2, environment=WORKERS) as node:
            wait_for(folder / "1")
            kill(node)
        n_workers, message = outcome.result(120)
    assert n_workers == 2
    assert message.startswith("no free CPU in the Ray cluster for 2 s (0 CPUs, 0 of them free)")


def open_engine_of(kind: type[RayEngine | SparkEngine], address: str) -> str:
    poll_often()
    with pytest.raises(EngineError) as raised:
        kind(1, address)
    return str(raised.value)


def test_workers_without_tritone_are_named(tmp_path: Path) -> None:
    package = tmp_path / "tritone_training"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('tritone_training is not here')\n")
    with ray_head(n_cpus=1, environment={"PYTHONPATH": str(tmp_path)}) as head:
        message = result_of(open_engine_of, RayEngine, head.address)
    assert (
        "a worker cannot run tasks (ImportError: tritone_training is not here); it needs tritone[train,ray]" in message
    )


# --- Spark --------------------------------------------------------------------------------------------

needs_java = pytest.mark.skipif(JAVA is None, reason="Spark needs Java (Debian: apt install openjdk-17-jre-headless)")


def lose_java(folder: str) -> str:
    with SparkEngine(1) as engine, engine.share(folder) as shared:
        Path(folder, "java").write_text(str(engine._context._gateway.proc.pid))
        with pytest.raises(EngineError) as raised:
            list(engine.map(marks_and_waits, [1] * 8, shared))
    return str(raised.value)


@needs_java
def test_a_java_process_that_is_killed_is_named(folder: Path) -> None:
    with driver(lose_java, str(folder)) as outcome:
        wait_for(folder / "1")
        os.kill(int((folder / "java").read_text()), signal.SIGKILL)
        message = outcome.result(60)
    assert message.startswith("spark: the fit failed (")


def open_without_executors(master: str) -> tuple[list[str], str, bool]:
    from pyspark import SparkContext

    poll_often()
    os.environ[cpu_wait.TIMEOUT_VARIABLE] = "5"
    with redirect_stderr(io.StringIO()) as printed, pytest.raises(EngineError) as raised:
        SparkEngine(1, master, progress=True)
    return printed.getvalue().splitlines(), str(raised.value), SparkContext._active_spark_context is not None


@needs_java
def test_a_spark_cluster_without_executors_is_named() -> None:
    lines, message, is_open = result_of(open_without_executors, "local-cluster[0,1,1024]")  # a master, no workers
    assert any(
        line.startswith("waiting for a free CPU in the Spark cluster (no executor runs a task), ") for line in lines
    )
    assert message.startswith("no free CPU in the Spark cluster for 5 s (no executor runs a task); add workers")
    assert not is_open


def much(part: int) -> bytes:
    """Return a result of 96 MB."""
    return bytes(96 << 20)


def gather_much() -> str:
    """Gather more than fits into the heap of the driver; return the error."""
    with SparkEngine(N_WORKERS) as engine:
        try:
            return f"gathered {len(list(engine.map(much, range(8))))} results"
        except EngineError as error:
            return str(error)


@needs_java
def test_a_full_heap_of_spark_is_named_and_ends_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spark-defaults.conf").write_text("# ours\nspark.driver.memory = 512m\n")
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    assert result_of(gather_much) == (
        "spark: the driver's Java process ran out of memory; raise spark.driver.memory, or use fewer --workers"
    )


def gather_much_by_default() -> tuple[int, dict[str, object]]:
    with SparkEngine(N_WORKERS) as engine:
        n_bytes = sum(len(each) for each in engine.map(much, range(8)))
        return n_bytes, engine.describe()


@needs_java
def test_large_results_fit_into_the_default_heap_of_spark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    n_bytes, described = result_of(gather_much_by_default)
    assert n_bytes == 8 * (96 << 20)
    assert 100 < described["java_peak_mb"] < 6_000
