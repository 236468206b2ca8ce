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
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pickle import PickleError
from threading import Event
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.cpu_wait import POLL_S, CpuWait
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task

MOST_FAILURES: Final = 4  # of a task with a local master; elsewhere spark.task.maxFailures
_TASKS_OF_JOB: Final = 2  # per worker
_JOBS: Final = 2  # at the same time
_CANCEL_EVERY_S: Final = 0.5
_REGISTER_S: Final = 2.0  # after which no further executors of a cluster are expected
_REGISTER_POLL_S: Final = 0.1


class SparkEngine(Engine):
    """Runs tasks on Spark.

    Args:
        n_workers: cores of the executors that are started; None for all cores of this computer, or what the cluster
            offers. A Spark context that is open already keeps its executors.
        address: URL of the master, such as `spark://HOST:7077`, `yarn` or `k8s://https://HOST:6443`; None for this
            computer, for the master given to `spark-submit`, or for the context that is open.
        progress: whether waiting for an executor is reported on stderr.

    Raises:
        EngineError: Spark cannot be started, its master does not respond, no executor starts, or a context of another
            master is open.
    """

    name: ClassVar[str] = "spark"

    def __init__(self, n_workers: int | None = None, address: str | None = None, *, progress: bool = False) -> None:
        import pyspark

        active = pyspark.SparkContext._active_spark_context  # has no public name
        self._cpu_wait = CpuWait("Spark", progress=progress)
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
            _set_defaults(conf, conf.get("spark.master"), n_workers)
        try:
            self._context = active or pyspark.SparkContext(conf=conf)
        except _errors() as error:
            raise EngineError(
                f"spark: cannot be started at {address or conf.get('spark.master')} ({_reason(error)}); Spark needs "
                f"Java 17 or later on this computer, and a reachable master at --engine-address"
            ) from error
        self._group = f"tritone-{uuid.uuid4().hex[:8]}"  # the context may have jobs of others
        if self._is_ours:
            self._context.setLogLevel("ERROR")
        super().__init__(n_workers or 1)
        try:
            list(self._results(_do_nothing, [None], []))  # waits for an executor, and checks that it can run tasks
            if n_workers is None:
                self.n_workers = self._n_offered()
        except BaseException:
            self.close()
            raise

    def _n_offered(self) -> int:
        """Return the number of cores that the executors offer; those of a cluster register one after the other."""
        if self._context.master.startswith("local"):
            return max(1, int(self._context.defaultParallelism))
        with _translating():
            n, changed_s = 0, time.monotonic()
            while time.monotonic() - changed_s < _REGISTER_S:
                time.sleep(_REGISTER_POLL_S)
                if self._context.defaultParallelism != n:
                    n, changed_s = self._context.defaultParallelism, time.monotonic()
        return max(1, n)

    def close(self) -> None:
        if not self._is_ours:
            return
        self._is_ours = False
        try:
            self._context.stop()
        except _errors():  # Java has ended: the second call stops what is left in this process
            self._context.stop()

    def _publish(self, value: Any) -> Any:
        self.use.broadcast_bytes += pickled_bytes(value)
        with _translating():
            return self._context.broadcast(_PickledBroadcast(value))

    def _withdraw(self, reference: Any) -> None:
        with suppress(*_errors()):  # Spark has stopped, and with it the variable
            reference.destroy()

    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        step = max(1, _TASKS_OF_JOB * self.n_workers)
        waiting = deque(parts[start : start + step] for start in range(0, len(parts), step))
        is_stopped = Event()
        with ThreadPoolExecutor(max_workers=_JOBS) as threads:
            running: deque[Future[_JobResult]] = deque()
            try:
                while waiting or running:
                    while waiting and len(running) < _JOBS:
                        running.append(threads.submit(self._run, task, list(waiting.popleft()), references, is_stopped))
                    self._wait_for(running[0])
                    job = running.popleft().result()
                    self.use.sent_bytes += job.sent_bytes
                    self.use.gathered_bytes += job.gathered_bytes
                    yield from job.results
            finally:
                is_stopped.set()
                self._cancel(running)

    def _run(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any], is_stopped: Event
    ) -> _JobResult:
        """Run a job, in a thread of its own."""
        sent_bytes = sum(map(pickled_bytes, parts))
        with _translating():
            self._context.setJobGroup(self._group, "tritone train recommender")
            tasks = self._context.parallelize(parts, len(parts)).map(partial(_run_on, task, references))
            results = [] if is_stopped.is_set() else tasks.collect()
        return _JobResult(results, sent_bytes, pickled_bytes(results))

    def _wait_for(self, job: Future[_JobResult]) -> None:
        """Wait for the end of a job; Spark itself waits for executors without a limit."""
        self._cpu_wait.restart()
        while not wait([job], POLL_S).done:
            with _translating():
                tracker = self._context.statusTracker()
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            if stages and not any(stage is None or stage.numActiveTasks for stage in stages):
                self._cpu_wait.check("no executor runs a task")
            else:
                self._cpu_wait.restart()

    def _cancel(self, running: Collection[Future[_JobResult]]) -> None:
        # More than once: a thread may be about to submit its job.
        while running and wait(running, _CANCEL_EVERY_S).not_done:
            with suppress(*_errors()):  # Spark has stopped, and the jobs end by themselves
                self._context.cancelJobGroup(self._group)


@dataclass(frozen=True, eq=False)
class _JobResult:
    """Results of the tasks of a job; the bytes of their parts and of the results."""

    results: list[TaskResult[Any]]
    sent_bytes: int
    gathered_bytes: int


class _PickledBroadcast:
    """A broadcast value whose pickle holds arrays as bytes: with I/O encryption, PySpark cannot write their buffers.

    Workers get the value itself.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        from pyspark.serializers import CPickleSerializer

        serializer = CPickleSerializer()  # Spark's own, by which the worker reads the rest as well
        return serializer.loads, (serializer.dumps(self._value),)


def _do_nothing(part: None) -> None:
    """Task of which only the start is of interest."""


def _run_on(task: Callable[..., Any], references: Sequence[Any], part: Any) -> TaskResult[Any]:
    return run_task(task, part, *(each.value for each in references))


def _set_defaults(conf: Any, master: str, n_workers: int | None) -> None:
    """Set defaults for settings that are missing in the Spark configuration."""
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
    """Set the number of executors; `--workers` takes precedence over `spark-defaults.conf`."""
    if master.startswith("spark://"):
        conf.set("spark.cores.max", str(n_workers))
        return
    conf.setIfMissing("spark.executor.cores", "1")
    n_executors = str(math.ceil(n_workers / int(conf.get("spark.executor.cores"))))
    is_dynamic = conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true"
    conf.set("spark.dynamicAllocation.maxExecutors" if is_dynamic else "spark.executor.instances", n_executors)


def _errors() -> tuple[type[Exception], ...]:
    """Return what PySpark raises if Java fails or has ended, or a file or local socket fails."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return (Py4JError, PySparkException, PickleError, EOFError, OSError)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        raise _translated(error) from error


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
