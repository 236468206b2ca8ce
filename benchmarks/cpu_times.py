"""CPU time of processes and of the machine, as the kernel reports them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_BUSY: Final = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of the line "cpu" in /proc/stat
_STEAL: Final = 7


@dataclass(frozen=True)
class MachineTimes:
    """CPU times of all cores since the start of the machine, in seconds.

    Attributes:
        busy_s: time in which this machine ran something.
        steal_s: time in which the hypervisor ran other guests although this machine had work.
    """

    busy_s: float
    steal_s: float


def machine_times(text: str | None = None) -> MachineTimes:
    """Read the times from /proc/stat, or from its text."""
    text = Path("/proc/stat").read_text() if text is None else text
    ticks = [int(field) for field in text.split("\n", 1)[0].split()[1:]]
    return MachineTimes(sum(ticks[at] for at in _BUSY) / _TICKS_PER_S, ticks[_STEAL] / _TICKS_PER_S)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of processes and of their children that have ended, in seconds."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, and its parent counts it
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S
