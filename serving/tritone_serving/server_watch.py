"""Is the server's own process well?"""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future
from typing import Final

from tritone_serving.server import TritonServer
from tritone_serving.stubs import cpu_ticks, is_stopped

LIVE_EVERY_S: Final = 0.5
LIVE_TIMEOUT_S: Final = 1.0
BUSY_PATIENCE_S: Final = 10.0  # a server that computes but does not answer is overloaded before it is hung
STOPPED_PATIENCE_S: Final = 0.3
_IDLE_TICKS: Final = 5


class ServerWatch:
    """Watches whether the server's process is there, gets the processor and answers; `look` never waits."""

    def __init__(self, server: TritonServer, pool: Executor) -> None:
        self._server = server
        self._pool = pool
        self._asked: Future[bool] | None = None
        self._asked_s = 0.0
        self._next_s = 0.0
        self._silent_since: float | None = None
        self._stopped_since: float | None = None
        self._ticks = 0

    def look(self) -> str | None:
        """Look once; answers what is wrong, None if nothing is."""
        exit_code = self._server.wait(0)
        if exit_code is not None:
            how = f"killed by signal {exit_code - 128}" if exit_code > 128 else f"exit code {exit_code}"
            return f"the server ended by itself ({how})"
        now_s = time.monotonic()
        if not is_stopped(self._server.pid):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now_s
        elif now_s - self._stopped_since > STOPPED_PATIENCE_S:
            return "the server's process is stopped"
        return self._silent(now_s)

    def _silent(self, now_s: float) -> str | None:
        if self._asked is None:
            if now_s >= self._next_s:
                self._asked_s, self._next_s = now_s, now_s + LIVE_EVERY_S
                self._ticks = cpu_ticks([self._server.pid])
                self._asked = self._pool.submit(self._server.is_live, timeout_s=LIVE_TIMEOUT_S)
            return None
        if not self._asked.done():
            return None
        lives, self._asked = self._asked.result(), None
        if lives:
            self._silent_since = None
            return None
        self._silent_since = self._silent_since or self._asked_s
        is_busy = cpu_ticks([self._server.pid]) - self._ticks > _IDLE_TICKS
        silent_s = now_s - self._silent_since
        # Refused at once: it is ending, and its exit code says more; or it never answers again.
        if silent_s < (BUSY_PATIENCE_S if is_busy else LIVE_TIMEOUT_S):
            return None
        return f"the server has not answered for {silent_s:.1f} s"
