"""Is one model of a running server well? Judged from its processes, its traffic, and canaries when there is none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final

from tritone_serving._exceptions import CanaryError
from tritone_serving.calls import Calls
from tritone_serving.canary import sing
from tritone_serving.stubs import Stub

TICKS_PER_S: Final = 100
IDLE_SHARE: Final = 0.05  # of a processor: a stub that waits uses less, one that computes much more


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        look_s: between two looks at all processes.
        canary_s: between the canaries of a model without traffic.
        silent_s: for an answer, while the model does nothing.
        busy_s: for an answer, while it computes: a long piece before it in the queue is no fault.
        short_s: for a stub that is missing; between two looks a process may be replaced by another.
    """

    look_s: float = 0.2
    canary_s: float = 0.5
    silent_s: float = 0.8
    busy_s: float = 60.0
    short_s: float = 0.3


class ModelWatch:
    """Watches one model; `look` is called again and again."""

    def __init__(self, model: str, config: Any, calls: Calls, pool: Executor, patience: Patience) -> None:
        self.model = model
        self.config = config
        self._calls = calls
        self._pool = pool
        self._patience = patience
        self._n_expected = 0
        self._short_since: float | None = None
        self._n_runs = -1
        self._answered_s = self._next_s = time.monotonic()
        self._canary: Future[Any] | None = None
        self._sent_s = 0.0
        self._ticks = 0
        self._ticks_s = 0.0

    def look(self, stubs: Sequence[Stub], n_runs: int) -> str | None:
        """Look once.

        Args:
            stubs: the model's processes; none for a native backend.
            n_runs: how many runs it finished so far.

        Returns:
            what is wrong; None if nothing is, as far as can be seen.
        """
        now_s = time.monotonic()
        if n_runs != self._n_runs:  # traffic is proof enough
            self._n_runs, self._answered_s = n_runs, now_s
            self._next_s = max(self._next_s, now_s + self._patience.canary_s)
        return self._missing(stubs, now_s) or self._unanswered(stubs, now_s)

    def _missing(self, stubs: Sequence[Stub], now_s: float) -> str | None:
        n_stopped = sum(stub.stopped for stub in stubs)
        n_live = len(stubs) - n_stopped
        if stubs:  # a model of a native backend has none, and none are missed
            self._n_expected = sum(group.count for group in self.config.instance_group) or 1
        if n_live >= self._n_expected:
            self._short_since = None
            return None
        self._short_since = now_s if self._short_since is None else self._short_since
        if now_s - self._short_since < self._patience.short_s:
            return None
        n_gone = self._n_expected - n_live - n_stopped
        said = [f"{n} {word}" for n, word in ((n_gone, "dead"), (n_stopped, "stopped")) if n > 0]
        return f"of {self._n_expected} Python processes {' and '.join(said)}"

    def _unanswered(self, stubs: Sequence[Stub], now_s: float) -> str | None:
        canary = self._canary
        if canary is None:
            if now_s >= self._next_s:
                self._sent_s, self._ticks, self._ticks_s = now_s, _ticks(stubs), now_s
                self._canary = self._pool.submit(
                    sing, self._calls, self.model, self.config, timeout_s=self._patience.busy_s
                )
            return None
        if canary.done():
            self._canary = None
            self._next_s = now_s + self._patience.canary_s
            error = canary.exception()
            if isinstance(error, CanaryError) and error.failure in ("broken", "silent"):
                return str(error).removeprefix(f"{self.model}: ")
            self._answered_s = now_s  # a refusal is an answer too; a server that is gone is seen elsewhere
            return None
        waited_s = now_s - max(self._sent_s, self._answered_s)
        passed_s = now_s - max(self._ticks_s, self._answered_s)
        if passed_s < self._patience.silent_s:
            return None
        is_busy = any(stub.running for stub in stubs) or (
            _ticks(stubs) - self._ticks > IDLE_SHARE * TICKS_PER_S * passed_s
        )
        if is_busy and waited_s < self._patience.busy_s:
            self._ticks, self._ticks_s = _ticks(stubs), now_s  # the next quiet period has to be a whole one
            return None
        return f"no answer for {waited_s:.1f} s" + (", though it computes" if is_busy else ", and it does nothing")


def _ticks(stubs: Sequence[Stub]) -> int:
    return sum(stub.cpu_ticks for stub in stubs)
