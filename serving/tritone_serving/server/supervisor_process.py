"""Runs one server and cleans up after it, whatever happens to whoever started it.

A process of its own between the launcher and the server, run as a script with the standard library alone:

- the launcher holds the other end of stdin: when that closes, by its stop() or by its death in any form,
  the server is asked to stop, and killed with every Python stub if it does not in time;
- when the server ends by itself, its stubs are ended too;
- then its shared memory and its private folder are removed;
- the output of the server and its stubs goes through a pipe into the log, which is rotated when it reaches its
  maximum size.

Should this process itself be killed, the kernel kills the server with it (PR_SET_PDEATHSIG).
One line of JSON comes in on stdin, the server's pid goes out on stdout, its exit code is the exit code.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Triton 2.51 parses a JSON body with stack memory in proportion to its length, and recursion in proportion
# to its nesting: 4 MB of JSON (20 windows) overflow the usual 8 MB and end the server (CVE-2025-23310 is of
# this kind; fixed upstream in 25.07). Threads get stacks of the process's limit; only what is used is real.
STACK_BYTES = 256 << 20
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GROUP_GONE_TIMEOUT_S = 2.0  # SIGKILL takes a moment to reach a process that holds much memory
LOG_END_TIMEOUT_S = 0.5
_logs: list[_Log] = []


def main() -> int:
    """Supervise the server that stdin describes; answers its exit code as a shell would."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only to write to the wake-up pipe
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher
    # Stubs that outlive the server become children of this process, so that it can wait for their end.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        server = _started(order)
        print(server.pid, flush=True)
        lifeline = sys.stdin.fileno()
        while server.poll() is None and not stopping:
            readable, _, _ = select.select([lifeline, wake_read], [], [])
            if wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            stopping = stopping or (lifeline in readable and not os.read(lifeline, 4096))
        return _ended(server, float(order["stop_timeout_s"]), Path(order["stop_file"]))
    finally:
        for region in Path(order["shared_memory"]).glob(f"{order['prefix']}*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(order["folder"], ignore_errors=True)


def _started(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    server = subprocess.Popen(
        order["command"],
        cwd=order["cwd"],
        env=order["environment"],
        stdin=subprocess.DEVNULL,
        stdout=write_end,
        stderr=write_end,
        start_new_session=True,  # one process group: the server, its stubs and their shells
        preexec_fn=_before_exec,  # noqa: PLW1509  - safe here: this process has one thread
    )
    os.close(write_end)
    log = _Log(read_end, Path(order["log"]), int(order["log_max_bytes"]))
    threading.Thread(target=log.copy, name="log", daemon=True).start()
    _logs.append(log)
    return server


class _Log:
    """Copies the server's output into a file and rotates the file when it becomes too large."""

    def __init__(self, pipe: int, path: Path, max_bytes: int) -> None:
        self._pipe = pipe
        self._path = path
        self._max_bytes = max_bytes
        self.ended = threading.Event()

    def copy(self) -> None:
        """Copy until every process that holds the pipe has ended; a full disk loses output, but blocks nothing."""
        file, size = self._open()
        while True:
            content = os.read(self._pipe, 1 << 16)
            if not content:
                break
            if self._max_bytes and size and size + len(content) > self._max_bytes:
                with contextlib.suppress(OSError):
                    os.close(file)
                    self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                file, size = self._open()
            with contextlib.suppress(OSError):
                size += os.write(file, content)
        self.ended.set()

    def _open(self) -> tuple[int, int]:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            return file, os.fstat(file).st_size
        except OSError:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 0


def _before_exec() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    # The Python backend makes its shared memory, through which every request goes, as readable as the umask lets it.
    os.umask(0o077)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _ended(server: subprocess.Popen[bytes], timeout_s: float, stop_file: Path) -> int:
    if server.poll() is None:
        with contextlib.suppress(OSError):
            stop_file.touch()
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout_s)
    # The stubs end with the server as a rule, and otherwise here: one that is stuck in a run, say.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    code = server.wait()
    deadline = time.monotonic() + GROUP_GONE_TIMEOUT_S
    with contextlib.suppress(ChildProcessError):  # none of the group is left
        while time.monotonic() < deadline:
            if os.waitpid(-server.pid, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    for log in _logs:
        log.ended.wait(LOG_END_TIMEOUT_S)  # the output of a crash
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
