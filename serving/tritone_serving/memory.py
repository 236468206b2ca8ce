"""What processes hold in memory, counted so that a sum over a server and its stubs is what the machine loses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def memory_mb(pids: Iterable[int]) -> float:
    """Proportional set size of processes together, in MiB: a page that several share counts once.

    Processes that have ended count nothing.
    """
    total_kb = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kb += sum(int(kilobytes) for kilobytes in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.M))
    return total_kb / 1024


def family(pid: int) -> list[int]:
    """A process and all its descendants: of a server, itself and its stubs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found
