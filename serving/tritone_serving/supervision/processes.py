"""Processes of a server as the kernel reports them: Python stubs with their models and states, and memory.

Triton 2.51 starts each instance of a Python model as a process of its own and never starts one again. When it is gone
or stopped, every request that meets it fails after a second, and the model stays «ready».
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

_STUB = b"triton_python_backend_stub"
_INSTANCE_ARGUMENT = 8  # `genre_cnn_0_1`: model, group, instance
_FORGET_OTHERS_S: Final = 30.0


@dataclass(frozen=True)
class Stub:
    """A Python process that runs an instance of a model.

    Attributes:
        state: letter as in `ps`: R runs, S waits, D waits for a device, T is stopped, t is traced.
    """

    pid: int
    model: str
    state: str

    @property
    def stopped(self) -> bool:
        """Return whether it is suspended, by SIGSTOP or a debugger."""
        return self.state in "Tt"


class StubScanner:
    """Finds the stubs of one server periodically while reading little of /proc.

    Ids of other processes are remembered for 30 s, so that on a machine with many processes a scan costs little more
    than one listing of /proc. `psutil.process_iter` would read the status of every process at each scan, several times
    a second.
    """

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._known: dict[int, Stub] = {}
        self._others: set[int] = set()
        self._forget_s = time.monotonic() + _FORGET_OTHERS_S

    def scan(self) -> list[Stub]:
        """Return the live stubs; a zombie is not alive."""
        now_s = time.monotonic()
        if now_s > self._forget_s:  # process ids are reused
            self._others.clear()
            self._forget_s = now_s + _FORGET_OTHERS_S
        found: dict[int, Stub] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal() or (pid := int(folder.name)) in self._others:
                continue
            stub = self._look_at(pid, folder)
            if stub is not None:
                found[pid] = stub
        self._known = found
        return list(found.values())

    def _look_at(self, pid: int, folder: Path) -> Stub | None:
        try:
            fields = _stat(folder)
            if int(fields[2]) != self._server_pid:
                self._others.add(pid)
                return None
            if fields[0] in "ZX":
                return None
            known = self._known.get(pid)
            if known is not None:
                return replace(known, state=fields[0])
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended while it was read
            return None
        # The server itself, or a stub between fork and exec, which the next scan must look at again.
        if not arguments[0].endswith(_STUB) or len(arguments) <= _INSTANCE_ARGUMENT:
            return None
        model = arguments[_INSTANCE_ARGUMENT].decode("utf-8", "replace").rsplit("_", 2)[0]
        return Stub(pid, model, fields[0])


def stubs_of(server_pid: int) -> list[Stub]:
    """Return the live stubs in a server's process group."""
    return StubScanner(server_pid).scan()


def is_stopped(pid: int) -> bool:
    """Return whether a process is suspended, as `Stub.stopped`."""
    try:
        return _stat(Path(f"/proc/{pid}"))[0] in "Tt"
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return _stat(Path(f"/proc/{pid}"))[0] not in "ZX"
    except OSError:
        return False


def _stat(folder: Path) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: state, ppid, pgrp, ..."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


# Of cgroups version 2 and version 1, as visible in a container.
_LIMIT_FILES: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of processes together, in MiB; a page that several share counts once.

    Processes that have ended are ignored.
    """
    n_bytes = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            n_bytes += psutil.Process(pid).memory_full_info().pss
    return n_bytes / (1 << 20)


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Return the total resident anonymous memory of processes, in bytes; cheaper to read than `memory_mb`.

    psutil does not report it.

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
    """Return a process and all its descendants: of a server, the server and its stubs."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]
