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
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_STUB = b"triton_python_backend_stub"
_INSTANCE_ARGUMENT = 8  # `genre_cnn_0_1`: model, group, instance
_FORGET_OTHERS_S: Final = 30.0
_STAT_BYTES: Final = 1024  # more than /proc/PID/stat has


@dataclass(frozen=True)
class Stub:
    """A Python process that runs an instance of a model.

    Attributes:
        state: letter as in `ps`: R runs, S waits, D waits for a device, T is stopped, t is traced.
        stuck: whether its main thread, which takes the server's requests, waits elsewhere than for a request and has
            not run since the scan before; None while the place where it waits for requests is not known.
    """

    pid: int
    model: str
    state: str
    stuck: bool | None = None

    @property
    def stopped(self) -> bool:
        """Return whether it is suspended, by SIGSTOP or a debugger."""
        return self.state in "Tt"


class StubScanner:
    """Finds the stubs of one server periodically while reading little of /proc.

    Ids of other processes are remembered for 30 s, and the files of known stubs stay open. So a scan costs one listing
    of /proc and three short reads for each stub. `psutil.process_iter` would read the status of every process at each
    scan, several times a second.
    """

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._known: dict[int, _Process] = {}
        self._others = {server_pid}
        self._forget_s = time.monotonic() + _FORGET_OTHERS_S

    def scan(self) -> list[Stub]:
        """Return the live stubs; a zombie is not alive."""
        now_s = time.monotonic()
        if now_s > self._forget_s:  # process ids are reused
            self._others = {self._server_pid}
            self._forget_s = now_s + _FORGET_OTHERS_S
        found: list[Stub] = []
        for pid, process in list(self._known.items()):
            stub = process.look()
            if stub is None:
                self._known.pop(pid).close()
            else:
                found.append(stub)
        for name in os.listdir("/proc"):  # noqa: PTH208  - without a Path for each process
            if name.isdecimal() and (pid := int(name)) not in self._others and pid not in self._known:
                opened = self._opened(pid)
                if opened is not None:  # if it has just ended, the next scan closes it
                    self._known[pid] = opened
                    if (stub := opened.look()) is not None:
                        found.append(stub)
        return found

    def close(self) -> None:
        """Close the files of the known stubs."""
        while self._known:
            self._known.popitem()[1].close()

    def _opened(self, pid: int) -> _Process | None:
        """Return a new stub's process; None if the process is something else."""
        try:
            if int(_stat(pid)[2]) != self._server_pid:
                self._others.add(pid)
                return None
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            # A stub between fork and exec, which the next scan must look at again.
            if not arguments[0].endswith(_STUB) or len(arguments) <= _INSTANCE_ARGUMENT:
                return None
            return _Process(pid, arguments[_INSTANCE_ARGUMENT].decode("utf-8", "replace").rsplit("_", 2)[0])
        except OSError:  # it ended while it was read
            return None


class _Process:
    """The open /proc files of a stub, and the place in the program where its main thread waits for requests.

    The place is the stack and instruction pointer of a blocked thread (`/proc/PID/syscall`). The main thread of
    Triton's stub wakes up once a second while it waits for a request. A thread that ran and is at the same place again
    is therefore waiting there, and a thread that is blocked elsewhere is in the middle of a request.

    Sources: https://docs.kernel.org/scheduler/sched-stats.html,
    https://man7.org/linux/man-pages/man5/proc_pid_syscall.5.html
    """

    def __init__(self, pid: int, model: str) -> None:
        self._pid = pid
        self._model = model
        self._files: list[int] = []
        self._n_runs = b""
        self._place: list[bytes] = []
        self._waiting_place: list[bytes] = []
        try:
            for name in ("stat", f"task/{pid}/schedstat", f"task/{pid}/syscall"):
                self._files.append(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            if not self._files:
                raise

    def look(self) -> Stub | None:
        """Return the stub; None if the process has ended."""
        try:
            state = _fields(os.pread(self._files[0], _STAT_BYTES, 0))[0]
        except OSError:
            return None
        return None if state in "ZX" else Stub(self._pid, self._model, state, self._is_stuck())

    def close(self) -> None:
        for file in self._files:
            os.close(file)

    def _is_stuck(self) -> bool | None:
        try:
            n_runs = os.pread(self._files[1], 64, 0).split()[2]
            # "running", or: number, arguments, stack pointer, instruction pointer
            place = os.pread(self._files[2], 256, 0).split()[1:][-2:]
        except (OSError, IndexError):  # not readable for this user, or not on this kernel
            return None
        has_run = n_runs != self._n_runs
        is_same = bool(place) and place == self._place
        self._n_runs, self._place = n_runs, place
        if has_run and is_same:
            self._waiting_place = place
        if not self._waiting_place:
            return None
        return is_same and not has_run and place != self._waiting_place


def stubs_of(server_pid: int) -> list[Stub]:
    """Return the live stubs in a server's process group."""
    with closing(StubScanner(server_pid)) as scanner:
        return scanner.scan()


def is_stopped(pid: int) -> bool:
    """Return whether a process is suspended, as `Stub.stopped`."""
    try:
        return _stat(pid)[0] in "Tt"
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: state, ppid, pgrp, ..."""
    file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _fields(os.read(file, _STAT_BYTES))
    finally:
        os.close(file)


def _fields(stat: bytes) -> list[str]:
    return stat.rpartition(b")")[2].decode().split()


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
