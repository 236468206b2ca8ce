"""Time limits and counts of the supervisor; `tritone serve --supervise-*` sets some of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from tritone_serving._exceptions import OptionsError

Level = Literal["info", "warning"]
# Kinds of problems of a model or the server; the label `reason` of the supervisor's metrics.
ProblemReason = Literal["dead", "stopped", "hung", "failing", "ended", "memory", "all_models", "not_loaded"]


@dataclass(frozen=True)
class HealthProblem:
    """A problem of a model or the server, with a label for metrics and a message for the log."""

    reason: ProblemReason
    text: str


@dataclass(frozen=True, kw_only=True)
class SupervisionOptions:
    """Time limits and thresholds of the supervisor. Times are in seconds on an idle machine.

    On a busy machine, limits after which something is repaired are multiplied by up to 20; see
    `cpu_pressure.Pressure.patience`.

    Attributes:
        look_s: interval between two looks at all processes.
        check_s: interval between health checks of a model without traffic, if its backend answers them without running
            it. A model of such a backend is also checked when one of its processes is stuck in a request; see
            `processes.Stub`.
        run_s: interval between checks that run the model; 0 sends none to models of such backends.
        foreign_run_s: interval between checks of models of other backends, which run for every check.
        silent_s: time without an answer until a model is hung, if its processes neither run nor wait for a CPU.
        busy_s: the same if they do, since a long request may be in front of the check.
        missing_s: time until a missing or stopped process counts; during a load one process may replace another.
        live_s: time without an answer until the server is hung, if it neither runs nor waits for a CPU.
        live_busy_s: the same if it does.
        reload_timeout_s: time limit for reloading a model.
        answer_timeout_s: time limit for a model's first answer after a reload.
        first_pause_s: pause before the second repair of the same model or server; each further pause doubles.
        longest_reload_pause_s: longest pause before a model is reloaded.
        longest_restart_pause_s: longest pause before the server is restarted.
        well_s: time without a problem after which the next repair counts as the first again.
        n_failed_starts: number of failed starts in a row after which the supervisor gives up. A server that starts and
            then ends is restarted without a limit.
        max_memory_bytes: resident memory of the server and its stubs at which the server is restarted, or one model
            reloaded if it holds more than half. 0 means 80 % of the memory of the machine or the cgroup.
        memory_every_s: interval between memory measurements; three in a row must exceed the limit.
    """

    look_s: float = 0.25
    check_s: float = 10.0
    run_s: float = 60.0
    foreign_run_s: float = 10.0
    silent_s: float = 1.0
    busy_s: float = 60.0
    missing_s: float = 0.3
    live_s: float = 1.5
    live_busy_s: float = 20.0
    reload_timeout_s: float = 60.0
    answer_timeout_s: float = 10.0
    first_pause_s: float = 0.5
    longest_reload_pause_s: float = 10.0
    longest_restart_pause_s: float = 5.0
    well_s: float = 60.0
    n_failed_starts: int = 5
    max_memory_bytes: int = 0
    memory_every_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            may_be_0 = field.name in ("run_s", "max_memory_bytes", "first_pause_s")
            if not (value >= 0 if may_be_0 else value > 0):
                raise OptionsError(f"{field.name} is {value}; expected a number {'from' if may_be_0 else 'above'} 0")


class Backoff:
    """Pauses between repairs of a model or the server, each twice as long as the one before."""

    def __init__(self, options: SupervisionOptions, longest_s: float) -> None:
        self._first_s = options.first_pause_s
        self._longest_s = longest_s
        self._well_s = options.well_s
        self._n = 0
        self._last_s = 0.0

    def next_pause_s(self, now_s: float) -> float:
        """Return the pause in seconds before the repair that is due now: 0 before the first."""
        if now_s - self._last_s > self._well_s:
            self._n = 0
        pause_s = min(self._longest_s, self._first_s * 2 ** (self._n - 1)) if self._n else 0.0
        self._n = min(self._n + 1, 30)
        self._last_s = now_s + pause_s
        return pause_s
