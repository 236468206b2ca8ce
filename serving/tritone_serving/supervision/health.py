"""Health checks of a running server's process and of each of its models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, Final

from tritone.constants import CLASSIFIER_PARAMETER
from tritone_serving._exceptions import CanaryError
from tritone_serving.calls import Calls
from tritone_serving.canary import check_health, make_inputs, run_canary
from tritone_serving.server.triton_server import TritonServer
from tritone_serving.supervision.cpu_pressure import CpuTimes, cpu_times
from tritone_serving.supervision.options import HealthProblem, SupervisionOptions
from tritone_serving.supervision.processes import Stub, is_stopped

OUR_BACKENDS: Final = frozenset({"onnxruntime", "composer", "cf_ensemble", "events", "recordings", "renderer"})
ACTIVE_SHARE: Final = 0.05  # of one CPU: a stub that waits for a request uses less, one that computes much more
STARVED_SHARE: Final = 0.2  # of the time that the server's own threads wait for a CPU
N_FAILED_CHECKS: Final = 3  # Triton reports a stub that gets no CPU for a second as dead
NOT_HEALTHY: Final = "not healthy"
DOUBT_S: Final = 0.5  # between the answer to one check and the next check because of a process that seems stuck
UNSEEN_CHECK_S: Final = 2.0  # between checks while it cannot be seen whether the processes are stuck
OnCheck = Callable[[str, str], None]


def answers_health_checks(config: Any) -> bool:
    """Return whether a model may get checks that its backend answers without outputs and without running it.

    Triton's response cache would store such a response and return it to a caller's request with the same inputs.
    """
    try:
        make_inputs(config)
    except CanaryError:  # a data type that no check can carry
        return False
    return config.backend in OUR_BACKENDS and not config.response_cache.enable


class ModelHealth:
    """Watches one model; `look` is called periodically and never blocks.

    Attributes:
        n_expected: how many processes the model has when it is healthy; 0 for a native backend.
        called_model: name of the model that it calls in every request and waits for; empty if there is none.
        has_answered: whether a check or a caller's request was answered since the watch began.
    """

    def __init__(
        self,
        model: str,
        config: Any,
        *,
        calls: Calls,
        pool: Executor,
        options: SupervisionOptions,
        health_token: str,
        server_pid: int,
        on_check: OnCheck,
        n_expected: int,
    ) -> None:
        """Begin to watch.

        Args:
            config: from `Calls.config`.
            health_token: the server's.
            on_check: called with the model's name and `answered` or a `CanaryError.failure` after each check.
            n_expected: as the attribute. Not counted, since a process may end before the first look.
        """
        self.model = model
        self.config = config
        # Reading a parameter that is not there would add it.
        has_called = CLASSIFIER_PARAMETER in config.parameters
        self.called_model: str = config.parameters[CLASSIFIER_PARAMETER].string_value if has_called else ""
        self.has_answered = False
        self._calls = calls
        self._pool = pool
        self._options = options
        self._token = health_token
        self._server_pid = server_pid
        self._on_check = on_check
        self.n_expected = n_expected
        self._missing_since_s: float | None = None
        self._n_runs: int | None = None
        now_s = time.monotonic()
        self._answered_s = now_s
        self._next_check_s = now_s
        self._next_run_s = now_s + options.run_s
        self._answers_checks = answers_health_checks(config)
        self._check: Future[None] | None = None
        self._checked_s = 0.0
        self._sent_s = 0.0
        self._n_failed = 0
        self._called: Sequence[Stub] = ()
        self._sampled_s = 0.0
        self._stub_times = CpuTimes()
        self._server_times = CpuTimes()

    @property
    def is_awaiting_answer(self) -> bool:
        """Return whether a check has been sent and not yet answered."""
        return self._check is not None

    def look(
        self, stubs: Sequence[Stub], n_runs: int, *, patience: float, called: Sequence[Stub] = ()
    ) -> HealthProblem | None:
        """Check the model once.

        Args:
            stubs: the model's processes; empty for a native backend.
            n_runs: number of runs that it has finished so far.
            patience: factor for time limits, from the pressure on the machine's CPUs.
            called: the processes of `called_model`; while they are busy, this model may wait for them.

        Returns:
            The detected problem, if any.
        """
        now_s = time.monotonic()
        self._called = called
        if self._n_runs is not None and n_runs != self._n_runs:  # traffic shows that the model responds
            self._answered(now_s)
            self._next_check_s = max(self._next_check_s, now_s + self._interval_s(stubs))
        self._n_runs = n_runs
        return self._missing(stubs, now_s) or self._unanswered(stubs, now_s, patience)

    def _missing(self, stubs: Sequence[Stub], now_s: float) -> HealthProblem | None:
        n_stopped = sum(stub.stopped for stub in stubs)
        n_live = len(stubs) - n_stopped
        if n_live >= self.n_expected:
            self._missing_since_s = None
            return None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if now_s - self._missing_since_s < self._options.missing_s:
            return None
        n_dead = self.n_expected - n_live - n_stopped
        counts = [f"{n} {word}" for n, word in ((n_dead, "dead"), (n_stopped, "stopped")) if n > 0]
        return HealthProblem(
            "dead" if n_dead > 0 else "stopped", f"of {self.n_expected} Python processes {' and '.join(counts)}"
        )

    def _unanswered(self, stubs: Sequence[Stub], now_s: float, patience: float) -> HealthProblem | None:
        if self._check is None:
            # A check that runs the model, since its backend is not ours, is not sent on mere suspicion.
            is_doubtful = self._answers_checks and now_s >= self._checked_s + DOUBT_S and any(s.stuck for s in stubs)
            if is_doubtful or now_s >= self._next_check_s:
                self._send(stubs, now_s, patience)
            if is_doubtful:
                self._sample(stubs, now_s)
            return None
        if self._check.done():
            return self._finished(self._check, now_s, patience)
        if self._sampled_s < max(self._sent_s, self._answered_s):  # most checks are answered before the next look
            self._sample(stubs, now_s)
        waited_s = now_s - max(self._sent_s, self._answered_s)
        passed_s = now_s - self._sampled_s
        if passed_s < self._options.silent_s * patience:
            return None
        is_busy, slowdown = self._activity(stubs, passed_s)
        self._sample(stubs, now_s)  # the next period without activity has to be a whole one
        if is_busy and waited_s < self._options.busy_s * slowdown:
            return None
        state = "its processes are busy" if is_busy else "its processes are idle"
        return HealthProblem("hung", f"no answer for {waited_s:.1f} s, and {state}")

    def _send(self, stubs: Sequence[Stub], now_s: float, patience: float) -> None:
        self._sent_s = now_s
        timeout_s = self._options.busy_s * patience
        answers_checks = bool(stubs) and self._answers_checks
        if answers_checks and not (self._options.run_s and now_s >= self._next_run_s):
            self._check = self._pool.submit(
                check_health, self._calls, self.model, self.config, token=self._token, timeout_s=timeout_s
            )
        else:
            self._next_run_s = now_s + self._options.run_s
            self._check = self._pool.submit(self._run_model, timeout_s)
        self._next_check_s = now_s + (self._interval_s(stubs) if answers_checks else self._options.foreign_run_s)

    def _interval_s(self, stubs: Sequence[Stub]) -> float:
        """Return the time between two checks that do not run the model."""
        is_unseen = any(stub.stuck is None for stub in stubs)
        return min(self._options.check_s, UNSEEN_CHECK_S) if is_unseen else self._options.check_s

    def _run_model(self, timeout_s: float) -> None:
        run_canary(self._calls, self.model, self.config, timeout_s=timeout_s)

    def _finished(self, check: Future[None], now_s: float, patience: float) -> HealthProblem | None:
        self._check = None
        self._checked_s = now_s
        error = check.exception()
        failure = error.failure if isinstance(error, CanaryError) else "answered" if error is None else "broken"
        self._on_check(self.model, failure)
        if failure not in ("broken", "silent"):  # a refusal is a response, too; `ServerHealth` detects a lost server
            self._n_failed = 0
            self._answered(now_s)
            return None
        self._next_check_s = now_s  # ask again at once
        self._n_failed += 1
        text = str(error).removeprefix(f"{self.model}: ")
        # Triton reports a process that gets no CPU as unhealthy, like a dead one. `_missing` detects dead ones.
        is_starved = patience > 1
        n_allowed = N_FAILED_CHECKS * (4 if is_starved and NOT_HEALTHY in text else 1)
        return HealthProblem("failing", text) if self._n_failed >= n_allowed else None

    def _answered(self, now_s: float) -> None:
        self._answered_s = now_s
        self.has_answered = True
        self._n_failed = 0

    def _sample(self, stubs: Sequence[Stub], now_s: float) -> None:
        self._sampled_s = now_s
        self._stub_times = cpu_times(stub.pid for stub in (*stubs, *self._called))
        self._server_times = cpu_times([self._server_pid])

    def _activity(self, stubs: Sequence[Stub], passed_s: float) -> tuple[bool, float]:
        """Return whether the model is busy and by which factor its work is slowed down, since the last sample.

        It is busy if its processes, or those of the model that it calls, run or wait for a CPU, or if the server's
        threads wait for one. The factor compares
        with a machine without other load; a model that keeps all CPUs busy itself has the factor 1.
        """
        stubs_times = cpu_times(stub.pid for stub in (*stubs, *self._called)).since(self._stub_times)
        server_times = cpu_times([self._server_pid]).since(self._server_times)
        is_busy = stubs_times.active_s > ACTIVE_SHARE * passed_s or server_times.wait_s > STARVED_SHARE * passed_s
        return is_busy, max(stubs_times.slowdown, server_times.slowdown)


LIVE_EVERY_S: Final = 1.0
STOPPED_S: Final = 0.3


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

    def look(self, *, patience: float) -> HealthProblem | None:
        """Check the process once.

        Args:
            patience: factor for time limits, from the pressure on the machine's CPUs.
            called: the processes of `called_model`; while they are busy, this model may wait for them.

        Returns:
            The detected problem, if any.
        """
        exit_code = self._server.wait(0)
        if exit_code is not None:
            how = f"killed by signal {exit_code - 128}" if exit_code > 128 else f"exit code {exit_code}"
            return HealthProblem("ended", f"the server ended by itself ({how})")
        now_s = time.monotonic()
        if not is_stopped(self._server.pid):
            self._stopped_since_s = None
        elif self._stopped_since_s is None:
            self._stopped_since_s = now_s
        elif now_s - self._stopped_since_s > STOPPED_S:
            return HealthProblem("stopped", "the server's process is stopped")
        return self._silent(now_s, patience)

    def _silent(self, now_s: float, patience: float) -> HealthProblem | None:
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
        return HealthProblem("hung", f"the server has not answered for {silent_s:.1f} s, and its process {state}")

    def _sample(self, now_s: float) -> None:
        """Store the server's CPU times when a check is first found unanswered."""
        if self._times_s < self._asked_s and self._silent_since_s is None:
            self._times, self._times_s = cpu_times([self._server.pid]), now_s

    def _is_live(self, timeout_s: float) -> bool:
        return self._server.is_live(timeout_s=timeout_s) or self._answers_grpc(timeout_s)
