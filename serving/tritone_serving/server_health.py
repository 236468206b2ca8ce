"""Health of the server's own process: whether it runs, is not stopped, and answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final

from tritone_serving.cpu_pressure import CpuTimes, cpu_times
from tritone_serving.server import TritonServer
from tritone_serving.stubs import is_stopped
from tritone_serving.supervision import Problem, SupervisionOptions

LIVE_EVERY_S: Final = 1.0
STOPPED_S: Final = 0.3
ACTIVE_SHARE: Final = 0.05


class ServerHealth:
    """Watches the server's process; `look` is called periodically and never blocks."""

    def __init__(
        self,
        server: TritonServer,
        pool: Executor,
        options: SupervisionOptions,
        *,
        answers_grpc: Callable[[float], bool],
    ) -> None:
        """Begin to watch.

        Args:
            answers_grpc: returns whether the server's gRPC port answers within a timeout in seconds. The server counts
                as silent only if neither protocol answers, since connections may exhaust one of them.
        """
        self._server = server
        self._pool = pool
        self._options = options
        self._answers_grpc = answers_grpc
        self._asked: Future[bool] | None = None
        self._asked_s = 0.0
        self._next_s = 0.0
        self._silent_since_s: float | None = None
        self._stopped_since_s: float | None = None
        self._times = CpuTimes()
        self._times_s = 0.0

    def look(self, *, patience: float) -> Problem | None:
        """Check the process once.

        Args:
            patience: factor for time limits, from the pressure on the machine's CPUs.

        Returns:
            The detected problem, if any.
        """
        exit_code = self._server.wait(0)
        if exit_code is not None:
            how = f"killed by signal {exit_code - 128}" if exit_code > 128 else f"exit code {exit_code}"
            return Problem("ended", f"the server ended by itself ({how})")
        now_s = time.monotonic()
        if not is_stopped(self._server.pid):
            self._stopped_since_s = None
        elif self._stopped_since_s is None:
            self._stopped_since_s = now_s
        elif now_s - self._stopped_since_s > STOPPED_S:
            return Problem("stopped", "the server's process is stopped")
        return self._silent(now_s, patience)

    def _silent(self, now_s: float, patience: float) -> Problem | None:
        if self._asked is None:
            if now_s >= self._next_s:
                self._asked_s, self._next_s = now_s, now_s + LIVE_EVERY_S
                self._asked = self._pool.submit(self._is_live, self._options.live_s * patience)
            return None
        if not self._asked.done():
            self._sample(now_s)
            return None
        lives, self._asked = self._asked.result(), None
        if lives:
            self._silent_since_s = None
            return None
        self._sample(now_s)
        if self._silent_since_s is None:
            self._silent_since_s = self._asked_s
        self._next_s = now_s
        times = cpu_times([self._server.pid]).since(self._times)
        is_busy = times.active_s > ACTIVE_SHARE * max(now_s - self._times_s, 0.1)
        silent_s = now_s - self._silent_since_s
        # Do not act on the first failure: a refused connection may mean that the server is ending by itself.
        limit_s = self._options.live_busy_s * times.slowdown if is_busy else self._options.live_s * patience
        if silent_s < limit_s:
            return None
        state = "is busy" if is_busy else "is idle"
        return Problem("hung", f"the server has not answered for {silent_s:.1f} s, and its process {state}")

    def _sample(self, now_s: float) -> None:
        """Store the server's CPU times when a check is first found unanswered."""
        if self._times_s < self._asked_s and self._silent_since_s is None:
            self._times, self._times_s = cpu_times([self._server.pid]), now_s

    def _is_live(self, timeout_s: float) -> bool:
        return self._server.is_live(timeout_s=timeout_s) or self._answers_grpc(timeout_s)
