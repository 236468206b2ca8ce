"""Pool of worker processes; a worker that hangs or crashes is replaced, and its job is reported as failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final

from tritone_training.exceptions import DataError

Job = dict[str, Any]
Answer = dict[str, Any]

JOB_TIMEOUT_S: Final = 60.0  # the slowest piece of the corpus takes about a second
_COMMAND: Final = (sys.executable, "-m", "tritone_training.catalogue.worker")


class WorkerPool:
    """A context manager with one worker process for each core."""

    def __init__(
        self,
        *,
        n_workers: int | None = None,
        timeout_s: float = JOB_TIMEOUT_S,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._n_workers = n_workers or min(8, len(os.sched_getaffinity(0)))
        self._timeout_s = timeout_s
        self._command = command
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._closed = False
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(self._n_workers, thread_name_prefix="catalogue")

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for worker in self._all:  # a thread that waits for a response gets the end of the pipe
                worker.stop()
        self._threads.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Answer]]:
        """Yield jobs with their results, in the order of completion."""
        futures: dict[Future[Answer], Job] = {self._threads.submit(self._answer, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _answer(self, job: Job) -> Answer:
        with self._borrowed() as worker:
            return worker.answer(job, self._timeout_s)

    @contextmanager
    def _borrowed(self) -> Iterator[_Worker]:
        with self._lock:
            if self._closed:
                raise DataError("the catalogue's workers were stopped before they had read everything")
            if self._idle:
                worker = self._idle.pop()
            else:
                worker = _Worker(self._command)
                self._all.append(worker)
        try:
            yield worker
        finally:
            with self._lock:
                if worker.alive:
                    self._idle.append(worker)
                else:
                    worker.stop()
                    self._all.remove(worker)


class _Worker:
    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("Popen was asked for pipes and gave none")
        self._pipes = (self._process.stdin, self._process.stdout)
        self.alive = True

    def answer(self, job: Job, timeout_s: float) -> Answer:
        stdin, stdout = self._pipes
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            stdin.write(json.dumps(job) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (OSError, ValueError):  # a pipe without a reader, or closed by `stop`
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            answer: Answer = json.loads(line)
            return answer
        self.alive = False
        if late.is_set():
            return {"reason": "timed_out", "detail": f"was not read within {timeout_s:g} s"}
        return {"reason": "worker_died", "detail": "the process that read it ended without an answer"}

    def stop(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes:
            with suppress(OSError):  # buffered data can no longer be written
                pipe.close()
