"""The engine `spark`: tasks on a Spark cluster, or on the cores of this computer.

Spark schedules the tasks and repeats those whose worker is lost. Shared values are broadcast variables, of which every
Python worker holds a copy. Jobs of a few tasks each follow one another, two at a time, so that results do not pile up
in the driver.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task

MOST_FAILURES: Final = 4  # of a task with a local master; elsewhere spark.task.maxFailures
_TASKS_OF_JOB: Final = 2  # per worker
_REGISTER_S: Final = 2.0  # after which no further executors of a cluster are expected
_POLL_S: Final = 0.1


class SparkEngine(Engine):
    """Runs tasks on Spark.

    Args:
        n_workers: cores of the executors that are started; None for all cores of this computer, or what the cluster
            offers. A Spark context that is open already keeps its executors.
        address: URL of the master, such as `spark://HOST:7077`, `yarn` or `k8s://https://HOST:6443`; None for this
            computer, for the master given to `spark-submit`, or for the context that is open.

    Raises:
        EngineError: Spark cannot be started, its master does not respond, or a context of another master is open.
    """

    name: ClassVar[str] = "spark"

    def __init__(self, n_workers: int | None = None, address: str | None = None) -> None:
        import pyspark
        from pyspark.errors import PySparkException

        active = pyspark.SparkContext._active_spark_context  # has no public name
        self._is_ours = active is None
        if active is not None and address is not None and address.rstrip("/") != active.master.rstrip("/"):
            raise EngineError(
                f"--engine-address: expected the master of the Spark context that is open ({active.master}), got "
                f"{address}; leave the option out to use that context, or stop it first"
            )
        conf = pyspark.SparkConf()
        if self._is_ours:
            if address is None and conf.get("spark.master") is None:
                address = f"local[{n_workers or '*'},{MOST_FAILURES}]"
            if address is not None:
                conf.setMaster(address)
            _fill(conf, conf.get("spark.master"), n_workers)
        try:
            self._context = active or pyspark.SparkContext(conf=conf)
        except (PySparkException, *_java_errors(), OSError) as error:
            raise EngineError(
                f"spark: cannot be started at {address or conf.get('spark.master')} ({_reason(error)}); Spark needs "
                f"Java 17 or later on this computer, and a reachable master at --engine-address"
            ) from error
        self._group = f"tritone-{uuid.uuid4().hex[:8]}"  # the context may have jobs of others
        if self._is_ours:
            self._context.setLogLevel("ERROR")
        super().__init__(n_workers or self._n_offered())

    def _n_offered(self) -> int:
        """Return the number of cores that the executors offer; those of a cluster register one after the other.

        Raises:
            EngineError: the executors cannot run tasks.
        """
        if self._context.master.startswith("local"):
            return max(1, int(self._context.defaultParallelism))
        try:
            self._context.parallelize([0], 1).count()  # waits for the first executor
            n, changed_s = 0, time.monotonic()
            while time.monotonic() - changed_s < _REGISTER_S:
                time.sleep(_POLL_S)
                if self._context.defaultParallelism != n:
                    n, changed_s = self._context.defaultParallelism, time.monotonic()
        except _java_errors() as error:
            self.close()
            raise _translated(error) from error
        return max(1, n)

    def close(self) -> None:
        if self._is_ours:
            self._context.stop()

    def _publish(self, value: Any) -> Any:
        self.use.broadcast_bytes += pickled_bytes(value)
        try:
            return self._context.broadcast(_InOnePiece(value))
        except _java_errors() as error:
            raise _translated(error) from error

    def _withdraw(self, reference: Any) -> None:
        try:
            reference.destroy()
        except _java_errors():  # Spark has stopped, and with it the variable
            pass

    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        step = max(1, _TASKS_OF_JOB * self.n_workers)
        jobs = [parts[start : start + step] for start in range(0, len(parts), step)]
        waiting = jobs[::-1]
        with ThreadPoolExecutor(max_workers=2) as threads:
            running: list[Future[list[TaskResult[Any]]]] = []
            try:
                for _ in jobs:
                    while waiting and len(running) < 2:
                        running.append(threads.submit(self._run, task, list(waiting.pop()), references))
                    yield from running.pop(0).result()
            except _java_errors() as error:
                raise _translated(error) from error
            finally:
                if running:
                    self._context.cancelJobGroup(self._group)

    def _run(self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]) -> list[TaskResult[Any]]:
        self._context.setJobGroup(self._group, "tritone train recommender")
        self.use.sent_bytes += sum(map(pickled_bytes, parts))
        found: list[TaskResult[Any]] = (
            self._context.parallelize(parts, len(parts)).map(partial(_run_on, task, references)).collect()
        )
        self.use.gathered_bytes += pickled_bytes(found)
        return found


class _InOnePiece:
    """A value whose pickle holds its arrays as bytes: with I/O encryption, PySpark cannot write their buffers.

    Workers get the value itself.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        from pyspark.serializers import CPickleSerializer

        serializer = CPickleSerializer()  # Spark's own, by which the worker reads the rest as well
        return serializer.loads, (serializer.dumps(self._value),)


def _run_on(task: Callable[..., Any], references: Sequence[Any], part: Any) -> TaskResult[Any]:
    return run_task(task, part, *(each.value for each in references))


def _fill(conf: Any, master: str, n_workers: int | None) -> None:
    """Set what Spark's own configuration leaves open."""
    values = {
        "spark.app.name": "tritone train recommender",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "2g",  # the results of a job pass through it
        "spark.driver.maxResultSize": "0",
        "spark.python.worker.reuse": "true",
        "spark.io.encryption.enabled": "true",  # broadcast values, with the key of the pseudonyms, are stored on disk
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        values["spark.driver.host"] = "localhost"
        values["spark.driver.bindAddress"] = "127.0.0.1"
    for name, value in values.items():
        conf.setIfMissing(name, value)
    if n_workers is not None and not master.startswith("local"):
        _limit_executors(conf, master, n_workers)


def _limit_executors(conf: Any, master: str, n_workers: int) -> None:
    """Set the number of executors, which `--workers` names before `spark-defaults.conf` does."""
    if master.startswith("spark://"):
        conf.set("spark.cores.max", str(n_workers))
        return
    conf.setIfMissing("spark.executor.cores", "1")
    n_executors = str(math.ceil(n_workers / int(conf.get("spark.executor.cores"))))
    is_dynamic = conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true"
    conf.set("spark.dynamicAllocation.maxExecutors" if is_dynamic else "spark.executor.instances", n_executors)


def _java_errors() -> tuple[type[Exception], ...]:
    from py4j.protocol import Py4JError, Py4JNetworkError

    return (Py4JError, Py4JNetworkError)


def _translated(error: Exception) -> EngineError:
    text = str(error)
    if "OutOfMemoryError" in text or "exit code 137" in text:
        return EngineError(
            f"spark: a process ran out of memory ({_reason(error)}); give it more by spark.driver.memory, "
            f"spark.executor.memory or spark.executor.memoryOverhead, or use fewer --workers"
        )
    if "No space left on device" in text:
        return EngineError("spark: no space left on the disk of spark.local.dir; free some, or name another folder")
    return EngineError(
        f"spark: the fit failed ({_reason(error)}); a task was repeated as often as spark.task.maxFailures allows; see "
        f"the logs of the workers, then start again with --resume"
    )


def _reason(error: Exception) -> str:
    """Return the line of a Java error that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Exception" in line or "Error" in line]
    return (causes or lines or [type(error).__name__])[0][:300]
