"""CPU and memory pressure, and the time that processes wait for a CPU, from the kernel's accounting.

The CPU time of a process that waits for a CPU does not grow, just like that of an idle process. The two differ in the
time spent in a run queue, ready to run (`/proc/PID/task/TID/schedstat`, in nanoseconds). For the machine as a whole the
kernel reports pressure stall information (`/proc/pressure/cpu` and `memory`, or the cgroup's) and the time that a
hypervisor gave to other guests ("steal" in `/proc/stat`).

Sources: https://docs.kernel.org/accounting/psi.html, https://docs.kernel.org/scheduler/sched-stats.html,
https://man7.org/linux/man-pages/man5/proc_stat.5.html
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PRESSURE_FILES: Final = {
    "cpu": (Path("/sys/fs/cgroup/cpu.pressure"), Path("/proc/pressure/cpu")),
    "memory": (Path("/sys/fs/cgroup/memory.pressure"), Path("/proc/pressure/memory")),
}
_STEAL_FIELD: Final = 8  # of the line "cpu" in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_SHORTEST_S: Final = 0.05  # shorter periods are not significant
LARGEST_FACTOR: Final = 20.0


@dataclass(frozen=True)
class Pressure:
    """Shares of a period, each 0 to 1.

    Attributes:
        some: share of the time in which at least one task waited for a CPU or for memory.
        steal: share of the time of all CPUs that the hypervisor gave to other guests.
    """

    some: float = 0.0
    steal: float = 0.0

    @property
    def patience(self) -> float:
        """Factor for time limits: 1 on an idle machine, up to 20 where some task always waits for a CPU.

        Moderate load (`some` up to 0.25, `steal` up to 0.1) does not raise it.
        """
        share = max(0.0, (self.some - 0.25) / 0.75, (self.steal - 0.1) / 0.4)
        return 1.0 + (LARGEST_FACTOR - 1.0) * min(1.0, share)


class CpuPressure:
    """Samples the pressure since the previous sample; always 0 on kernels that do not report it."""

    def __init__(self) -> None:
        self._at_s = time.monotonic()
        self._stalled_us = {resource: _stalled_us(resource) for resource in _PRESSURE_FILES}
        self._steal_ticks = _steal_ticks()
        self._last = Pressure()

    def sample(self) -> Pressure:
        """Return the pressure since the last call, or the last value if that call was less than 50 ms ago."""
        now_s = time.monotonic()
        passed_s = now_s - self._at_s
        if passed_s < _SHORTEST_S:
            return self._last
        stalled_us = {resource: _stalled_us(resource) for resource in _PRESSURE_FILES}
        steal_ticks = _steal_ticks()
        longest_us = max(stalled_us[resource] - self._stalled_us[resource] for resource in stalled_us)
        self._last = Pressure(
            some=_share(longest_us / 1e6, passed_s),
            steal=_share((steal_ticks - self._steal_ticks) / _TICKS_PER_S, passed_s * (os.cpu_count() or 1)),
        )
        self._at_s, self._stalled_us, self._steal_ticks = now_s, stalled_us, steal_ticks
        return self._last


def recent_pressure() -> float:
    """Return the share of the last ten seconds in which some task waited for a CPU; 0 if unknown."""
    return _read_pressure("cpu", r"^some avg10=([\d.]+)") / 100


@dataclass(frozen=True)
class CpuTimes:
    """Total CPU times of processes, in seconds, since each thread's start.

    Attributes:
        run_s: running on a CPU.
        wait_s: ready to run, but waiting for a CPU.
    """

    run_s: float = 0.0
    wait_s: float = 0.0

    def since(self, before: CpuTimes) -> CpuTimes:
        """Return the difference; threads that ended in between are left out."""
        return CpuTimes(max(0.0, self.run_s - before.run_s), max(0.0, self.wait_s - before.wait_s))

    @property
    def active_s(self) -> float:
        """Time running or waiting for a CPU."""
        return self.run_s + self.wait_s

    @property
    def slowdown(self) -> float:
        """How much longer work takes than without waiting for processors: 1 to 20."""
        if not self.run_s:
            return LARGEST_FACTOR if self.wait_s else 1.0
        return min(LARGEST_FACTOR, self.active_s / self.run_s)


def cpu_times(pids: Iterable[int]) -> CpuTimes:
    """Return the CPU times of all threads of processes; ended processes are ignored."""
    run_ns = wait_ns = 0
    for pid in pids:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                run, wait, _ = (thread / "schedstat").read_text().split()
            except (OSError, ValueError):
                continue
            run_ns += int(run)
            wait_ns += int(wait)
    return CpuTimes(run_ns / 1e9, wait_ns / 1e9)


def _stalled_us(resource: str) -> int:
    """Microseconds since boot in which some task waited for a resource."""
    return int(_read_pressure(resource, r"^some .*total=(\d+)"))


def _read_pressure(resource: str, pattern: str) -> float:
    for path in _PRESSURE_FILES[resource]:
        try:
            found = re.search(pattern, path.read_text(), re.M)
        except OSError:
            continue
        if found:
            return float(found[1])
    return 0.0


def _steal_ticks() -> int:
    try:
        with Path("/proc/stat").open() as file:
            fields = file.readline().split()
    except OSError:
        return 0
    return int(fields[_STEAL_FIELD]) if len(fields) > _STEAL_FIELD else 0


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
