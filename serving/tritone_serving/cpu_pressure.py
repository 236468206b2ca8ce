"""How much processes wait for a processor, from the kernel's own accounting.

A process that gets no processor looks like one that does nothing: its processor time does not grow. What tells the two
apart is the time that it has spent in a run queue, ready to run (`/proc/PID/task/TID/schedstat`, in nanoseconds). For
the machine as a whole there is pressure stall information (`/proc/pressure/cpu` and `memory`, or the cgroup's), and the
time that a hypervisor gave to others ("steal" in `/proc/stat`).

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
_SHORTEST_S: Final = 0.05  # shorter periods say nothing
LARGEST_FACTOR: Final = 20.0


@dataclass(frozen=True)
class Pressure:
    """Shares of a period, each 0 to 1.

    Attributes:
        some: of the time, in which at least one task waited for a processor, or for memory.
        steal: of all processors' time, which the hypervisor gave to others.
    """

    some: float = 0.0
    steal: float = 0.0

    @property
    def patience(self) -> float:
        """Factor for time limits: 1 on a quiet machine, up to 20 where something waits for a processor all the time.

        With one waiting task in the usual way of a machine at work (`some` below a quarter) nothing changes.
        """
        share = max(0.0, (self.some - 0.25) / 0.75, (self.steal - 0.1) / 0.4)
        return 1.0 + (LARGEST_FACTOR - 1.0) * min(1.0, share)


class CpuPressure:
    """Samples the pressure since the sample before; without the kernel's files it is always 0."""

    def __init__(self) -> None:
        self._at_s = time.monotonic()
        self._stalled_us = {resource: _stalled_us(resource) for resource in _PRESSURE_FILES}
        self._steal_ticks = _steal_ticks()
        self._last = Pressure()

    def sample(self) -> Pressure:
        """Return the pressure since the last call, or the value before if that was a moment ago."""
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
    """Return the share of the last ten seconds in which some task waited for a processor; 0 where it is unknown."""
    return _read_pressure("cpu", r"^some avg10=([\d.]+)") / 100


@dataclass(frozen=True)
class CpuTimes:
    """Processor times of processes together, in seconds, since each thread's start.

    Attributes:
        run_s: on a processor.
        wait_s: ready to run, without a processor.
    """

    run_s: float = 0.0
    wait_s: float = 0.0

    def since(self, before: CpuTimes) -> CpuTimes:
        """Return the difference; threads that ended in between are left out."""
        return CpuTimes(max(0.0, self.run_s - before.run_s), max(0.0, self.wait_s - before.wait_s))

    @property
    def active_s(self) -> float:
        """Time with something to do: running, or waiting for a processor."""
        return self.run_s + self.wait_s


def cpu_times(pids: Iterable[int]) -> CpuTimes:
    """Add up the processor times of all threads of processes; those that are gone count nothing."""
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
