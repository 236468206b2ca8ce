"""Time limits and counts of the supervisor; `tritone serve --supervise-*` sets some of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from tritone_serving._exceptions import OptionsError

Level = Literal["info", "warning"]
# What can be wrong with a model or with the server; the label `reason` of the supervisor's metrics.
Reason = Literal["dead", "stopped", "hung", "failing", "ended", "memory", "all_models", "not_loaded"]


@dataclass(frozen=True)
class Problem:
    """What is wrong, as a label for metrics and in words for the log."""

    reason: Reason
    text: str


@dataclass(frozen=True, kw_only=True)
class SupervisionOptions:
    """When the supervisor checks, waits and acts. Times are in seconds on a quiet machine.

    Where something waits for a processor, times that end in a repair are multiplied by up to 20; see
    `cpu_pressure.Pressure.patience`.

    Attributes:
        look_s: between two looks at all processes.
        check_s: between health checks of a model without traffic, if its backend answers them without running it.
        run_s: between checks that run the model; 0 sends none to models of such backends.
        foreign_run_s: the same for models of other backends, which run for every check.
        silent_s: without an answer, while the processes neither run nor wait for a processor.
        busy_s: without an answer, while they do: a long request before the check is no fault.
        missing_s: until a missing or stopped process counts; during a load one may be replaced by another.
        live_s: without an answer of the server itself, while it neither runs nor waits for a processor.
        live_busy_s: the same while it does.
        reload_timeout_s: for a model to be loaded again.
        answer_timeout_s: for its first answer after that.
        first_pause_s: before the second repair of the same thing; each further pause is twice as long.
        longest_reload_pause_s: before a model is reloaded once more.
        longest_restart_pause_s: before the server is restarted once more.
        well_s: how long something must be well before its next repair counts as the first again.
        n_failed_starts: the supervisor gives up when the server has failed to start so many times in a row. A server
            that starts and then ends is restarted without a limit.
        max_memory_bytes: resident memory of the server with its stubs at which it is restarted, or at which one model
            is reloaded if that holds most of it. 0 means 80 % of what the machine or the control group has.
        memory_every_s: between two looks at the memory; it has to be above the limit at three of them in a row.
    """

    look_s: float = 0.4
    check_s: float = 2.0
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
                raise OptionsError(
                    f"{field.name} is {value}; expected a number {'from' if may_be_0 else 'above'} 0 (supervision)"
                )


class Backoff:
    """Pauses between repairs of one thing, each twice as long as the one before."""

    def __init__(self, options: SupervisionOptions, longest_s: float) -> None:
        self._first_s = options.first_pause_s
        self._longest_s = longest_s
        self._well_s = options.well_s
        self._n = 0
        self._last_s = 0.0

    def next_pause_s(self, now_s: float) -> float:
        """Return how long to wait before the repair that is due now: nothing before the first."""
        if now_s - self._last_s > self._well_s:
            self._n = 0
        pause_s = min(self._longest_s, self._first_s * 2 ** (self._n - 1)) if self._n else 0.0
        self._n = min(self._n + 1, 30)
        self._last_s = now_s + pause_s
        return pause_s
