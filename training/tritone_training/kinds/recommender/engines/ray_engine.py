"""The engine `ray`: tasks on a Ray cluster, or on one that is started on this computer for the fit.

Ray schedules the tasks and repeats those whose worker is lost. Shared values are in its object store, which the workers
of a computer map into their memory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task

MOST_RETRIES: Final = 3  # of a task whose worker or node is lost


class RayEngine(Engine):
    """Runs tasks on Ray.

    Args:
        n_workers: tasks at the same time; None for all CPUs of the cluster.
        address: `HOST:PORT`, `ray://HOST:PORT` or `auto` of a running cluster; None for the connection that is open,
            else starts one on this computer.

    Raises:
        EngineError: Ray cannot be started, the cluster does not respond, or another one is connected.
    """

    name: ClassVar[str] = "ray"

    def __init__(self, n_workers: int | None = None, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disable Ray's usage statistics
        import ray

        self._ray = ray
        self._is_ours = not ray.is_initialized()
        if not self._is_ours and address not in (None, "auto"):
            connected = ray.get_runtime_context().gcs_address
            if address != connected:
                raise EngineError(
                    f"--engine-address: expected the Ray cluster that is connected ({connected}), got {address}; leave "
                    f"the option out to use that cluster, or call ray.shutdown() first"
                )
        if self._is_ours:
            where: dict[str, Any] = {"address": address}
            if address is None:
                where = {"address": "local", "num_cpus": n_workers, "include_dashboard": False}
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
            except Exception as error:
                at = "on this computer" if address is None else f"at {address}"
                raise EngineError(
                    f"ray: cannot be used {at} ({_first_line(error)}); check --engine-address and that the cluster runs"
                ) from error
        super().__init__(n_workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
        self._run = ray.remote(run_task).options(num_cpus=1, max_retries=MOST_RETRIES)

    def close(self) -> None:
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _publish(self, value: Any) -> Any:
        self.use.broadcast_bytes += pickled_bytes(value)
        try:
            return self._ray.put(value)
        except self._ray.exceptions.RayError as error:
            raise self._translated(error) from error

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
                        running[self._run.remote(task, part, *references)] = n_started
                        n_started += 1
                    [done], _ = self._ray.wait(list(running), num_returns=1, fetch_local=False)
                    finished[running.pop(done)] = done
                result = self._ray.get(finished.pop(index))
                self.use.gathered_bytes += pickled_bytes(result)
                yield result
        except self._ray.exceptions.RayError as error:
            raise self._translated(error) from error
        finally:
            for each in running:
                self._ray.cancel(each)

    def _translated(self, error: Exception) -> EngineError:
        errors = self._ray.exceptions
        if isinstance(error, errors.OutOfMemoryError):
            return EngineError(
                "ray: a worker was ended because its computer ran out of memory; use fewer --workers, or computers "
                "with more memory"
            )
        if isinstance(error, errors.ObjectStoreFullError | errors.OutOfDiskError):
            return EngineError(
                f"ray: the object store is full ({_first_line(error)}); start the cluster with a larger "
                f"--object-store-memory, or free the disk that it spills to"
            )
        if isinstance(error, errors.WorkerCrashedError | errors.NodeDiedError | errors.ObjectLostError):
            return EngineError(
                f"ray: a task lost its worker {MOST_RETRIES + 1} times ({_first_line(error)}); look into the logs of "
                f"the cluster, then start again with --resume"
            )
        return EngineError(f"ray: the fit failed ({_first_line(error)}); start again with --resume")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
