"""Interface of the execution engines: broadcast values, and an ordered parallel map over parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.tasks import TaskResult, peak_bytes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Shared(Generic[T]):
    """A value that all tasks read; `reference` is the handle of the value in the engine."""

    reference: Any


@dataclass
class EngineUse:
    """What the tasks of an engine used.

    Attributes:
        n_tasks: finished tasks.
        cpu_s: their CPU time.
        broadcast_bytes: shared values, each counted once, however many workers fetch it.
        sent_bytes: parts sent to workers.
        gathered_bytes: results sent back.
        peaks: worker (host and process) -> its largest resident memory in bytes.
    """

    n_tasks: int = 0
    cpu_s: float = 0.0
    broadcast_bytes: int = 0
    sent_bytes: int = 0
    gathered_bytes: int = 0
    peaks: dict[str, int] = field(default_factory=dict)

    def add(self, result: TaskResult[Any]) -> None:
        """Count a finished task."""
        self.n_tasks += 1
        self.cpu_s += result.cpu_s
        self.peaks[result.worker] = max(self.peaks.get(result.worker, 0), result.peak_bytes)


class Engine(ABC):
    """Runs tasks over parts; to be closed after use.

    Tasks are functions `task(part, *shared values)` of a module that workers can import. Parts and shared values are
    read-only: their arrays may be mapped from the memory of another process. Parts are cut one after the other in
    their order, in the thread of the caller or in one that the engine starts.

    Attributes:
        name: as for `--engine`.
        n_workers: processes that run tasks at the same time.
        use: what the tasks used so far.
    """

    name: ClassVar[str]

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.use = EngineUse()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def share(self, value: T) -> Iterator[Shared[T]]:
        """Make a value available to tasks while the block runs."""
        shared: Shared[T] = Shared(self._publish(value))
        try:
            yield shared
        finally:
            self._withdraw(shared.reference)

    def map(self, task: Callable[..., R], parts: Sequence[Any], *shared: Shared[Any]) -> Generator[R]:
        """Run a task on each part and yield the results in the order of the parts.

        Raises:
            EngineError: workers were lost more often than the engine tries, or ran out of memory.
            Exception: what a task raised.
        """
        with closing(self._results(task, parts, [each.reference for each in shared])) as results:
            for result in results:
                self.use.add(result)
                if isinstance(result.error, MemoryError):
                    raise EngineError(
                        f"{self.name}: a worker ran out of memory; use fewer --workers, or computers with more memory"
                    ) from result.error
                if result.error is not None:
                    raise result.error
                yield result.value

    def describe(self) -> dict[str, Any]:
        """Return what the engine was and used, for checkpoint.json; memory and transport in MB."""
        use = self.use
        return {
            "name": self.name,
            "workers": self.n_workers,
            "n_tasks": use.n_tasks,
            "tasks_cpu_s": round(use.cpu_s, 1),
            "broadcast_mb": _mb(use.broadcast_bytes),
            "sent_mb": _mb(use.sent_bytes),
            "gathered_mb": _mb(use.gathered_bytes),
            "driver_peak_mb": round(_mb(peak_bytes())),
            "worker_peak_mb": round(_mb(max(use.peaks.values(), default=0))),
            "n_worker_processes": len(use.peaks),
        }

    @abstractmethod
    def close(self) -> None:
        """Stop what the engine started; running tasks are cancelled."""

    @abstractmethod
    def _publish(self, value: Any) -> Any:
        """Return a reference to a value for tasks."""

    @abstractmethod
    def _withdraw(self, reference: Any) -> None:
        """Free a published value."""

    @abstractmethod
    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        """Yield the results of `run_task` for each part, in their order; closed if not all are wanted."""


def _mb(n_bytes: int) -> float:
    return round(n_bytes / 2**20, 1)
