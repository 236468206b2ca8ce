"""Supervise a server: detect failures of the process and of models, report and repair them.

```python
with TritonServer.start(options) as server:
    Watchdog(server, report=lambda level, line: print(line)).run()  # until Ctrl-C, or until it gives up
```

A model whose Python process died, was stopped or hangs is reloaded while its healthy instances continue to serve. A
server that ended or hangs is restarted with the same ports and token. Reloads of a model that still fails are repeated
with increasing pauses; the server is only restarted if no model responds. A server that starts and ends again is
restarted without a limit, since a single request may have ended it. The supervisor gives up when the server fails to
start several times in a row.

Ensembles have no processes; their steps are checked instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from tritone_serving._exceptions import AdminApiError, CanaryError, CrashLoopError, ServingError
from tritone_serving.calls import Calls
from tritone_serving.canary import run_canary
from tritone_serving.server.runtime_folder import shared_memory_bytes
from tritone_serving.server.triton_server import TritonServer
from tritone_serving.supervision.cpu_pressure import CpuPressure, CpuTimes, cpu_times
from tritone_serving.supervision.health import ModelHealth, ServerHealth
from tritone_serving.supervision.metrics import SupervisorMetrics
from tritone_serving.supervision.options import Backoff, HealthProblem, Level, SupervisionOptions
from tritone_serving.supervision.processes import (
    Stub,
    StubScanner,
    anonymous_bytes,
    is_alive,
    is_stopped,
    memory_limit_bytes,
)

_STATISTICS_TIMEOUT_S: Final = 1.0
# While a check is unanswered: a model whose number of runs grows is not hung.
_STATISTICS_EVERY_S: Final = 1.0
_IDLE_STATISTICS_EVERY_S: Final = 5.0
_PRESSURE_EVERY_S: Final = 1.0
_PATIENCE_DECAY: Final = 0.77  # each second; pressure comes in bursts
_RETIRED_IDLE_S: Final = 3.0
_N_THREADS: Final = 64
_HANG_TOGETHER_S: Final = 5.0
_N_HANG_TOGETHER: Final = 3
_LONG_RELOAD_S: Final = 5.0
_MEMORY_SHARE: Final = 0.8
_N_MEMORY_LOOKS: Final = 3
_FIRST_RETRY_S: Final = 30.0  # of a model that did not load at the start
_LONGEST_RETRY_S: Final = 300.0


@dataclass
class _Retired:
    """A replaced process: its CPU times when it was last active, and the time of that."""

    times: CpuTimes
    since_s: float


@dataclass
class _Failed:
    """A model that does not load or answer: the time of the next attempt, the pause after it, and the reason.

    A model that has not loaded since the start does not make the server unready.
    """

    retry_s: float
    pause_s: float
    why: str
    since_start: bool = False


class Watchdog:
    """Supervises one server and its replacements."""

    def __init__(
        self,
        server: TritonServer,
        *,
        report: Callable[[Level, str], None],
        options: SupervisionOptions | None = None,
        metrics: SupervisorMetrics | None = None,
    ) -> None:
        self.server = server
        self._report = report
        self._options = options or SupervisionOptions()
        self._metrics = metrics or SupervisorMetrics()
        self._memory_limit = self._options.max_memory_bytes or int(_MEMORY_SHARE * memory_limit_bytes())
        self._pressure = CpuPressure()
        self._pressure_s = 0.0
        self._patience = 1.0
        self._reload_pauses: dict[str, Backoff] = {}
        self._restart_pause = Backoff(self._options, self._options.longest_restart_pause_s)
        self._pool = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="watchdog")
        self._watch_server()

    def run(self) -> NoReturn:
        """Supervise until an exception occurs, then stop the server.

        Raises:
            CrashLoopError: the server failed to start several times in a row.
        """
        try:
            while True:
                try:
                    self._look()
                except _ServerBrokenError as broken:
                    self._restart(broken.problem)
                time.sleep(self._options.look_s)
        finally:
            self._calls.close()
            self._stubs.close()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self.server.stop()

    def _watch_server(self) -> None:
        """Begin to supervise the current server."""
        self._calls = Calls(self.server.own_endpoint())
        self._server_health = ServerHealth(self.server, self._pool, self._options, answers_grpc=self._answers_grpc)
        self._stubs = StubScanner(self.server.pid)
        self._stub_pids: frozenset[int] = frozenset()
        self._statistics: Future[tuple[dict[str, int], dict[str, Any]]] | None = None
        self._asked_statistics_s = self._next_statistics_s = 0.0
        self._n_runs: dict[str, int] = {}  # by model that is loaded, as last seen
        self._models: dict[str, ModelHealth] = {}
        self._ensembles: set[str] = set()
        self._reloading: dict[str, Future[None]] = {}
        self._reload_since_s: dict[str, float] = {}
        self._hung_s: dict[str, float] = {}
        self._retired: dict[int, _Retired] = {}
        now_s = time.monotonic()
        self._failed = {
            model: _Failed(now_s + _FIRST_RETRY_S, 2 * _FIRST_RETRY_S, why, since_start=True)
            for model, why in self.server.failed_models.items()
        }
        for model in self._failed:
            self._metrics.set_healthy(model, False)
        self._next_memory_s = now_s + self._options.memory_every_s
        self._n_above_limit = 0

    def _look(self) -> None:
        patience = self._measure_patience()
        problem = self._server_health.look(patience=patience)
        if problem is not None:
            raise _ServerBrokenError(problem)
        if not is_alive(self.server.pid) or is_stopped(self.server.pid):
            return  # the next checks report it; until then, requests about its models would only delay them
        stubs = self._stubs.scan()
        self._end_retired(stubs)
        self._update_statistics(frozenset(stub.pid for stub in stubs))
        for model, health in list(self._models.items()):
            if not self._is_reloading(model):
                own = [stub for stub in stubs if stub.model == model and stub.pid not in self._retired]
                called = [stub for stub in stubs if stub.model == health.called_model]
                problem = health.look(own, self._n_runs.get(model, 0), patience=patience, called=called)
                if problem is not None and problem.reason == "hung":
                    self._raise_if_all_hang(model, problem)
                if health.has_answered:
                    self._failed.pop(model, None)
                    self._metrics.set_healthy(model, True)
                if problem is not None and not self._was_changed(health):
                    self._begin_reload(model, problem, own)
        self._look_at_memory(stubs)
        self._retry_failed()
        self._metrics.set_problems(self._current_problems())

    def _raise_if_all_hang(self, model: str, problem: HealthProblem) -> None:
        """Request a restart if most models hang at once, because then the server itself hangs."""
        now_s = time.monotonic()
        self._hung_s[model] = now_s
        hung = [each for each, since_s in self._hung_s.items() if now_s - since_s < _HANG_TOGETHER_S * self._patience]
        if len(hung) >= max(_N_HANG_TOGETHER, (len(self._models) + 1) // 2):
            raise _ServerBrokenError(HealthProblem("hung", f"{len(hung)} models hang at once; {model}: {problem.text}"))

    def _current_problems(self) -> dict[str, str]:
        """Return the problems that make the server unready: models that do not respond or whose reload takes long."""
        problems = {model: failed.why for model, failed in self._failed.items() if not failed.since_start}
        now_s = time.monotonic()
        for model in self._reloading.keys() - self._failed.keys():
            if now_s - self._reload_since_s[model] > _LONG_RELOAD_S:
                problems[model] = "it is being loaded again"
        return problems

    def _measure_patience(self) -> float:
        now_s = time.monotonic()
        passed_s = now_s - self._pressure_s
        if passed_s >= _PRESSURE_EVERY_S or self._is_awaiting_answer():
            self._pressure_s = now_s
            decayed = 1 + (self._patience - 1) * _PATIENCE_DECAY**passed_s
            self._patience = max(self._pressure.sample().patience, decayed)
            self._metrics.set_patience(self._patience)
        return self._patience

    def _is_awaiting_answer(self) -> bool:
        return any(health.is_awaiting_answer for health in self._models.values())

    # --- which models there are ----------------------------------------------------------------

    def _update_statistics(self, stub_pids: frozenset[int]) -> None:
        """Request the models and their numbers of runs in the background, and store the result when it arrives.

        Processes that begin or end mean that a model was loaded or unloaded.
        """
        now_s = time.monotonic()
        if stub_pids != self._stub_pids or self._is_awaiting_answer():
            self._next_statistics_s = min(self._next_statistics_s, self._asked_statistics_s + _STATISTICS_EVERY_S)
        self._stub_pids = stub_pids
        if self._statistics is None:
            if now_s >= self._next_statistics_s:
                self._asked_statistics_s = now_s
                self._next_statistics_s = now_s + _IDLE_STATISTICS_EVERY_S
                timeout_s = _STATISTICS_TIMEOUT_S * self._patience
                known = self._models.keys() | self._ensembles
                self._statistics = self._pool.submit(_read_models, self._calls, known, timeout_s=timeout_s)
            return
        if not self._statistics.done():
            return
        statistics, self._statistics = self._statistics, None
        if statistics.exception() is not None:
            return  # `ServerHealth` detects a lost server
        self._n_runs, configs = statistics.result()
        for model in self._models.keys() - self._n_runs.keys():  # it was unloaded, or is being loaded again
            if model not in self._reloading:
                del self._models[model]
        self._ensembles &= self._n_runs.keys()
        for model in configs.keys() - self._models.keys() - self._reloading.keys():
            self._begin_to_watch(model, configs[model])

    def _begin_to_watch(self, model: str, config: Any) -> None:
        if config.platform == "ensemble":
            self._ensembles.add(model)
            return
        self._metrics.add_model(model)
        n_processes = sum(group.count for group in config.instance_group) or 1
        self._models[model] = ModelHealth(
            model,
            config,
            calls=self._calls,
            pool=self._pool,
            options=self._options,
            health_token=self.server.health_token,
            server_pid=self.server.pid,
            on_check=self._metrics.checked,
            n_expected=n_processes if self.server.runs_processes_of(config.backend) else 0,
        )

    def _was_changed(self, health: ModelHealth) -> bool:
        """Return whether a model was unloaded or its configuration changed, so that its watch begins again."""
        try:
            is_same = self._calls.config(health.model, timeout_s=_STATISTICS_TIMEOUT_S) == health.config
        except CanaryError as error:
            is_same = error.failure != "absent"
        if not is_same:
            del self._models[health.model]
        return not is_same

    # --- repairing models ----------------------------------------------------------------------

    def _begin_reload(self, model: str, problem: HealthProblem, stubs: Sequence[Stub]) -> None:
        pauses = self._reload_pauses.setdefault(model, Backoff(self._options, self._options.longest_reload_pause_s))
        pause_s = pauses.next_pause_s(time.monotonic())
        self._report("warning", f"{model}: {problem.text}; reloading it" + (f" in {pause_s:.1f} s" if pause_s else ""))
        self._metrics.reloaded(model, problem.reason)
        self._reload_since_s[model] = time.monotonic()
        self._reloading[model] = self._pool.submit(self._reload, model, problem, stubs, pause_s, self._patience)

    def _reload(
        self, model: str, problem: HealthProblem, stubs: Sequence[Stub], pause_s: float, patience: float
    ) -> None:
        """Reload a model in a thread of the pool; raises if it does not respond afterwards."""
        begun_s = time.monotonic()
        # A stopped or hanging process never ends by itself; the others serve until they are replaced.
        for stub in stubs:
            if problem.reason == "hung" or stub.stopped:
                _kill(stub.pid)
        time.sleep(pause_s)
        if problem.reason == "not_loaded":
            self.server.load_model(model, timeout_s=self._options.reload_timeout_s * patience)
        else:
            self.server.reload_model(model, timeout_s=self._options.reload_timeout_s * patience)
        now_s = time.monotonic()
        self._retired.update({stub.pid: _Retired(cpu_times([stub.pid]), now_s) for stub in stubs})
        self._await_answer(model, deadline_s=now_s + self._options.answer_timeout_s * patience)
        self._report("info", f"{model}: answers again after {time.monotonic() - begun_s:.1f} s")

    def _await_answer(self, model: str, *, deadline_s: float) -> None:
        config = self._calls.config(model, timeout_s=_STATISTICS_TIMEOUT_S * self._patience)
        if config.platform == "ensemble":
            return
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                run_canary(self._calls, model, config, timeout_s=max(0.1, left_s))
            except CanaryError as error:
                if error.failure in ("refused", "busy"):
                    return
                if left_s <= 0:
                    raise
                time.sleep(self._options.look_s)
            else:
                return

    def _is_reloading(self, model: str) -> bool:
        reload = self._reloading.get(model)
        if reload is None:
            return False
        if not reload.done():
            return True
        del self._reloading[model]
        self._models.pop(model, None)  # its watch begins again
        error = reload.exception()
        if error is None:
            self._failed.pop(model, None)
            self._metrics.set_healthy(model, True)
        else:
            self._note_failure(model, error)
        return True

    def _note_failure(self, model: str, error: BaseException) -> None:
        before = self._failed.get(model)
        pause_s = min(_LONGEST_RETRY_S, before.pause_s if before else self._options.longest_reload_pause_s)
        text = " ".join(str(error).split())
        since_start = before is not None and before.since_start
        self._failed[model] = _Failed(time.monotonic() + pause_s, 2 * pause_s, text, since_start)
        self._metrics.reload_failed(model)
        self._report("warning", f"{model} could not be reloaded: {text}; trying again in {pause_s:.0f} s")
        if not self._models and not self._reloading and self._failed.keys() >= self._n_runs.keys():
            raise _ServerBrokenError(HealthProblem("all_models", f"no model answers; the last one: {model}: {text}"))

    def _retry_failed(self) -> None:
        """Load failed models again when their next attempt is due."""
        now_s = time.monotonic()
        for model, failed in list(self._failed.items()):
            if model in self._models:  # it was loaded by an administrator
                del self._failed[model]
            elif model not in self._reloading and now_s >= failed.retry_s:
                failed.retry_s = now_s + failed.pause_s
                self._metrics.reloaded(model, "not_loaded")
                problem = HealthProblem("not_loaded", "it is not loaded")
                self._reloading[model] = self._pool.submit(self._reload, model, problem, (), 0.0, self._patience)
        for model in list(self._reloading):
            if model not in self._models:
                self._is_reloading(model)

    def _end_retired(self, stubs: Sequence[Stub]) -> None:
        """End replaced processes: if one instance of a model died, Triton does not end the others on a reload.

        A process that still computes or waits for a CPU may finish its request; it gets no new ones.
        """
        now_s = time.monotonic()
        live = {stub.pid for stub in stubs}
        for pid, retired in list(self._retired.items()):
            if pid not in live:
                del self._retired[pid]
                continue
            times = cpu_times([pid])
            if times.since(retired.times).active_s > 0.02:
                self._retired[pid] = _Retired(times, now_s)
            elif now_s - retired.since_s > _RETIRED_IDLE_S * self._patience:
                _kill(pid)

    # --- the server as a whole -----------------------------------------------------------------

    def _look_at_memory(self, stubs: Sequence[Stub]) -> None:
        now_s = time.monotonic()
        if now_s < self._next_memory_s:
            return
        self._next_memory_s = now_s + self._options.memory_every_s
        by_model: dict[str, int] = {}
        for stub in stubs:
            by_model[stub.model] = by_model.get(stub.model, 0) + anonymous_bytes([stub.pid])
        folder = self.server.runtime_folder
        shared = shared_memory_bytes(folder) if folder is not None else 0
        total = anonymous_bytes([self.server.pid]) + sum(by_model.values()) + shared
        self._metrics.set_memory(total, self._memory_limit)
        self._n_above_limit = self._n_above_limit + 1 if total > self._memory_limit else 0
        if self._n_above_limit < _N_MEMORY_LOOKS:
            return
        self._n_above_limit = 0
        text = f"{total >> 20} MB resident; the limit is {self._memory_limit >> 20} MB"
        largest = max(by_model, key=by_model.__getitem__, default="")
        if largest in self._reloading:
            return  # its memory is freed when the reload ends
        if largest in self._models and by_model[largest] > total // 2:
            own = [stub for stub in stubs if stub.model == largest]
            self._begin_reload(largest, HealthProblem("memory", f"{text}, most of it here"), own)
        else:
            raise _ServerBrokenError(HealthProblem("memory", f"the server holds {text}"))

    def _answers_grpc(self, timeout_s: float) -> bool:
        try:
            self._calls.models(timeout_s=timeout_s)
        except CanaryError as error:
            return error.failure not in ("lost", "silent")
        return True

    def _restart(self, problem: HealthProblem) -> None:
        begun_s = time.monotonic()
        n_failed = 0
        why = problem.text
        self._metrics.restarted(problem.reason)
        while True:
            self._metrics.set_problems({"server": why})
            pause_s = self._restart_pause.next_pause_s(time.monotonic())
            self._report("warning", f"{why}; restarting the server" + (f" in {pause_s:.1f} s" if pause_s else ""))
            self._calls.close()
            self._stubs.close()
            self.server.kill()
            time.sleep(pause_s)
            try:
                self.server = self.server.start_again()
            except ServingError as error:
                n_failed += 1
                self._metrics.start_failed()
                why = " ".join(str(error).split())
                if n_failed >= self._options.n_failed_starts:
                    raise CrashLoopError(
                        f"gave up: the server failed to start {n_failed} times in a row; the last time: {why}; the "
                        f"logs are {self.server.log_path} and, of the server before, {self.server.log_path}.1",
                        last=why,
                    ) from error
                continue
            self._watch_server()
            models = ", ".join(self._loaded())
            self._report("info", f"the server answers again after {time.monotonic() - begun_s:.1f} s: {models}")
            return

    def _loaded(self) -> list[str]:
        with contextlib.suppress(AdminApiError):
            return list(self.server.models)
        return []


class _ServerBrokenError(Exception):
    """Raised internally to restart the server."""

    def __init__(self, problem: HealthProblem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def _read_models(calls: Calls, known: Collection[str], *, timeout_s: float) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the number of runs of each loaded model, and the configurations of those that are not known.

    Waits for the server several times, so it must not be called in the supervisor's own thread.

    Raises:
        CanaryError: the server does not respond.
    """
    n_runs = calls.models(timeout_s=timeout_s)
    configs = {}
    for model in n_runs.keys() - known:
        with contextlib.suppress(CanaryError):  # it may have been unloaded since
            configs[model] = calls.config(model, timeout_s=timeout_s)
    return n_runs, configs


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
