"""Keeps a server serving: notices what is broken, says so in one line, and restarts only that.

```python
with TritonServer.start(options) as server:
    Watchdog(server, report=print).run()  # until Ctrl-C, or until it gives up
```

A model whose Python process died, stopped or hangs is loaded anew beside what is left of it, so that instances that
are well answer on. A server that ended or hangs is started again with the same ports and token. What breaks again
and again within a minute is restarted after longer and longer pauses, a model at last together with the server, and
then given up.

Ensembles have no process; they are as well as their steps, which are watched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn

from tritone_serving._exceptions import CanaryError, CrashLoopError, ServingError
from tritone_serving.calls import Calls
from tritone_serving.canary import sing
from tritone_serving.model_watch import ModelWatch, Patience
from tritone_serving.server import TritonServer
from tritone_serving.server_watch import ServerWatch
from tritone_serving.stubs import Stub, stubs_of

_STATISTICS_TIMEOUT_S = 0.5
_RELOAD_TIMEOUT_S = 20.0
_AGAIN_TIMEOUT_S = 10.0
_N_BROKEN = 3  # so many canaries may still meet what was there before
_RETIRED_IDLE_S = 3.0
_N_THREADS = 64


@dataclass(frozen=True)
class Limits:
    """When to give up.

    Attributes:
        n_model_repairs: so often a model alone is loaded anew, then the server is restarted.
        n_server_restarts: so often the server is restarted, then no more.
        window_s: what counts: the repairs within so many seconds.
        pause_s: before the second repair; each further pause is twice as long. The first comes at once.
    """

    n_model_repairs: int = 3
    n_server_restarts: int = 4
    window_s: float = 60.0
    pause_s: float = 0.5


@dataclass
class _Repairs:
    """When something was repaired lately."""

    times: deque[float] = field(default_factory=deque)

    def begin(self, n_most: int, limits: Limits) -> float | None:
        """Note one more; answers how long to pause before it, None if it would be one too many."""
        now_s = time.monotonic()
        while self.times and now_s - self.times[0] > limits.window_s:
            self.times.popleft()
        if len(self.times) >= n_most:
            return None
        pause_s = limits.pause_s * 2 ** (len(self.times) - 1) if self.times else 0.0
        self.times.append(now_s)
        return pause_s


class Watchdog:
    """Watches one server, and whichever takes its place."""

    def __init__(
        self,
        server: TritonServer,
        *,
        report: Callable[[str], None],
        patience: Patience | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.server = server
        self._report = report
        self._patience = patience or Patience()
        self._limits = limits or Limits()
        self._repairs: dict[str, _Repairs] = {}
        self._restarts = _Repairs()
        self._pool = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="watchdog")
        self._watch_anew()

    def run(self) -> NoReturn:
        """Watch until an exception ends it; then the server is stopped.

        Raises:
            CrashLoopError: it gave up.
        """
        try:
            while True:
                try:
                    self._look()
                except _ServerBrokenError as broken:
                    self._restart(str(broken))
                time.sleep(self._patience.look_s)
        finally:
            self._calls.close()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self.server.stop()

    def _watch_anew(self) -> None:
        self._calls = Calls(self.server.own_endpoint())
        self._server_watch = ServerWatch(self.server, self._pool)
        self._models: dict[str, ModelWatch] = {}
        self._mending: dict[str, Future[None]] = {}
        self._retired: dict[int, tuple[int, float]] = {}  # pid -> ticks when last seen to compute, and when

    def _look(self) -> None:
        why = self._server_watch.look()
        if why is not None:
            raise _ServerBrokenError(why)
        stubs = stubs_of(self.server.pid)
        self._end_retired(stubs)
        try:
            n_runs = self._calls.models(timeout_s=_STATISTICS_TIMEOUT_S)
        except CanaryError:
            return  # whether it is gone is the server watch's business
        for model in self._models.keys() - n_runs.keys():  # unloaded by somebody, or loaded anew just now
            if model not in self._mending:
                del self._models[model]
        for model, n in n_runs.items():
            if not self._is_mending(model):
                own = [stub for stub in stubs if stub.model == model and stub.pid not in self._retired]
                self._look_at(model, own, n)

    def _look_at(self, model: str, stubs: Sequence[Stub], n_runs: int) -> None:
        watch = self._models.get(model)
        if watch is None:
            try:
                config = self._calls.config(model, timeout_s=_STATISTICS_TIMEOUT_S)
            except CanaryError:
                return
            if config.platform == "ensemble":
                return
            watch = self._models[model] = ModelWatch(model, config, self._calls, self._pool, self._patience)
        why = watch.look(stubs, n_runs)
        if why is None or self._was_changed(watch):
            return
        pause_s = self._repairs.setdefault(model, _Repairs()).begin(self._limits.n_model_repairs, self._limits)
        if pause_s is None:
            raise _ServerBrokenError(f"{model}: {why}, again after it was loaded anew")
        self._report(f"{model}: {why}; loading it anew" + (f" in {pause_s:.1f} s" if pause_s else ""))
        self._mending[model] = self._pool.submit(self._mend, model, why, stubs, pause_s)

    def _was_changed(self, watch: ModelWatch) -> bool:
        """Whether somebody loaded another configuration of a model, so that it has to be judged anew."""
        with contextlib.suppress(CanaryError):
            if self._calls.config(watch.model, timeout_s=_STATISTICS_TIMEOUT_S) != watch.config:
                del self._models[watch.model]
                return True
        return False

    def _mend(self, model: str, why: str, stubs: Sequence[Stub], pause_s: float) -> None:
        """Load a model anew, in a thread of its own; raises if it does not answer after that."""
        begun_s = time.monotonic()
        # What is stopped or hangs would never end; what is merely the last of several answers on meanwhile.
        hangs = why.startswith("no answer")
        for stub in stubs:
            if hangs or stub.stopped:
                _kill(stub.pid)
        time.sleep(pause_s)
        self.server.reload_model(model, timeout_s=_RELOAD_TIMEOUT_S)
        self._retired.update({stub.pid: (stub.cpu_ticks, time.monotonic()) for stub in stubs})
        config = self._calls.config(model, timeout_s=_STATISTICS_TIMEOUT_S)
        deadline_s = time.monotonic() + _AGAIN_TIMEOUT_S
        n_broken = 0
        while True:
            try:
                sing(self._calls, model, config, timeout_s=_AGAIN_TIMEOUT_S)
                break
            except CanaryError as error:
                if error.failure in ("refused", "busy"):
                    break
                n_broken += error.failure == "broken"
                if n_broken == _N_BROKEN or time.monotonic() > deadline_s:
                    raise
                time.sleep(self._patience.look_s)
        self._report(f"{model}: serving again after {time.monotonic() - begun_s:.1f} s")

    def _is_mending(self, model: str) -> bool:
        mending = self._mending.get(model)
        if mending is None:
            return False
        if not mending.done():
            return True
        del self._mending[model]
        self._models.pop(model, None)  # judged afresh
        error = mending.exception()
        if error is not None:
            raise _ServerBrokenError(f"{model} could not be loaded anew: {' '.join(str(error).split())}")
        return False

    def _restart(self, why: str) -> None:
        begun_s = time.monotonic()
        while True:
            pause_s = self._restarts.begin(self._limits.n_server_restarts, self._limits)
            if pause_s is None:
                raise CrashLoopError(
                    f"gave up: restarted {self._limits.n_server_restarts} times within {self._limits.window_s:.0f} s, "
                    f"and broke each time; the last time: {why}; the logs are {self.server.log_path} and, of the "
                    f"server before, {self.server.log_path}.1",
                    last=why,
                )
            self._report(f"{why}; restarting the server" + (f" in {pause_s:.1f} s" if pause_s else ""))
            self._calls.close()
            self.server.kill()
            time.sleep(pause_s)
            try:
                self.server = self.server.start_again()
            except ServingError as error:
                why = " ".join(str(error).split())
                continue
            self._watch_anew()
            models = ", ".join(self.server.models)
            self._report(f"the server serves again after {time.monotonic() - begun_s:.1f} s: {models}")
            return

    def _end_retired(self, stubs: Sequence[Stub]) -> None:
        """End processes that a newer one replaced: where one instance died Triton forgets to end the others.

        One that still computes finishes what it was asked; nothing new comes to it.
        """
        now_s = time.monotonic()
        live = {stub.pid: stub for stub in stubs}
        for pid, (ticks, since_s) in list(self._retired.items()):
            stub = live.get(pid)
            if stub is None:
                del self._retired[pid]
            elif stub.running or stub.cpu_ticks > ticks + 2:
                self._retired[pid] = (stub.cpu_ticks, now_s)
            elif now_s - since_s > _RETIRED_IDLE_S:
                _kill(pid)


class _ServerBrokenError(Exception):
    """The server as a whole has to be restarted; the text says why."""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
