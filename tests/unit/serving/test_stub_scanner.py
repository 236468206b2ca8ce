"""Tests of how the stubs of a server are found, and of whether they are stuck in a request."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tritone_serving.supervision import processes
from tritone_serving.supervision.processes import Stub, StubScanner

# Waits for a line as Triton's stub waits for a message, waking up once in a while, and then does what the line says.
PROGRAM = """
import select, sys, time
print("ready", flush=True)
while True:
    if not select.select([sys.stdin], [], [], 0.1)[0]:
        continue
    line = sys.stdin.readline().strip()
    if line == "hang":
        time.sleep(3600)
    until = time.monotonic() + float(line)
    while time.monotonic() < until:
        pass
"""
NAME = "triton_python_backend_stub"


@pytest.fixture
def server_pid() -> Iterator[int]:
    """A process that leads the process group of its stubs."""
    with subprocess.Popen(["sleep", "60"], process_group=0) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def stub(server_pid: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a stub of the server."""
    link = tmp_path / NAME
    link.symlink_to(sys.executable)
    arguments = [str(link), "-I", "-c", PROGRAM, "4", "5", "6", "7", "genre_cnn_0_1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, process_group=server_pid, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.fixture
def scanner(server_pid: int) -> Iterator[StubScanner]:
    with closing(StubScanner(server_pid)) as made:
        yield made


def scan_until(scanner: StubScanner, condition: Callable[[list[Stub]], bool], timeout_s: float = 10.0) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition(scanner.scan()):
            return True
        time.sleep(0.05)
    return False


def send(stub: subprocess.Popen[bytes], line: str) -> None:
    assert stub.stdin is not None
    stub.stdin.write(f"{line}\n".encode())
    stub.stdin.flush()


def is_stuck(value: bool | None) -> Callable[[list[Stub]], bool]:
    return lambda found: [each.stuck for each in found] == [value]


def test_stub_that_waits_for_requests_is_not_stuck_and_one_that_blocks_is(
    scanner: StubScanner, stub: subprocess.Popen[bytes]
) -> None:
    assert [(each.pid, each.model, each.stuck) for each in scanner.scan()] == [(stub.pid, "genre_cnn", None)]
    assert scan_until(scanner, is_stuck(False))
    send(stub, "hang")
    assert scan_until(scanner, is_stuck(True))
    assert not scan_until(scanner, is_stuck(False), timeout_s=0.5)


def test_stub_that_computes_is_not_stuck(scanner: StubScanner, stub: subprocess.Popen[bytes]) -> None:
    assert scan_until(scanner, is_stuck(False))
    send(stub, "0.7")
    assert not scan_until(scanner, is_stuck(True), timeout_s=1.2)


def test_stopped_and_ended_stubs_are_seen_at_the_next_scan(scanner: StubScanner, stub: subprocess.Popen[bytes]) -> None:
    assert [each.stopped for each in scanner.scan()] == [False]
    stub.send_signal(signal.SIGSTOP)
    assert scan_until(scanner, lambda found: [each.stopped for each in found] == [True])
    stub.kill()
    assert scan_until(scanner, lambda found: found == [])
    stub.wait()
    assert scanner.scan() == []


@pytest.mark.usefixtures("stub")
def test_place_that_this_user_may_not_see_is_unknown(scanner: StubScanner, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.pread

    def refuse(file: int, n_bytes: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{file}").readlink().name == "syscall":
            raise PermissionError
        return read(file, n_bytes, offset)

    monkeypatch.setattr(processes.os, "pread", refuse)
    assert is_stuck(None)(scanner.scan())
    assert not scan_until(scanner, is_stuck(False), timeout_s=0.5)


@pytest.mark.usefixtures("stub")
def test_place_that_this_kernel_does_not_report_is_unknown(
    scanner: StubScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def absent(path: Any, *arguments: Any) -> int:
        if str(path).endswith("syscall"):
            raise FileNotFoundError
        return opened(path, *arguments)

    monkeypatch.setattr(processes.os, "open", absent)
    assert is_stuck(None)(scanner.scan())
    assert not scan_until(scanner, is_stuck(False), timeout_s=0.5)


def test_files_of_ended_stubs_are_closed(scanner: StubScanner, stub: subprocess.Popen[bytes]) -> None:
    def n_open() -> int:  # of the stub; other tests' files may be closed meanwhile
        links = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(entry.readlink()))
        return sum(link.startswith(f"/proc/{stub.pid}/") for link in links)

    assert n_open() == 0
    scanner.scan()
    assert n_open() == 3
    stub.kill()
    stub.wait()
    assert scanner.scan() == []
    assert n_open() == 0
