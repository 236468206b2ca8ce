"""The engine `ray`: tasks on a Ray cluster, or on one that is started on this computer for the fit.

Ray schedules the tasks and repeats those whose worker is lost. Shared values are in its object store, which the workers
of a computer map into their memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.cpu_wait import POLL_S, CpuWait
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task

MOST_RETRIES: Final = 3  # of a task whose worker or node is lost
# The head starts a process for each client. It forks while other threads use gRPC, and the child sometimes ends before
# it has begun (Ray 2.60); the next one usually starts.
_CLIENT_ATTEMPTS: Final = 3
_CLIENT_NOT_STARTED: Final = "Starting Ray client server failed"


class RayEngine(Engine):
    """Runs tasks on Ray.

    Args:
        n_workers: tasks at the same time; None for the CPUs that the cluster has when the engine is opened.
        address: `HOST:PORT`, `ray://HOST:PORT` or `auto` of a running cluster; None for the connection that is open,
            else starts one on this computer.
        progress: whether waiting for a free CPU is reported on stderr.

    Raises:
        EngineError: Ray cannot be started, the cluster does not respond or has no free CPU, another one is connected,
            or its workers cannot import Tritone.
    """

    name: ClassVar[str] = "ray"

    def __init__(self, n_workers: int | None = None, address: str | None = None, *, progress: bool = False) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disable Ray's usage statistics
        import grpc
        import ray

        self._ray = ray
        self._connection_errors = (ConnectionError, grpc.RpcError)  # of Ray's client, which `ray://` uses
        self._cpu_wait = CpuWait("Ray", progress=progress)
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            self._connect(n_workers, address)
        elif address not in (None, "auto"):
            self._require_connected(str(address))
        try:
            with self._translating():
                self._run = ray.remote(run_task).options(num_cpus=1, max_retries=MOST_RETRIES)
                self._run_first_task()
                super().__init__(n_workers or max(1, self._n_cpus()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._is_ours:
            self._is_ours = False
            with suppress(*self._errors()):  # the connection may be lost
                self._ray.shutdown()

    def _connect(self, n_workers: int | None, address: str | None) -> None:
        where: dict[str, Any] = {"address": address}
        if address is None:
            where = {"address": "local", "num_cpus": n_workers, "include_dashboard": False}
        try:
            self._init(where)
        except Exception as error:
            at = "on this computer" if address is None else f"at {address}"
            raise EngineError(
                f"ray: cannot be used {at} ({_reason(error)}); check --engine-address and that the cluster runs"
            ) from error

    def _init(self, where: dict[str, Any]) -> None:
        for attempt in range(1, _CLIENT_ATTEMPTS + 1):
            try:
                self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
            except ConnectionError as error:
                if attempt == _CLIENT_ATTEMPTS or _CLIENT_NOT_STARTED not in str(error):
                    raise
                self._ray.shutdown()
            else:
                return

    def _require_connected(self, address: str) -> None:
        """Check that an address is that of the connection that is open."""
        from ray.util.client import ray as client

        with self._translating():
            connected = [self._ray.get_runtime_context().gcs_address]
            if client.is_connected():
                worker = client.get_context().client_worker
                connected.append(f"ray://{getattr(worker, '_conn_str', None)}")  # has no public name
        if address not in connected:
            raise EngineError(
                f"--engine-address: expected the Ray cluster that is connected ({' or '.join(connected)}), got "
                f"{address}; leave the option out to use that cluster, or call ray.shutdown() first"
            )

    def _run_first_task(self) -> None:
        """Wait for a free CPU, and check that a worker can run tasks.

        A cluster may start without workers, or other jobs may use them: Ray itself waits without a limit.
        """
        first = self._run.remote(_do_nothing, None)
        try:
            while not self._ray.wait([first], timeout=POLL_S, fetch_local=False)[0]:
                self._cpu_wait.check(self._cpus())
        except EngineError:
            self._ray.cancel(first)
            raise
        self._ray.get(first)

    def _publish(self, value: Any) -> Any:
        self.use.broadcast_bytes += pickled_bytes(value)
        with self._translating():
            return self._ray.put(value)

    def _withdraw(self, reference: Any) -> None:
        pass  # Ray frees a value when the last reference to it is gone

    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        n_started = 0
        running: dict[Any, int] = {}
        finished: dict[int, Any] = {}
        try:
            for index in range(len(parts)):
                while index not in finished:
                    while n_started < len(parts) and len(running) < self.n_workers:
                        part = parts[n_started]
                        self.use.sent_bytes += pickled_bytes(part)
                        with self._translating():
                            running[self._run.remote(task, part, *references)] = n_started
                        n_started += 1
                    done = self._next_done(list(running))
                    finished[running.pop(done)] = done
                result = self._fetched(finished.pop(index))
                self.use.gathered_bytes += pickled_bytes(result)
                yield result
        finally:
            with suppress(*self._errors()):
                if running and self._ray.is_initialized():  # without a connection, ray.cancel() would start a Ray
                    for each in running:
                        self._ray.cancel(each)

    def _next_done(self, running: list[Any]) -> Any:
        """Return the reference of a task that has finished."""
        self._cpu_wait.restart()
        while True:
            with self._translating():
                done, _ = self._ray.wait(running, num_returns=1, timeout=POLL_S, fetch_local=False)
            if done:
                return done[0]
            self._check_cpus()

    def _fetched(self, reference: Any) -> Any:
        """Return the result of a task; Ray computes it again if it was lost with its node."""
        self._cpu_wait.restart()
        while True:
            with self._translating():
                try:
                    return self._ray.get(reference, timeout=POLL_S)
                except self._ray.exceptions.GetTimeoutError:
                    pass
            self._check_cpus()

    def _check_cpus(self) -> None:
        """Report that the cluster has lost all its CPUs; as long as it has one, a task may be running."""
        with self._translating():
            if self._n_cpus() == 0:
                self._cpu_wait.check(self._cpus())
            else:
                self._cpu_wait.restart()

    def _n_cpus(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _cpus(self) -> str:
        free = self._ray.available_resources().get("CPU", 0)
        return f"{self._n_cpus()} CPUs, {free:g} of them free"

    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._ray.exceptions.RayError, *self._connection_errors)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except self._errors() as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> EngineError:
        errors = self._ray.exceptions
        if isinstance(error, errors.OutOfMemoryError):
            return EngineError(
                "ray: a worker was ended because its computer ran out of memory; use fewer --workers, or computers "
                "with more memory"
            )
        if isinstance(error, errors.ObjectStoreFullError | errors.OutOfDiskError):
            return EngineError(
                f"ray: the object store is full ({_reason(error)}); start the cluster with a larger "
                f"--object-store-memory, or free the disk that it spills to"
            )
        if isinstance(error, errors.WorkerCrashedError | errors.NodeDiedError | errors.ObjectLostError):
            return EngineError(
                f"ray: a task lost its worker {MOST_RETRIES + 1} times ({_reason(error)}); look into the logs of "
                f"the cluster, then start again with --resume"
            )
        if isinstance(error, errors.RayTaskError):  # not of the task itself, whose errors are results
            return EngineError(
                f"ray: a worker cannot run tasks ({str(error).strip().splitlines()[-1]}); it needs tritone[train,ray] "
                f"in the same versions of Python and Tritone as this computer"
            )
        if isinstance(error, self._connection_errors):
            return EngineError(
                f"ray: the connection to the cluster is lost ({_reason(error)}); check that its head runs, then "
                f"start again with --resume"
            )
        return EngineError(f"ray: the fit failed ({_reason(error)}); start again with --resume")


def _do_nothing(part: None) -> None:
    """Task of which only the start is of interest."""


def _reason(error: Exception) -> str:
    """Return the line of an error that names the cause: the last one of a traceback from another process."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if any(line.startswith("Traceback") for line in lines) else 0]
