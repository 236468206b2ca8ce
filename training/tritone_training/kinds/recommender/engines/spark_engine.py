"""The engine `spark`: tasks on a Spark cluster, or on the cores of this computer.

Spark schedules the tasks and repeats those whose worker is lost. Shared values are broadcast variables, of which every
Python worker holds a copy. Jobs of a few tasks each follow one another, two at a time, so that results do not pile up
in the driver.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import PickleError
from subprocess import Popen, TimeoutExpired
from threading import Event
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.cpu_wait import POLL_S, CpuWait
from tritone_training.kinds.recommender.engines.tasks import TaskResult, peak_bytes, pickled_bytes, run_task

MOST_FAILURES: Final = 4  # of a task with a local master; elsewhere spark.task.maxFailures
_TASKS_OF_JOB: Final = 1  # per worker; parts and results of a job are several times in the memory of the driver's Java
_JOBS: Final = 2  # at the same time
_LEAST_HEAP_MB: Final = 2_048
_HEAP_MB_PER_WORKER: Final = 512
_OUT_OF_MEMORY_STATUS: Final = 3  # exit status of Java with ExitOnOutOfMemoryError
_JAVA_EXITS_WITHIN_S: Final = 5.0
_SETTING: Final = re.compile(r"\s*([^\s#!=:][^\s=:]*)(?:\s*[=:]\s*|\s+)(.*?)\s*")  # a line of Java's properties
_CANCEL_EVERY_S: Final = 0.5
_REGISTER_S: Final = 2.0  # after which no further executors of a cluster are expected
_REGISTER_POLL_S: Final = 0.1


class SparkEngine(Engine):
    """Runs tasks on Spark.

    Args:
        n_workers: cores of the executors that are started; None for all cores of this computer, or what the cluster
            offers. A Spark context that is open already keeps its executors.
        address: URL of the master, such as `spark://HOST:7077`, `yarn` or `k8s://https://HOST:6443`; None for this
            computer, for the master of `spark-submit` or `spark-defaults.conf`, or for the context that is open.
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
            for name, value in _configured().items():
                conf.setIfMissing(name, value)
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
        with self._translating():
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

    def describe(self) -> dict[str, Any]:
        """Return what `Engine.describe` does, and the largest resident memory of the driver's Java process."""
        java = self._java()
        return {**super().describe(), "java_peak_mb": 0 if java is None else round(peak_bytes(java.pid) / 2**20)}

    def _java(self) -> Popen[bytes] | None:
        """Return the driver's Java process; None if that has started this one, as `spark-submit` does."""
        process: Popen[bytes] | None = getattr(self._context._gateway, "proc", None)  # has no public name
        return process

    def _publish(self, value: Any) -> Any:
        self.use.broadcast_bytes += pickled_bytes(value)
        with self._translating():
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
        with self._translating():
            self._context.setJobGroup(self._group, "tritone train recommender")
            tasks = self._context.parallelize(parts, len(parts)).map(partial(_run_on, task, references))
            results = [] if is_stopped.is_set() else tasks.collect()
        return _JobResult(results, sent_bytes, pickled_bytes(results))

    def _wait_for(self, job: Future[_JobResult]) -> None:
        """Wait for the end of a job; Spark itself waits for executors without a limit."""
        self._cpu_wait.restart()
        while not wait([job], POLL_S).done:
            with self._translating():
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

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except _errors() as error:
            raise _translated(error, is_heap_full=self._has_full_heap(error)) from error

    def _has_full_heap(self, error: Exception) -> bool:
        """Return whether the driver's Java process has ended because its heap was full."""
        from py4j.protocol import Py4JJavaError

        java = self._java()
        if java is None or isinstance(error, Py4JJavaError):  # which Java itself has raised
            return False
        try:
            return java.wait(_JAVA_EXITS_WITHIN_S) == _OUT_OF_MEMORY_STATUS
        except TimeoutExpired:
            return False


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


def _configured() -> dict[str, str]:
    """Return the settings of `spark-defaults.conf`, which PySpark reads after those of a program, if at all."""
    from pyspark.find_spark_home import _find_spark_home  # has no public name

    folder = os.environ.get("SPARK_CONF_DIR") or str(Path(_find_spark_home(), "conf"))
    try:
        lines = Path(folder, "spark-defaults.conf").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"spark: {folder}/spark-defaults.conf cannot be read ({error}); mend or remove it") from error
    found = (_SETTING.fullmatch(line) for line in lines)
    return {setting[1]: setting[2] for setting in found if setting}


def _set_defaults(conf: Any, master: str, n_workers: int | None) -> None:
    """Set defaults for settings that are missing in the Spark configuration."""
    values = {
        "spark.app.name": "tritone train recommender",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": f"{_heap_mb(n_workers)}m",  # parts and results of running jobs pass through it
        # Spark does not end a job whose result did not fit into memory.
        "spark.driver.extraJavaOptions": "-XX:+ExitOnOutOfMemoryError",
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


def _heap_mb(n_workers: int | None) -> int:
    """Return the largest heap of the driver's Java process in MB: by workers, at most half of the memory."""
    n = n_workers or os.cpu_count() or 1
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return max(_LEAST_HEAP_MB, min(_LEAST_HEAP_MB + _HEAP_MB_PER_WORKER * n, memory_mb // 2))


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


def _translated(error: Exception, *, is_heap_full: bool) -> EngineError:
    text = str(error)
    if is_heap_full:
        return EngineError(
            "spark: the driver's Java process ran out of memory; raise spark.driver.memory, or use fewer --workers"
        )
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
