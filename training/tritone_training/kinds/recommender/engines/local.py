"""The engine `local`: tasks in this process, or in a pool of processes of this computer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, ClassVar, Final

from tritone_training.exceptions import EngineError
from tritone_training.kinds.recommender.engines.base import Engine
from tritone_training.kinds.recommender.engines.tasks import TaskResult, pickled_bytes, run_task


class LocalEngine(Engine):
    """Runs tasks in this process with one worker, else in joblib's pool, which maps large arrays from shared memory."""

    name: ClassVar[str] = "local"

    def __init__(self, n_workers: int = 1) -> None:
        super().__init__(n_workers)
        self._has_pool = False

    def close(self) -> None:
        if self._has_pool:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)
            self._has_pool = False

    def _publish(self, value: Any) -> Any:
        if self.n_workers > 1:
            self.use.broadcast_bytes += pickled_bytes(value)
        return value

    def _withdraw(self, reference: Any) -> None:
        pass

    def _results(
        self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]
    ) -> Generator[TaskResult[Any]]:
        if self.n_workers == 1:
            for part in parts:
                yield run_task(task, part, *references)
            return
        from joblib import Parallel
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        self._has_pool = True
        # loky replaces a worker that has grown by 300 MB, as one does that loads PyTorch, and warns in a thread of its
        # own; where warnings are errors, that thread would end and the pool never answer.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
        pool = Parallel(self.n_workers, return_as="generator", batch_size=1, backend="loky")
        results = pool(self._calls(task, parts, references))
        try:
            for result in results:
                self.use.gathered_bytes += pickled_bytes(result)
                yield result
        except TerminatedWorkerError as error:
            raise EngineError(
                "local: a worker process ended before its task was finished, perhaps because the computer ran out of "
                "memory; start again with --resume and fewer --workers"
            ) from error
        finally:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*tasks", category=UserWarning)  # that were not waited for
                results.close()

    def _calls(self, task: Callable[..., Any], parts: Sequence[Any], references: Sequence[Any]) -> Iterator[Any]:
        from joblib import delayed

        for part in parts:
            self.use.sent_bytes += pickled_bytes(part)
            yield delayed(run_task)(task, part, *references)


IN_PROCESS: Final = LocalEngine()
