"""The engine `local`: tasks in this process, or in a pool of processes of this computer."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any, ClassVar, Final

import numpy as np

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.mapped_arrays import MappedArrays, copied
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task

_SENT_PER_WORKER: Final = 2  # parts that are cut and sent before the result that is returned next
_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class LocalEngine(Engine):
    """Runs tasks in this process with one worker, else in a pool of processes, which map large arrays of shared values.

    The pool is one of loky, which joblib contains. It belongs to this engine: other code of this process that uses
    joblib has another one.
    """

    name: ClassVar[str] = "local"

    def __init__(self, n_workers: int = 1) -> None:
        super().__init__(n_workers)
        self._arrays = MappedArrays()
        self._pool: Any = None

    def close(self) -> None:
        self._stop_pool()
        self._arrays.close()

    def _publish(self, value: Any) -> Any:
        if self.n_workers > 1:
            self.use.broadcast_bytes += self._arrays.add(value)
        return value

    def _withdraw(self, reference: Any) -> None:
        self._arrays.remove(reference)

    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        if self.n_workers == 1:
            for part in parts:
                yield run_task(task, part, *references)
            return
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        pool = self._started_pool()
        rest = iter(parts)
        running: deque[Any] = deque()
        try:
            while True:
                for part in islice(rest, _SENT_PER_WORKER * self.n_workers - len(running)):
                    self.use.sent_bytes += pickled_bytes(part)
                    running.append(pool.submit(run_task, task, part, *references))
                if not running:
                    return
                result = running[0].result()
                running.popleft()
                self.use.gathered_bytes += pickled_bytes(result)
                yield result
        except TerminatedWorkerError as error:
            self._stop_pool()
            raise EngineError(
                "local: a worker process ended before its task was finished, perhaps because the computer ran out of "
                "memory; start again with --resume and fewer --workers"
            ) from error
        finally:
            if running:  # not all results are wanted, or one failed: do not wait for the tasks that run
                self._stop_pool()

    def _stop_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None

    def _started_pool(self) -> Any:
        if self._pool is None:
            from joblib.externals.loky import ProcessPoolExecutor

            # loky replaces a worker that has grown by 300 MB, as one does that loads PyTorch, and warns in a thread of
            # its own; where warnings are errors, that thread would end and the pool never answer.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
            self._pool = ProcessPoolExecutor(
                self.n_workers,
                env=_ONE_THREAD,
                job_reducers=dict.fromkeys((np.ndarray, np.memmap), self._arrays.reduce),
                result_reducers={np.memmap: copied},  # a file may be deleted before its result is read
            )
        return self._pool


IN_PROCESS: Final = LocalEngine()
