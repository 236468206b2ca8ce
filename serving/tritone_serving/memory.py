"""What processes hold in memory, counted so that a sum over a server and its stubs is what the machine loses."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Of cgroups version 2 and version 1, as visible in a container.
_LIMIT_FILES: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


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


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Return the total resident anonymous memory of processes, in bytes; cheaper to read than `memory_mb`.

    Files that are mapped, such as libraries and artifacts, are left out: the kernel can drop them at any time.
    """
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)
        total += int(found[1]) << 10 if found else 0
    return total


def memory_limit_bytes() -> int:
    """Return the memory that this process and its children may use: the cgroup's limit, or the machine's memory."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMIT_FILES:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            limits.append(int(path.read_text()))
    return min(limit for limit in limits if limit > 0)


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
